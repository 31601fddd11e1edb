//! The binary as a user runs it: what it prints, what it says to bad input, how it ends.

mod basics;
mod ends;
mod generate;
mod limits;
mod out;
mod support;
mod words;
