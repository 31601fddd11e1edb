//! Instruction sets, and whether this machine has them.

/// An instruction set that there are kernels for, each a superset of the one before; which is
/// fastest [`Kernels::best`](crate::Kernels::best) says.
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
