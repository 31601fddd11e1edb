//! The server as its clients meet it, over a scripted engine and without a socket: what is read,
//! what is refused, what is sent, byte for byte where clients care.

mod any_body;
mod chat;
mod completions;
mod embeddings;
mod errors;
mod info;
mod messages;
mod metrics;
mod openapi;
mod page;
mod reasoning;
mod responses;
mod structured;
mod support;
mod tokenize;
mod tools;
