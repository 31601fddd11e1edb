//! the parity suite every backend passes
