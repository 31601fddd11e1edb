//! `nvllm serve` as its clients meet it: the program itself, the demo model, a socket.
//!
//! What takes minutes is ignored here and run by hand:
//! `cargo test --workspace --release --test server -- --ignored --nocapture`.

mod bench;
mod load;
mod page;
mod serving;
mod support;
mod tools;
