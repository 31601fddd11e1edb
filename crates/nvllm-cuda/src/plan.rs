//! How a model will run on a GPU and what it will take there. Needs no GPU: `nvllm plan` can ask
//! for a device that is elsewhere.

use nvllm_core::{Backend, Limits, ModelSpec, Op, OpQuery, Plan, PlanRules, Program, Reason, WeightSource};

use crate::coded;
use crate::inputs::Inputs;
use crate::lower::{self, MAX_HEAD_DIM, fast_shape};
use crate::rope::RopeTables;
use crate::sampler::Sampler;
use crate::slots::DeviceSlots;
use crate::weights;
use crate::work_lists::WorkLists;

/// Values lie on lines of 256 bytes, in one allocation that kernels read and write.
pub(crate) const RULES: PlanRules = PlanRules {
    align: 256,
    max_segment: usize::MAX,
    max_binding: usize::MAX,
    read_write_share: true,
    stages: lower::ranges,
};

/// Whether a kernel runs an op: every backend of this crate answers so.
pub(crate) fn supports(query: &OpQuery<'_>) -> Result<(), Reason> {
    for id in query.op.weights() {
        let info = query.weight(id);
        if info.plain().is_err() {
            coded::runs(info)?;
        }
    }
    match query.op {
        Op::LinearSiluMul { weight, .. }
            if query.weight(*weight).plain().is_err()
                && !lower::runs_gated(query.weight(*weight), query.limits) =>
        {
            Err(Reason(
                "coded weights are gated in one kernel if gate and up share a format of tensor cores".into(),
            ))
        }
        Op::Attention { spec, .. } if !fast_shape(spec) => Err(Reason(format!(
            "head_dim is {} with {} query and {} KV heads; 64 and 128, with up to 16 query heads a KV head, are fused",
            spec.head_dim, spec.num_heads, spec.num_kv_heads
        ))),
        Op::Attention { .. } if !lower::runs(query) => Err(Reason(
            "attention is fused for bf16 activations, KV cache and norms, and rope over whole heads".into(),
        )),
        Op::PagedAttention { spec, .. }
            if !spec.head_dim.is_multiple_of(8) || spec.head_dim > MAX_HEAD_DIM =>
        {
            let problem = format!("head_dim is {}", spec.head_dim);
            Err(Reason(format!("{problem}; multiples of 8 up to {MAX_HEAD_DIM} are supported")))
        }
        _ => Ok(()),
    }
}

/// The plan of `backend`, with memory as [`CudaBackend`](crate::CudaBackend) allocates it; `vendor`
/// says whether linear layers may go to the vendor's library.
pub(crate) fn plan(
    backend: &dyn Backend,
    vendor: bool,
    spec: &ModelSpec,
    source: &dyn WeightSource,
    limits: &Limits,
) -> nvllm_core::Result<Plan> {
    let mut plan = Plan::new(backend, spec, source, limits)?;
    plan.memory.weights = weights::bytes_for(&plan)?;
    plan.memory.scratch = scratch_bytes(&plan).saturating_add(partial_bytes(&plan, vendor));
    Ok(plan)
}

/// Bytes of all that is neither weight, cache nor value, without partial sums.
fn scratch_bytes(plan: &Plan) -> usize {
    let Plan { spec, limits, kv, .. } = plan;
    [
        Inputs::bytes_for(limits, kv),
        DeviceSlots::bytes_for(limits, spec.vocab_size),
        Sampler::bytes_for(limits, spec.vocab_size),
        RopeTables::bytes_for(&spec.programs, limits),
        WorkLists::bytes_for(&spec.programs, limits, kv),
        spec.programs.iter().map(|program| lower::pass_bytes(program, limits)).sum(),
    ]
    .into_iter()
    .fold(0, usize::saturating_add)
}

/// Bytes of partial sums of linear layers, whoever runs them, and of inputs made for coded weights.
pub(crate) fn partial_bytes(plan: &Plan, vendor: bool) -> usize {
    let limits = &plan.limits;
    let bytes = |program: &Program| {
        let theirs = if vendor { lower::workspace_bytes(program, limits) } else { 0 };
        let inputs = lower::input_bytes(program, &plan.weights, limits);
        lower::partial_bytes(program, limits).max(theirs).max(inputs)
    };
    plan.spec.programs.iter().map(bytes).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use nvllm_core::program::QkNorm;
    use nvllm_core::weight::{AxisRole, SyntheticSource};
    use nvllm_core::{
        Activations, AttentionSpec, DType, KvFormat, PagedKv, RopeScaling, RopeSpec, SpecBuilder,
    };

    use super::*;
    use crate::DeviceProfile;

    fn limits() -> Limits {
        Limits { step_tokens: 8, kv_bytes: 1 << 20, ..Limits::new(Activations::F32, 1, 32) }
    }

    /// One layer of attention with norms, its weights in `vectors`.
    fn attention(vectors: DType, activations: Activations) -> Plan {
        let mut builder = SpecBuilder::new();
        let part = |name: &str, rows| (name.to_owned(), rows, AxisRole::Replicated);
        let table = builder.matrix("table", 3 * 64, AxisRole::Replicated, [part("table", 8)]);
        let norms = ["q_norm", "k_norm"].map(|name| builder.vector(name, name, 64));
        let kv = PagedKv { num_layers: 1, num_heads: 1, head_dim: 64, window: None };
        let layer = builder.paged_kv(kv)(0);
        let mut program = builder.program("generate");
        let qkv = program.embed(table);
        let norm = QkNorm { q: norms[0], k: norms[1], eps: 1e-6 };
        let rope = RopeSpec { theta: 1e4, head_dim: 64, scaling: RopeScaling::None };
        let spec = AttentionSpec { num_heads: 1, num_kv_heads: 1, head_dim: 64, scale: 0.125, window: None };
        program.attention(qkv, Some(norm), &rope, &spec, layer);
        let programs = vec![program.finish().unwrap()];
        let spec = builder.finish("attention", programs, 8, 32);
        let limits = Limits { activations, kv_format: KvFormat::Bf16, ..limits() };
        DeviceProfile::H200.plan(&spec, &SyntheticSource::new(&spec.weights, vectors, 0), &limits).unwrap()
    }

    /// What is planned is what runs: whether a fused kernel takes the weights is known before
    /// loading, and the same to all.
    #[test]
    fn attention_is_fused_where_a_kernel_takes_it() {
        let fused = |vectors, activations| {
            let plan = attention(vectors, activations);
            let ops = &plan.spec.programs[0].nodes;
            ops.iter().all(|node| DeviceProfile::H200.supports(&plan.query(&node.op)).is_ok())
                && ops.iter().any(|node| node.op.stem() == "attention")
        };
        assert!(fused(DType::Bf16, Activations::Bf16));
        assert!(!fused(DType::F32, Activations::Bf16));
        assert!(!fused(DType::F16, Activations::Bf16));
        assert!(!fused(DType::Bf16, Activations::F32));
    }
}
