//! Requests and answers as they are on the wire: types, field by field, and nothing else.
//!
//! Every field of a request is optional here, and `null` is as good as absent: what is missing or
//! out of range is said by [`valid`](crate::valid), by name.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod info;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod responses;
pub(crate) mod sampling;
pub(crate) mod shared;
pub(crate) mod structured;
pub(crate) mod tokenize;
pub(crate) mod tools;
