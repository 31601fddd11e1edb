//! A launch as data: made once at load, run every step with the step's extents.

use std::ffi::c_void;
use std::rc::Rc;

use cudarc::driver::sys;
use nvllm_core::Rows;

use crate::cublaslt::Product;
use crate::device::Device;
use crate::error::{Doing, Result};
use crate::kernels::attention::attention_order::KV_CHUNK;
use crate::memory::Address;
use crate::modules::Function;
use crate::tensor_map::TensorMap;

/// The extents that launches are sized for: those of the step, or of its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Extents {
    pub tokens: usize,
    pub outputs: usize,
    pub seqs: usize,
    /// Whether some sequence's rows are for attention's prefill kernels.
    pub prefill: bool,
    /// KV positions of the longest sequence, the step's own included.
    pub positions: usize,
    /// Whether some row's token is drawn: with a temperature, not the likeliest.
    pub draws: bool,
}

impl Extents {
    /// For launches of a fixed size.
    pub(crate) const NONE: Self =
        Self { tokens: 0, outputs: 0, seqs: 0, prefill: false, positions: 0, draws: false };

    /// Whether the keys of some sequence are cut into several chunks, whose sums are then folded.
    pub(crate) const fn chunks(self) -> bool {
        self.positions > KV_CHUNK
    }

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
    /// `each` blocks for each `per` of all rows' `cols` columns, `most` at most.
    Tiles { rows: Rows, cols: usize, per: usize, each: usize, most: usize },
    /// As many as tiles of `per` tokens, none across two sequences, can be.
    SeqTiles { per: usize },
    /// As many as share each row so that all rows together have about `all`: a power of two, within
    /// `range`.
    Shares { rows: Rows, all: usize, range: [usize; 2] },
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
            Self::Tiles { rows, cols, per, each, most } => {
                ((extents.rows(rows) * cols).div_ceil(per) * each).min(most) as u32
            }
            Self::SeqTiles { per } => (extents.tokens / per + extents.seqs) as u32,
            Self::Shares { rows, all, range: [least, most] } => {
                let each = (all / extents.rows(rows).max(1)).clamp(least, most);
                1 << each.ilog2()
            }
        }
    }
}

/// What a launch runs.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A kernel of ours.
    Kernel(Function),
    /// A product of the vendor's library, which sizes its own grid.
    Product(Rc<Product>),
}

/// One launch.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub work: Work,
    pub grid: [Dim; 3],
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory, in bytes.
    pub shared: u32,
    pub args: Args,
    /// Whether it may start before the launch before it has ended: its kernel waits for what that
    /// wrote.
    pub early: bool,
    /// Whether its blocks wait for each other: the driver then runs all of them at once, or refuses
    /// the launch.
    pub cooperative: bool,
    /// Which steps have work for it; the others leave it out.
    pub wanted: fn(Extents) -> bool,
}

impl Launch {
    /// A grid of one dimension, of the kernel's own blocks.
    pub(crate) fn new(function: &Function, rows: Dim, args: Args) -> Self {
        Self::of(Work::Kernel(function.clone()), rows, function.threads, args)
    }

    /// A product of `rows` rows.
    pub(crate) fn product(product: Rc<Product>, rows: Rows, args: Args) -> Self {
        Self::of(Work::Product(product), Dim::each(rows), 0, args)
    }

    fn of(work: Work, rows: Dim, block: u32, args: Args) -> Self {
        let grid = [rows, Dim::Fixed(1), Dim::Fixed(1)];
        Self { work, grid, block, shared: 0, args, early: false, cooperative: false, wanted: |_| true }
    }

    /// Blocks of so many threads, no more than the kernel's own, which must take any number.
    pub(crate) const fn of_threads(mut self, threads: u32) -> Self {
        if threads < self.block {
            self.block = threads;
        }
        self
    }

    /// The second dimension of the grid.
    pub(crate) fn by(mut self, dim: Dim) -> Self {
        self.grid[1] = dim;
        self
    }

    /// Dynamic shared memory, which the function was allowed.
    pub(crate) const fn with_shared(mut self, bytes: u32) -> Self {
        self.shared = bytes;
        self
    }

    /// Lets it start before the launch before it has ended.
    pub(crate) const fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// Has all of its blocks run at once.
    pub(crate) const fn cooperative(mut self) -> Self {
        self.cooperative = true;
        self
    }

    /// Leaves it out of steps that have no work for it.
    pub(crate) const fn only(mut self, wanted: fn(Extents) -> bool) -> Self {
        self.wanted = wanted;
        self
    }

    /// Its grid in a step of these extents; `None` where the step has no work for it.
    fn grid(&self, extents: Extents) -> Option<[u32; 3]> {
        let grid = self.grid.map(|dim| dim.len(extents));
        (!grid.contains(&0) && (self.wanted)(extents)).then_some(grid)
    }

    /// What the driver is told beside grid and arguments.
    fn attributes(&self, function: &Function) -> Vec<sys::CUlaunchAttribute> {
        use sys::CUlaunchAttributeID::{
            CU_LAUNCH_ATTRIBUTE_COOPERATIVE, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        };
        let early = (self.early && function.starts_early).then_some((
            CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        ));
        let cooperative = self
            .cooperative
            .then_some((CU_LAUNCH_ATTRIBUTE_COOPERATIVE, sys::CUlaunchAttributeValue { cooperative: 1 }));
        let attribute = |(id, value)| sys::CUlaunchAttribute { id, pad: [0; 4], value };
        early.into_iter().chain(cooperative).map(attribute).collect()
    }

