//! The CPU backend's kernels: one table of function pointers per instruction set, chosen at run
//! time.
//!
//! **Why a crate.** Compiling every kernel for every instruction set takes minutes, and nothing
//! here depends on anything of nvLLM: a change of the tape or of the backend does not compile them
//! again. `nvllm-cpu` calls them and has their tests.
//!
//! A new architecture (NEON: four lanes, four phases) is one module that implements `simd::Simd`,
//! one line with `kernel_table!`, and one arm in [`Isa::missing`] and [`Kernels::of`]. Nothing
//! outside this crate names an instruction set.

#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every unsafe fn below has one contract: the instruction set is there, pointers cover the stated extents"
)]
#![allow(clippy::inline_always, reason = "code must end up in the function that has the target features")]
#![allow(clippy::needless_range_loop, reason = "loops over registers are unrolled by index")]
#![allow(
    clippy::missing_safety_doc,
    clippy::cast_ptr_alignment,
    reason = "one contract, above; loads are unaligned"
)]

mod coded;
mod generic;
mod scalar;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use coded::{CodedForm, Codes, Formula};
pub use generic::attention::{CHUNK, Chunk, State};
pub use generic::coded::{CodedDot, CodedRows, Decode};
pub use generic::dot::{Block, Direct, MAX_ROWS, PANEL, PackW, PackX};
pub use generic::int8::{Int8Dot, MAX_K as MAX_INT8_K, Quantize};
pub use generic::out::Out;
pub use generic::pages::PageRow;
pub use generic::rows::{Binary, RmsNorm, Rope, WeightedSum};

/// An element type that kernels read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE 754 binary16 (weights only).
    F16,
}

impl Elem {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// An element type of KV pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageElem {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// FP8 E4M3.
    E4m3,
    /// Integers of 8 bits, each row with a scale in f32.
    I8,
}

impl PageElem {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::E4m3 | Self::I8 => 1,
        }
    }

    /// Bytes of a row's scale; 0 if it has none.
    pub const fn scale_size(self) -> usize {
        match self {
            Self::I8 => size_of::<f32>(),
            Self::F32 | Self::Bf16 | Self::E4m3 => 0,
        }
    }
}

/// An instruction set that there are kernels for, each a superset of the one before; which is
/// fastest [`Kernels::best`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// No vector instructions named; any machine.
    Scalar,
    /// x86-64 AVX2 + FMA + F16C.
    Avx2,
    /// x86-64 AVX-512 F + BW + VL.
    Avx512,
    /// [`Isa::Avx512`] with AVX512-BF16: dot products of bf16 pairs for bf16 weights under bf16
    /// activations.
    Avx512Bf16,
}

impl Isa {
    /// Every instruction set, the narrowest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// What this machine lacks for it, if anything.
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Self::Scalar => None,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                let there = is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c");
                (!there).then_some("AVX2, FMA or F16C")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                let there = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl");
                Self::Avx2.missing().or((!there).then_some("AVX-512 F, BW or VL"))
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                Self::Avx512.missing().or((!is_x86_feature_detected!("avx512bf16")).then_some("AVX512-BF16"))
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => Some("an x86-64 processor"),
        }
    }

    /// Whether this machine also has AVX512-VNNI, integer dot products.
    pub fn has_vnni() -> bool {
        #[cfg(target_arch = "x86_64")]
        return is_x86_feature_detected!("avx512vnni");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
}

/// Whether `vdpbf16ps` does more than the multiply-adds that it stands for. On the Intel core that
/// was tried (Emerald Rapids) it does not, as `--example speed` shows, and its own order of
/// rounding is worth nothing then. On AMD's it is taken to, as their Zen 4 is published to start as
/// many a cycle as multiply-adds.
fn pairs_pay() -> bool {
    #[cfg(target_arch = "x86_64")]
    return x86::is_amd();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
        })
    }
}

/// An instruction set was asked for that this machine lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{isa} kernels were asked for, but this machine lacks {missing}; leave the choice to the program")]
pub struct MissingIsa {
    /// The instruction set asked for.
    pub isa: Isa,
    /// What the machine lacks.
    pub missing: &'static str,
}

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
    packed: usize,
    pub quantize: unsafe fn(&Quantize),
    pub dot: unsafe fn(&Int8Dot),
}

