//! What a table of kernels holds, and the macros that compile one for an instruction set.

use crate::coded::CodedForm;
use crate::elem::Elem;
use crate::generic::attention::{Chunk, State};
use crate::generic::coded::{CodedDot, Decode};
use crate::generic::dot::{Block, Direct, PackW, PackX};
use crate::generic::int8::{self, Int8Dot, Quantize};
use crate::generic::pages::PageRow;
use crate::generic::rows::{Binary, RmsNorm, Rope, WeightedSum};

/// What the activations of a linear are known to be, beyond their storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActMode {
    /// Any f32 value.
    F32,
    /// Every value is a bf16 value, whatever it is stored as.
    Bf16,
}

/// The order in which a linear's products are summed. Kernels that share one agree bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SumOrder {
    /// 16 chains of fused multiply-adds, folded by halves: every instruction set.
    Fma16,
    /// AVX512-BF16: 32 chains of `vdpbf16ps`, each taking a pair of products, folded by halves.
    Bf16Pairs32,
}

/// The linear kernels of one summation order.
pub struct DotKernels {
    pub order: SumOrder,
    /// Elements of K that the padding goes up to.
    pub unit: usize,
    /// Activation rows in a group for `direct`, and for `block`.
    pub direct_rows: usize,
    pub block_rows: usize,
    /// Bytes of a packed element.
    pub packed: usize,
    /// f32 elements of scratch for `block`.
    pub acc_len: usize,
    /// Bytes of panels that a thread packs at a time.
    pub panel_bytes: usize,
    pub pack_x: unsafe fn(&PackX),
    pub pack_w: unsafe fn(&PackW),
    pub direct: unsafe fn(&Direct),
    pub block: unsafe fn(&Block),
}

impl DotKernels {
    /// Bytes of one packed row of `k` elements.
    pub fn row_bytes(&self, k: usize) -> usize {
        k.next_multiple_of(self.unit) * self.packed
    }
}

/// Kernels for coded weights, in the order of the dense kernels for `elem`.
pub struct CodedKernels {
    /// What values are rounded to, and rows decoded into.
    pub elem: Elem,
    /// Whether `dot` takes a form; rows of others are decoded first.
    pub takes: fn(&CodedForm) -> bool,
    pub dot: unsafe fn(&CodedDot),
    pub decode: unsafe fn(&Decode),
}

/// Kernels for 8-bit weights and activations, exact in integers.
pub struct Int8Kernels {
    /// Bytes of a packed activation.
    pub(crate) packed: usize,
    pub quantize: unsafe fn(&Quantize),
    pub dot: unsafe fn(&Int8Dot),
}

impl Int8Kernels {
    /// Bytes of one packed row of `k` activations.
    pub fn row_bytes(&self, k: usize) -> usize {
        k.next_multiple_of(int8::PAD) * self.packed
    }
}

