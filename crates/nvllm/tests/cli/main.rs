//! The binary as a user runs it: what it prints, what it says to bad input, how it ends.

mod basics;
mod bench;
mod chat;
mod chat_terminal;
mod doctor;
mod ends;
mod eval;
mod generate;
mod limits;
mod models;
mod out;
mod quantize;
mod serve;
mod support;
mod verify;
mod words;

// The hub that the engine's own tests fetch from.
#[allow(dead_code)]
#[path = "../../../nvllm-engine/tests/hub/mock.rs"]
mod mock;
#[allow(dead_code)]
#[path = "../../../nvllm-engine/tests/hub/server.rs"]
mod server;
