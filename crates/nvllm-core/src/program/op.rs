//! The ops of the tape. About twenty, and meant to stay so.

use super::RopeSpec;
use crate::{KvLayer, WeightId};

/// Shape and scale of an attention op.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`. Query head `h` reads KV head `h / (num_heads /
    /// num_kv_heads)`.
    pub num_kv_heads: usize,
    /// Columns of one head.
    pub head_dim: usize,
    /// Factor on `q . k` before the softmax.
    pub scale: f32,
    /// A query at KV index `q` sees keys `k` with `q - window < k <= q`; `None`: all `k <= q`.
    pub window: Option<usize>,
}

/// Per-head norms of queries and keys (Qwen3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    /// Weight `[head_dim]` for queries.
    pub q: WeightId,
    /// Weight `[head_dim]` for keys.
    pub k: WeightId,
    /// Added to the mean square.
    pub eps: f32,
}

/// One op. Shapes: `T` rows of the step, `R` any row extent, columns constant.
///
/// Primitive ops are what a backend must run. Fused ops have an expansion into primitives, which is
/// their specification (see [`Program::expand`](super::Program::expand)): a model records
/// `Attention`; the two that begin with a linear layer are made from what it recorded, for backends
/// that run them (see [`Program::fuse`](super::Program::fuse)).
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `[T, k]`: row `token` of `table` `[vocab, k]` for each token of the step. A copy.
    Embed {
        /// The table.
        table: WeightId,
    },
    /// `x [R, g*n] -> [R, g*n]`: each run of `n` columns divided by its root mean square, times
    /// `weight [n]`.
    ///
    /// `y = x / sqrt(mean(x^2) + eps) * w`. Source: Zhang and Sennrich 2019, "Root Mean Square
    /// Layer Normalization".
    RmsNorm {
        /// The weight, `[n]`.
        weight: WeightId,
        /// Added to the mean square.
        eps: f32,
    },
    /// `x [R, k] -> [R, n]`: `y = x W^T + b`.
    Linear {
        /// `[n, k]`.
        weight: WeightId,
        /// `[n]`.
        bias: Option<WeightId>,
    },
    /// `a [R, n], b [R, n] -> [R, n]`.
    Add,
    /// `x [R, 2n] -> [R, n]`: `silu(x[:, :n]) * x[:, n:]`, `silu(z) = z / (1 + exp(-z))`. Source:
    /// Shazeer 2020, "GLU Variants Improve Transformer".
    SiluMul,
    /// `x [R, n] -> [R, len]`: columns `start..start + len`. A copy.
    SliceCols {
        /// First column.
        start: usize,
        /// Number of columns.
        len: usize,
    },
    /// `x [T, h*d] -> [T, h*d]`: rotary position embedding of each head, half-split pairing
    /// (element `i` with `i + d/2`), at the step's position ids. Source: Su et al. 2021,
    /// `RoFormer`; pairing as in GPT-NeoX.
    Rope(RopeSpec),
    /// `k [T, h*d], v [T, h*d] ->`: stores this step's keys and values at their KV indices. A copy,
    /// rounded to the cache's dtype.
    KvAppend {
        /// Where.
        kv: KvLayer,
    },
    /// `q [T, h*d] -> [T, h*d]`: softmax attention of each query over its own sequence's cached
    /// keys and values.
    PagedAttention {
        /// Shape and scale.
        spec: AttentionSpec,
        /// The cache layer.
        kv: KvLayer,
    },
    /// `qkv [T, (h + 2*hk)*d] -> [T, h*d]`: q/k norm, rope, KV append and paged attention in one.
    /// Fused.
    Attention {
        /// Norms of q and k heads.
        norm: Option<QkNorm>,
        /// Rotation.
        rope: RopeSpec,
        /// Shape and scale.
        spec: AttentionSpec,
        /// The cache layer.
        kv: KvLayer,
    },
    /// `x [R, k], r [R, n] -> [R, n]`: `y = x W^T + b + r`, the end of a residual branch. Fused.
    LinearAdd {
        /// `[n, k]`.
        weight: WeightId,
        /// `[n]`.
        bias: Option<WeightId>,
    },
    /// `x [R, k] -> [R, n]`: `silu(x Wg^T + bg) * (x Wu^T + bu)`. Fused.
    LinearSiluMul {
        /// `[2n, k]`: the rows of `Wg`, then those of `Wu`.
        weight: WeightId,
        /// `[2n]`.
        bias: Option<WeightId>,
    },
    /// `x [T, n] -> [Outputs, n]`: the rows whose logits are wanted. A copy.
    GatherRows,
    /// `logits [T, E] -> ids [k*T, 1] i32, weights [k*T, 1] f32`: softmax over all experts in f32,
    /// then the `k` largest in descending order (ties: lower id first), then optionally scaled to
    /// sum to 1.
    ///
    /// Row `t*k + j` is token `t`'s `j`-th choice.
    TopK {
        /// Experts per token.
        k: usize,
        /// Whether the chosen weights are scaled to sum to 1.
        renormalize: bool,
    },
    /// `x [T, k] or [c*T, k], ids [c*T, 1] -> [c*T, n]`: each row through its expert's matrix.
    ExpertLinear {
        /// `[E, n, k]`.
        weight: WeightId,
    },
    /// `x [c*T, n], weights [c*T, 1] -> [T, n]`: sum of a token's `c` rows times their weights, in
    /// row order, in f32.
    WeightedSum,
    /// `x -> x`: the sum over the ranks of a tensor-parallel world; a copy in a world of one.
    AllReduce,
    /// `x -> x`: the concatenation of columns over the ranks; a copy in a world of one.
    AllGather,
}

