//! The kernels of each instruction set, and which of them run on this machine.

use crate::elem::Elem;
use crate::isa::{Isa, MissingIsa};
use crate::scalar;
use crate::table::{ActMode, AttentionKernels, CodedKernels, DotKernels, Int8Kernels, RowKernels, SumOrder};
#[cfg(target_arch = "x86_64")]
use crate::x86;

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
