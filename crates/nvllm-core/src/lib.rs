//! the traits, types, tape and reference backend