impl Op {
    /// One op of every kind, in the order of the table in `docs/add-an-op.md`.
    pub const STEMS: [&'static str; 18] = [
        "embed",
        "rms_norm",
        "linear",
        "add",
        "silu_mul",
        "slice_cols",
        "rope",
        "kv_append",
        "paged_attention",
        "attention",
        "linear_add",
        "linear_silu_mul",
        "gather_rows",
        "top_k",
        "expert_linear",
        "weighted_sum",
        "all_reduce",
        "all_gather",
    ];

    /// The fused ones among [`STEMS`](Self::STEMS).
    pub const FUSED: [&'static str; 3] = ["attention", "linear_add", "linear_silu_mul"];

    /// The op's one name: builder method, reference function, kernel folder, conformance case,
    /// benchmark id.
    pub const fn stem(&self) -> &'static str {
        match self {
            Self::Embed { .. } => "embed",
            Self::RmsNorm { .. } => "rms_norm",
            Self::Linear { .. } => "linear",
            Self::Add => "add",
            Self::SiluMul => "silu_mul",
            Self::SliceCols { .. } => "slice_cols",
            Self::Rope(_) => "rope",
            Self::KvAppend { .. } => "kv_append",
            Self::PagedAttention { .. } => "paged_attention",
            Self::Attention { .. } => "attention",
            Self::LinearAdd { .. } => "linear_add",
            Self::LinearSiluMul { .. } => "linear_silu_mul",
            Self::GatherRows => "gather_rows",
            Self::TopK { .. } => "top_k",
            Self::ExpertLinear { .. } => "expert_linear",
            Self::WeightedSum => "weighted_sum",
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
        }
    }

    /// Whether the op has an expansion into primitives.
    pub const fn is_fused(&self) -> bool {
        matches!(self, Self::Attention { .. } | Self::LinearAdd { .. } | Self::LinearSiluMul { .. })
    }

    /// The weights that the op reads.
    pub fn weights(&self) -> Vec<WeightId> {
        match self {
            Self::Embed { table } => vec![*table],
            Self::RmsNorm { weight, .. } | Self::ExpertLinear { weight } => vec![*weight],
            Self::Linear { weight, bias }
            | Self::LinearAdd { weight, bias }
            | Self::LinearSiluMul { weight, bias } => std::iter::once(*weight).chain(*bias).collect(),
            Self::Attention { norm: Some(norm), .. } => vec![norm.q, norm.k],
            _ => Vec::new(),
        }
    }

    /// The layer of the KV cache that the op reads or writes.
    pub const fn kv(&self) -> Option<KvLayer> {
        match self {
            Self::KvAppend { kv } | Self::PagedAttention { kv, .. } | Self::Attention { kv, .. } => Some(*kv),
            _ => None,
        }
    }

    /// The same op over other weights and another layer of the KV cache: for rewrites.
    #[must_use]
    pub(super) fn moved(
        &self,
        weight: impl Fn(WeightId) -> WeightId,
        layer: impl Fn(KvLayer) -> KvLayer,
    ) -> Self {
        let mut op = self.clone();
        match &mut op {
            Self::Embed { table } => *table = weight(*table),
            Self::RmsNorm { weight: id, .. } | Self::ExpertLinear { weight: id } => *id = weight(*id),
            Self::Linear { weight: id, bias }
            | Self::LinearAdd { weight: id, bias }
            | Self::LinearSiluMul { weight: id, bias } => {
                *id = weight(*id);
                *bias = bias.map(&weight);
            }
            Self::KvAppend { kv } | Self::PagedAttention { kv, .. } => *kv = layer(*kv),
            Self::Attention { norm, kv, .. } => {
                *norm = norm.map(|norm| QkNorm { q: weight(norm.q), k: weight(norm.k), ..norm });
                *kv = layer(*kv);
            }
            Self::Add
            | Self::SiluMul
            | Self::SliceCols { .. }
            | Self::Rope(_)
            | Self::GatherRows
            | Self::TopK { .. }
            | Self::WeightedSum
            | Self::AllReduce
            | Self::AllGather => {}
        }
        op
    }
}
