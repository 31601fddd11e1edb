//! Every kernel on every instruction set that the running machine has, against f64 arithmetic and
//! against itself.
//!
//! One executable without outside files, so that it can be carried to a machine with other
//! instruction sets and run there.

mod attention;
mod coded;
mod linear;
mod pool;
mod rows;
mod support;
