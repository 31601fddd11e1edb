//! A linear layer as its kernels see it.

use nvllm_core::{DType, Limits, Op, OrderId, Rows, WeightId};

use crate::compile::Target;
use crate::error::Result;
use crate::kernels::linear::linear_order::range_len;
use crate::launch::Args;
use crate::lower::{Lowering, Operand};
use crate::memory::Address;
use crate::tensor_map::{CopyBox, TensorMap};
use crate::weights::{Matrix, Vector};

/// The order of every fast kernel, as kernels/linear/linear_order.cuh has it.
pub(in crate::lower) const SPLIT8: OrderId = OrderId("linear.split8");

/// A linear layer on a device.
#[derive(Clone, Copy)]
pub(crate) struct Linear {
    pub x: Operand,
    pub y: Operand,
    pub weight: Address,
    /// Rows of W.
    pub n: usize,
    pub epilogue: Epilogue,
    pub dtype: DType,
    pub bias: Option<Vector>,
    pub device: DeviceLimits,
}

/// What a kernel does to the sums before it rounds and stores them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Epilogue {
    /// Nothing.
    Plain,
    /// This residual is added.
    Add(Address),
    /// `silu` of those of the upper half of W, times those of the lower half.
    SiluMul,
}

/// What the device limits a kernel to, and the choice between kernels with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceLimits {
    /// Multiprocessors: blocks that run at once, if each fills one.
    pub blocks: usize,
    /// Shared memory of one block, in bytes.
    pub shared: usize,
    /// As `TIGHT` in prelude.cuh.
    pub tight: bool,
    /// Whether it has the instructions of `wgmma.cu`.
    pub wgmma: bool,
}

/// An H100 or H200.
pub(in crate::lower) const HOPPER: DeviceLimits =
    DeviceLimits { blocks: 132, shared: 232_448, tight: false, wgmma: true };

/// A linear layer as the program has it.
pub(in crate::lower) struct Parts {
    pub x: Operand,
    pub y: Operand,
    pub weight: WeightId,
    pub bias: Option<Vector>,
    pub epilogue: Epilogue,
}

impl Linear {
    /// A layer of 16-bit operands without a bias, of `n` rows of W and `k` columns.
    pub(super) const fn plain(n: usize, k: usize, device: DeviceLimits) -> Self {
        let x = Operand { at: 0, dtype: DType::Bf16, rows: Rows::TOKENS, cols: k };
        let y = Operand { cols: n, ..x };
        Self { x, y, weight: 0, n, epilogue: Epilogue::Plain, dtype: DType::Bf16, bias: None, device }
    }

    pub(in crate::lower) const fn k(&self) -> usize {
        self.x.cols
    }

    /// Tiles of so many rows of W, half of them of gate and half of up where those belong together.
    pub(in crate::lower) fn tiles(&self, rows: usize) -> usize {
        if self.epilogue == Epilogue::SiluMul {
            self.y.cols.div_ceil(rows / 2)
        } else {
            self.n.div_ceil(rows)
        }
    }

