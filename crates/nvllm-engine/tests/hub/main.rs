//! Fetching models, against a hub on this machine.

mod mock;
mod server;

mod cache;
mod faults;
mod fetch;
mod gguf;
mod inventory;
mod names;
mod remove;
