//! requests, KV blocks and step planning
