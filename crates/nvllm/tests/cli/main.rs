//! The binary as a user runs it: what it prints, what it says to bad input, how it ends.

mod basics;
mod chat;
mod chat_terminal;
mod ends;
mod generate;
mod support;