    /// What runs in a step of these extents: the kernel, blocks, threads of one, its dynamic shared
    /// memory, and how it is launched; `None` where the step has no work for it.
    pub(crate) fn text(&self, extents: Extents) -> Option<String> {
        let [x, y, z] = self.grid(extents)?;
        let Work::Kernel(function) = &self.work else { return Some("cuBLASLt product".into()) };
        let more = [y, z].into_iter().filter(|dim| *dim > 1);
        let blocks: Vec<_> = std::iter::once(x).chain(more).map(|dim| dim.to_string()).collect();
        let shared = if self.shared > 0 { format!(", {} B shared", self.shared) } else { String::new() };
        let early = if self.early && function.starts_early { ", early" } else { "" };
        let how = format!("{shared}{early}{}", if self.cooperative { ", cooperative" } else { "" });
        Some(format!("{} <{} x {}{how}>", function.name, blocks.join("x"), self.block))
    }

    /// Puts it on the stream; nothing where there are no rows.
    pub(crate) fn run(&self, device: &Device, extents: Extents) -> Result<()> {
        let Some(grid) = self.grid(extents) else { return Ok(()) };
        let words: Vec<u64> = self.args.0.iter().map(|arg| arg.word(extents)).collect();
        let function = match &self.work {
            Work::Kernel(function) => function,
            Work::Product(product) => return product.run(device, &words),
        };
        let mut pointers: Vec<*mut c_void> =
            self.args.0.iter().zip(&words).map(|(arg, word)| arg.pointer(word).cast_mut()).collect();
        let mut attributes = self.attributes(function);
        let config = sys::CUlaunchConfig {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: grid[2],
            blockDimX: self.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared,
            hStream: device.stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: the arguments are those of the kernel's signature (see `Args`), their addresses
        // those of live buffers that hold the extents that the step was checked against.
        unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                function.handle,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .doing("launching a kernel")
    }
}

/// A kernel's arguments in the order of its signature. Of a number the driver reads as many bytes
/// as the parameter has, and numbers are little-endian.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args(Vec<Arg>);

/// One argument.
#[derive(Clone, Debug)]
enum Arg {
    Word(u64),
    /// As many as the launch is sized for.
    Rows(Rows),
    /// 1 where the step's keys are cut into chunks, or 0.
    Chunks,
    Map(TensorMap),
}

impl Arg {
    /// The argument if it is a number.
    fn word(&self, extents: Extents) -> u64 {
        match self {
            Self::Word(word) => *word,
            Self::Rows(rows) => extents.rows(*rows) as u64,
            Self::Chunks => u64::from(extents.chunks()),
            Self::Map(_) => 0,
        }
    }

    /// Where the driver reads it: at its `word`, or in itself.
    fn pointer(&self, word: &u64) -> *const c_void {
        match self {
            Self::Word(_) | Self::Rows(_) | Self::Chunks => std::ptr::from_ref(word).cast(),
            Self::Map(map) => map.pointer(),
        }
    }
}

impl Args {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn push(mut self, arg: u64) -> Self {
        self.0.push(Arg::Word(arg));
        self
    }

    pub(crate) fn ptr(self, address: Address) -> Self {
        self.push(address)
    }

    pub(crate) fn int(self, value: usize) -> Self {
        self.push(value as u64)
    }

    /// The number of rows that the launch is sized for.
    pub(crate) fn rows(mut self, rows: Rows) -> Self {
        self.0.push(Arg::Rows(rows));
        self
    }

    /// Whether the keys of some sequence of the step are cut into several chunks.
    pub(crate) fn chunks(mut self) -> Self {
        self.0.push(Arg::Chunks);
        self
    }

    pub(crate) fn map(mut self, map: &TensorMap) -> Self {
        self.0.push(Arg::Map(map.clone()));
        self
    }

    pub(crate) fn f32(self, value: f32) -> Self {
        self.push(u64::from(value.to_bits()))
    }

    pub(crate) fn f64(self, value: f64) -> Self {
        self.push(value.to_bits())
    }
}

#[cfg(test)]
mod tests {
    use sys::CUlaunchAttributeID::{
        CU_LAUNCH_ATTRIBUTE_COOPERATIVE as COOPERATIVE,
        CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION as EARLY,
    };

    use super::*;

    #[test]
    fn a_launch_says_how_it_starts_to_the_driver_and_as_text() {
        let function = |starts_early| Function {
            name: "kernel".into(),
            handle: std::ptr::null_mut(),
            threads: 256,
            starts_early,
        };
        let launch = |starts_early| Launch::new(&function(starts_early), Dim::Fixed(132), Args::new());
        let said = |launch: &Launch| {
            let Work::Kernel(function) = &launch.work else { panic!("it is a kernel of ours") };
            let ids = launch.attributes(function).iter().map(|attribute| attribute.id).collect::<Vec<_>>();
            (ids, launch.text(Extents::NONE).unwrap())
        };
        assert_eq!(said(&launch(true)), (vec![], "kernel <132 x 256>".into()));
        assert_eq!(said(&launch(true).early()), (vec![EARLY], "kernel <132 x 256, early>".into()));
        let both = launch(true).with_shared(64).early().cooperative();
        let text = "kernel <132 x 256, 64 B shared, early, cooperative>";
        assert_eq!(said(&both), (vec![EARLY, COOPERATIVE], text.into()));
        let cooperative = (vec![COOPERATIVE], "kernel <132 x 256, cooperative>".into());
        assert_eq!(said(&launch(false).early().cooperative()), cooperative);
    }
}
