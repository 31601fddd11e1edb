//! The server over real sockets, with a scripted engine: who is let in, who is waited for, how
//! connections and the server end.

mod clients;
mod connections;
mod device;
mod doors;
mod ends;
mod spans;
mod wire;

#[allow(dead_code)]
#[path = "../http/support.rs"]
mod support;