    /// Part of the name of kernels with this epilogue.
    pub(in crate::lower) fn form(&self) -> &'static str {
        if self.epilogue == Epilogue::SiluMul { "_silu" } else { "" }
    }

    /// Address of what is added.
    pub(in crate::lower) const fn residual(&self) -> Address {
        match self.epilogue {
            Epilogue::Add(at) => at,
            Epilogue::Plain | Epilogue::SiluMul => 0,
        }
    }

    /// Whether the fast kernels take it: 16-bit operands, K in runs of 16 bytes.
    pub(in crate::lower) fn fast(&self) -> bool {
        let bf16 = |dtype| dtype == DType::Bf16;
        bf16(self.x.dtype)
            && bf16(self.dtype)
            && (self.residual() == 0 || bf16(self.y.dtype))
            && self.k().is_multiple_of(8)
            && self.bias.is_none_or(|bias| bias.narrow != 0)
    }

    /// Whether the kernels for Hopper take it: its copy engine brings 64 columns at a time.
    pub(in crate::lower) fn hopper(&self) -> bool {
        self.device.wgmma && self.fast() && self.k().is_multiple_of(64)
    }

    /// Tensor maps of W, `cols` rows of it a copy, half of them of gate and half of up where those
    /// belong together, and of x, `tokens` rows a copy of as many as a step may have.
    pub(in crate::lower) fn maps(
        &self,
        limits: &Limits,
        [cols, tokens]: [usize; 2],
        steps: usize,
    ) -> Result<[TensorMap; 2]> {
        let halves = if self.epilogue == Epilogue::SiluMul { 2 } else { 1 };
        let (w, x) =
            (CopyBox { halves, rows: cols / halves, steps }, CopyBox { halves: 1, rows: tokens, steps });
        Ok([
            TensorMap::new(self.weight, self.n, self.k(), w)?,
            TensorMap::new(self.x.at, self.x.rows.max(limits), self.k(), x)?,
        ])
    }

    /// Address of the bias as the fast kernels read it.
    pub(in crate::lower) fn narrow_bias(&self) -> Address {
        self.bias.map_or(0, |bias| bias.narrow)
    }

    /// Columns of one of the 8 ranges into which the order cuts K.
    pub(in crate::lower) const fn range(&self) -> usize {
        range_len(self.k())
    }
}

/// What all fast kernels take after `factors`: where W and x are, or partial sums of their
/// products. The last are flags, of which 1 says that y is f32.
pub(in crate::lower) fn operands(l: &Linear, factors: Args, flags: usize) -> Args {
    let args = factors.ptr(l.narrow_bias()).ptr(l.residual()).ptr(l.y.at);
    args.rows(l.y.rows).int(l.n).int(l.k()).int(usize::from(l.y.dtype == DType::F32) + flags)
}

impl Linear {
    /// Addresses of W and x.
    pub(in crate::lower) fn factors(&self) -> Args {
        Args::new().ptr(self.weight).ptr(self.x.at)
    }
}

impl Lowering<'_> {
    /// The linear layer with which node `at` begins; None if it is another op or its weight is
    /// coded.
    pub(in crate::lower) fn layer(&self, at: usize) -> Option<Linear> {
        let Parts { x, y, weight, bias, epilogue } = self.parts(at)?;
        let n = self.program.weights[weight.index()].num_rows();
        let Matrix::Dense(weight, dtype) = self.weights.get(weight) else { return None };
        Some(Linear { x, y, weight, n, epilogue, dtype, bias, device: self.device_limits() })
    }

    /// What belongs to the linear layer with which node `at` begins; None if it is another op.
    pub(in crate::lower) fn parts(&self, at: usize) -> Option<Parts> {
        let node = self.program.nodes.get(at)?;
        let (weight, bias, epilogue) = match node.op {
            Op::Linear { weight, bias } => (weight, bias, Epilogue::Plain),
            Op::LinearAdd { weight, bias } => (weight, bias, Epilogue::Add(self.value(node.inputs[1]).at)),
            Op::LinearSiluMul { weight, bias } => (weight, bias, Epilogue::SiluMul),
            _ => return None,
        };
        let (x, y) = (self.value(node.inputs[0]), self.value(node.outputs[0]));
        Some(Parts { x, y, weight, bias: bias.map(|id| self.weights.vector(id)), epilogue })
    }

    /// The limits of the device that runs the model.
    pub(in crate::lower) fn device_limits(&self) -> DeviceLimits {
        let facts = self.modules.facts();
        DeviceLimits {
            blocks: facts.multiprocessors,
            shared: facts.block_shared_bytes,
            tight: self.modules.target().tight(),
            wgmma: self.modules.target() == Target::Cubin(90),
        }
    }
}
