//! What the kernels' files say to those who launch them: tiles, sizes of shared memory, numbers of
//! flags. Of `kernels/linear/small_m.cu` it is in `linear::small_m`.
//!
//! Each is written once, in C++. `build.rs` makes a constant or a function of Rust of each
//! `constexpr int` and `constexpr bool`, of each macro that is a number and of each member of an
//! `enum` that stands at the top of a file; `kernels/README.md` says what it reads. Threads of a
//! block are read from the compiled kernel (`compile/entries.rs`), registers and static shared
//! memory are in `docs/kernels.md`.

#![allow(clippy::all, clippy::pedantic, dead_code, unused_imports, unused_parens, non_snake_case)]
#![allow(non_upper_case_globals)]

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