impl Int8Kernels {
    /// Bytes of one packed row of `k` activations.
    pub fn row_bytes(&self, k: usize) -> usize {
        k.next_multiple_of(generic::int8::PAD) * self.packed
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

/// All kernels for one instruction set. A value of this type is proof that the machine has it.
pub struct Kernels {
    isa: Isa,
    fma: &'static DotKernels,
    pairs: Option<&'static DotKernels>,
    coded: &'static CodedKernels,
    coded_pairs: Option<&'static CodedKernels>,
    int8: &'static Int8Kernels,
    /// With AVX512-VNNI.
    vnni: Option<&'static Int8Kernels>,
    pub rows: &'static RowKernels,
    pub attention: &'static AttentionKernels,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.isa)
    }
}

macro_rules! kernels {
    ($isa:ident, $($module:ident)::+, $pairs:expr, $coded_pairs:expr, $int8:expr, $vnni:expr) => {
        Kernels {
            isa: Isa::$isa,
            fma: &$($module)::+::FMA,
            pairs: $pairs,
            coded: &$($module)::+::CODED,
            coded_pairs: $coded_pairs,
            int8: $int8,
            vnni: $vnni,
            rows: &$($module)::+::ROWS,
            attention: &$($module)::+::ATTENTION,
        }
    };
}

static SCALAR: Kernels = kernels!(Scalar, scalar, None, None, &scalar::INT8, None);
#[cfg(target_arch = "x86_64")]
static AVX2: Kernels = kernels!(Avx2, x86::avx2, None, None, &x86::int8::PAIRS, None);
#[cfg(target_arch = "x86_64")]
static AVX512: Kernels = kernels!(Avx512, x86::avx512, None, None, &x86::int8::PAIRS, Some(&x86::int8::VNNI));
#[cfg(target_arch = "x86_64")]
static AVX512_BF16: Kernels = kernels!(
    Avx512Bf16,
    x86::avx512,
    Some(&x86::avx512::pairs::PAIRS),
    Some(&x86::coded::PAIRS),
    &x86::int8::PAIRS,
    Some(&x86::int8::VNNI)
);

impl Kernels {
    /// The kernels for `isa`.
    ///
    /// # Errors
    /// Where this machine lacks it.
    pub fn of(isa: Isa) -> Result<&'static Self, MissingIsa> {
        if let Some(missing) = isa.missing() {
            return Err(MissingIsa { isa, missing });
        }
        Ok(match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &AVX2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => &AVX512_BF16,
            _ => &SCALAR,
        })
    }

    /// The fastest kernels that this machine has: the last instruction set that it has and that
    /// pays on it.
    pub fn best() -> &'static Self {
        let pays = |isa: &Isa| *isa != Isa::Avx512Bf16 || pairs_pay();
        Isa::ALL.into_iter().rev().filter(pays).find_map(|isa| Self::of(isa).ok()).unwrap_or(&SCALAR)
    }

    /// Their instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The order in which a linear layer sums products for these weights and activations.
    pub fn linear_order(&self, weight: Elem, mode: ActMode) -> SumOrder {
        self.dot(weight, mode).order
    }

    /// The integer kernels: those of AVX512-VNNI where this machine has it.
    pub fn int8(&self) -> &'static Int8Kernels {
        self.vnni.filter(|_| Isa::has_vnni()).unwrap_or(self.int8)
    }

    /// The kernels for coded weights: with AVX512-BF16 and bf16 activations values are rounded to
    /// bf16, else they are f32.
    pub fn coded(&self, mode: ActMode) -> &'static CodedKernels {
        self.coded_pairs.filter(|_| mode == ActMode::Bf16).unwrap_or(self.coded)
    }

    pub fn dot(&self, weight: Elem, mode: ActMode) -> &'static DotKernels {
        match (self.pairs, weight, mode) {
            (Some(pairs), Elem::Bf16, ActMode::Bf16) => pairs,
            _ => self.fma,
        }
    }
}

/// Compiles the linear kernels for one [`generic::dot::Dot`] with the given attributes.
macro_rules! dot_table {
    ($(#[$attr:meta])* $name:ident: $dot:ty, order: $order:ident, phases: $p:literal, rows: $mr:literal, $md:literal) => {
        pub(crate) static $name: $crate::DotKernels = {
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
            $crate::DotKernels {
                order: $crate::SumOrder::$order,
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
use dot_table;

/// Compiles the integer kernels for one [`generic::int8::Int8`] with the given attributes.
macro_rules! int8_table {
    ($(#[$attr:meta])* $name:ident: $int8:ty, rows: $mr:literal) => {
        pub(crate) static $name: $crate::Int8Kernels = {
            use $crate::generic::int8::{self, Int8, Int8Dot, Quantize};
            $(#[$attr])*
            unsafe fn quantize(a: &Quantize) {
                int8::quantize::<$int8>(a);
            }
            $(#[$attr])*
            unsafe fn dot(a: &Int8Dot) {
                int8::dot::<$int8, $mr>(a);
            }
            $crate::Int8Kernels { packed: size_of::<<$int8 as Int8>::X>(), quantize, dot }
        };
    };
}
use int8_table;

/// Compiles every kernel for one [`simd::Simd`] with the given attributes.
macro_rules! kernel_table {
    ($(#[$attr:meta])* $simd:ty, phases: $p:literal, rows: $mr:literal, $md:literal) => {
        $crate::dot_table! {
            $(#[$attr])*
            FMA: $crate::generic::dot::FmaDot<$simd>, order: Fma16, phases: $p, rows: $mr, $md
        }

        pub(crate) static CODED: $crate::CodedKernels = {
            use $crate::generic::coded::{self, CodedDot, Decode};
            $(#[$attr])*
            unsafe fn dot(a: &CodedDot) {
                coded::dot::<$simd, $p>(a);
            }
            $(#[$attr])*
            unsafe fn decode(a: &Decode) {
                coded::decode::<$simd, $crate::simd::F32, $p>(a);
            }
            $crate::CodedKernels { elem: $crate::Elem::F32, takes: |_| true, dot, decode }
        };

        pub(crate) static ROWS: $crate::RowKernels = {
            use $crate::generic::rows::{self, Binary, RmsNorm, Rope, WeightedSum};
            use $crate::Elem;
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
            $crate::RowKernels { convert, add, silu_mul, rms_norm, rope, weighted_sum, sum }
        };

        pub(crate) static ATTENTION: $crate::AttentionKernels = {
            use $crate::generic::attention::{self, Chunk, State};
            use $crate::generic::pages::{self, PageRow};
            use $crate::Elem;
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
            $crate::AttentionKernels { store, chunk, merge, finish }
        };
    };
}
use kernel_table;
