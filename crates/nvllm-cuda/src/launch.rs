//! A kernel launch as data: made once at load, run every step with the step's extents.

use std::ffi::c_void;

use cudarc::driver::result;
use nvllm_core::Rows;

use crate::device::Device;
use crate::error::{Doing, Result};
use crate::memory::Address;
use crate::modules::Function;

/// The extents that launches are sized for: those of the step, or of its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Extents {
    pub tokens: usize,
    pub outputs: usize,
    pub seqs: usize,
}

impl Extents {
    pub(crate) fn rows(self, rows: Rows) -> usize {
        rows.resolve(self.tokens, self.outputs, self.seqs)
    }
}

/// One dimension of a grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Dim {
    /// Always as many.
    Fixed(usize),
    /// One block for each `per` rows.
    Rows { rows: Rows, per: usize },
}

impl Dim {
    /// A block for each row.
    pub(crate) const fn each(rows: Rows) -> Self {
        Self::Rows { rows, per: 1 }
    }

    fn len(self, extents: Extents) -> u32 {
        match self {
            Self::Fixed(n) => n as u32,
            Self::Rows { rows, per } => extents.rows(rows).div_ceil(per) as u32,
        }
    }
}

/// One launch.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub function: Function,
    pub grid: [Dim; 3],
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory, in bytes.
    pub shared: u32,
    pub args: Args,
}

impl Launch {
    /// A grid of one dimension.
    pub(crate) fn new(function: Function, rows: Dim, block: u32, args: Args) -> Self {
        Self { function, grid: [rows, Dim::Fixed(1), Dim::Fixed(1)], block, shared: 0, args }
    }

    /// The second dimension of the grid.
    pub(crate) fn by(mut self, dim: Dim) -> Self {
        self.grid[1] = dim;
        self
    }

    /// Puts it on the stream; nothing where there are no rows.
    pub(crate) fn run(&self, device: &Device, extents: Extents) -> Result<()> {
        let grid = self.grid.map(|dim| dim.len(extents));
        if grid.contains(&0) {
            return Ok(());
        }
        let mut pointers: Vec<*mut c_void> =
            self.args.0.iter().map(|arg| std::ptr::from_ref(arg).cast_mut().cast()).collect();
        // SAFETY: the arguments are those of the kernel's signature (see `Args`), their addresses those of live buffers that hold
        // the extents that the step was checked against.
        unsafe {
            result::launch_kernel(
                self.function.0,
                (grid[0], grid[1], grid[2]),
                (self.block, 1, 1),
                self.shared,
                device.stream.cu_stream(),
                &mut pointers,
            )
        }
        .doing("launching a kernel")
    }
}

/// A kernel's arguments in the order of its signature, each in 8 bytes: the driver reads as many as the parameter has, and numbers are
/// little-endian.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args(Vec<u64>);

impl Args {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn push(mut self, arg: u64) -> Self {
        self.0.push(arg);
        self
    }

    pub(crate) fn ptr(self, address: Address) -> Self {
        self.push(address)
    }

    pub(crate) fn int(self, value: usize) -> Self {
        self.push(value as u64)
    }

    pub(crate) fn f32(self, value: f32) -> Self {
        self.push(u64::from(value.to_bits()))
    }

    pub(crate) fn f64(self, value: f64) -> Self {
        self.push(value.to_bits())
    }
}