/// Element-wise kernels.
pub struct RowKernels {
    pub convert: unsafe fn(*const u8, Elem, *mut u8, Elem, usize),
    pub add: unsafe fn(&Binary),
    pub silu_mul: unsafe fn(&Binary),
    pub rms_norm: unsafe fn(&RmsNorm),
    pub rope: unsafe fn(&Rope),
    pub weighted_sum: unsafe fn(&WeightedSum<'_>),
    pub sum: unsafe fn(*const f32, usize) -> f32,
}

/// Attention kernels.
pub struct AttentionKernels {
    /// Stores a key or a value; returns its scale.
    pub store: unsafe fn(&PageRow) -> f32,
    pub chunk: unsafe fn(&Chunk<'_>),
    pub merge: unsafe fn(State, State, usize, usize),
    pub finish: unsafe fn(*const f32, f32, usize, *mut u8, Elem),
}

/// Compiles the linear kernels for one [`Dot`](crate::generic::dot::Dot) with the given attributes.
macro_rules! dot_table {
    ($(#[$attr:meta])* $name:ident: $dot:ty, order: $order:ident, phases: $p:literal, rows: $mr:literal, $md:literal) => {
        pub(crate) static $name: $crate::table::DotKernels = {
            use $crate::generic::dot::{self, Block, Direct, Dot, PackW, PackX};
            $(#[$attr])*
            unsafe fn pack_x(a: &PackX) {
                dot::pack_x::<$dot, $p>(a);
            }
            $(#[$attr])*
            unsafe fn pack_w(a: &PackW) {
                dot::pack_w::<$dot, $p>(a);
            }
            $(#[$attr])*
            unsafe fn direct(a: &Direct) {
                dot::direct::<$dot, $p, $md>(a);
            }
            $(#[$attr])*
            unsafe fn block(a: &Block) {
                dot::block::<$dot, $p, $mr>(a);
            }
            $crate::table::DotKernels {
                order: $crate::table::SumOrder::$order,
                unit: <$dot as Dot>::STEP * $p,
                direct_rows: $md,
                block_rows: $mr,
                packed: size_of::<<$dot as Dot>::X>(),
                acc_len: dot::acc_len::<$dot>($p),
                panel_bytes: <$dot as Dot>::BLOCKING.bytes,
                pack_x,
                pack_w,
                direct,
                block,
            }
        };
    };
}
pub(crate) use dot_table;

/// Compiles the integer kernels for one [`Int8`](crate::generic::int8::Int8) with the given
/// attributes.
macro_rules! int8_table {
    ($(#[$attr:meta])* $name:ident: $int8:ty, rows: $mr:literal) => {
        pub(crate) static $name: $crate::table::Int8Kernels = {
            use $crate::generic::int8::{self, Int8, Int8Dot, Quantize};
            $(#[$attr])*
            unsafe fn quantize(a: &Quantize) {
                int8::quantize::<$int8>(a);
            }
            $(#[$attr])*
            unsafe fn dot(a: &Int8Dot) {
                int8::dot::<$int8, $mr>(a);
            }
            $crate::table::Int8Kernels { packed: size_of::<<$int8 as Int8>::X>(), quantize, dot }
        };
    };
}
pub(crate) use int8_table;

/// Compiles every kernel for one [`Simd`](crate::simd::Simd) with the given attributes.
macro_rules! kernel_table {
    ($(#[$attr:meta])* $simd:ty, phases: $p:literal, rows: $mr:literal, $md:literal) => {
        $crate::table::dot_table! {
            $(#[$attr])*
            FMA: $crate::generic::dot::FmaDot<$simd>, order: Fma16, phases: $p, rows: $mr, $md
        }

        pub(crate) static CODED: $crate::table::CodedKernels = {
            use $crate::generic::coded::{self, CodedDot, Decode};
            $(#[$attr])*
            unsafe fn dot(a: &CodedDot) {
                coded::dot::<$simd, $p>(a);
            }
            $(#[$attr])*
            unsafe fn decode(a: &Decode) {
                coded::decode::<$simd, $crate::simd::F32, $p>(a);
            }
            $crate::table::CodedKernels { elem: $crate::elem::Elem::F32, takes: |_| true, dot, decode }
        };

        pub(crate) static ROWS: $crate::table::RowKernels = {
            use $crate::generic::rows::{self, Binary, RmsNorm, Rope, WeightedSum};
            use $crate::elem::Elem;
            $(#[$attr])*
            unsafe fn convert(src: *const u8, from: Elem, dst: *mut u8, to: Elem, n: usize) {
                rows::convert::<$simd>(src, from, dst, to, n);
            }
            $(#[$attr])*
            unsafe fn add(a: &Binary) {
                rows::add::<$simd>(a);
            }
            $(#[$attr])*
            unsafe fn silu_mul(a: &Binary) {
                rows::silu_mul::<$simd>(a);
            }
            $(#[$attr])*
            unsafe fn rms_norm(a: &RmsNorm) {
                rows::rms_norm::<$simd>(a);
            }
            $(#[$attr])*
            unsafe fn rope(a: &Rope) {
                rows::rope::<$simd>(a);
            }
            $(#[$attr])*
            unsafe fn weighted_sum(a: &WeightedSum<'_>) {
                rows::weighted_sum::<$simd>(a);
            }
            $(#[$attr])*
            unsafe fn sum(p: *const f32, n: usize) -> f32 {
                rows::sum::<$simd>(p, n)
            }
            $crate::table::RowKernels { convert, add, silu_mul, rms_norm, rope, weighted_sum, sum }
        };

        pub(crate) static ATTENTION: $crate::table::AttentionKernels = {
            use $crate::generic::attention::{self, Chunk, State};
            use $crate::generic::pages::{self, PageRow};
            use $crate::elem::Elem;
            $(#[$attr])*
            unsafe fn store(a: &PageRow) -> f32 {
                pages::store::<$simd>(a)
            }
            $(#[$attr])*
            unsafe fn chunk(a: &Chunk<'_>) {
                attention::chunk::<$simd>(a);
            }
            $(#[$attr])*
            unsafe fn merge(a: State, b: State, rows: usize, head_dim: usize) {
                attention::merge::<$simd>(a, b, rows, head_dim);
            }
            $(#[$attr])*
            unsafe fn finish(acc: *const f32, sum: f32, head_dim: usize, out: *mut u8, elem: Elem) {
                attention::finish::<$simd>(acc, sum, head_dim, out, elem);
            }
            $crate::table::AttentionKernels { store, chunk, merge, finish }
        };
    };
}
pub(crate) use kernel_table;
