//! How a model will run on an adapter and what it will take there.

use nvllm_core::program::MemoryPlan;
use nvllm_core::{
    Activations, Backend, ByteCount, CoreError, Limits, ModelSpec, Op, OpQuery, Plan, PlanRules, Reason,
    WeightSource,
};

use crate::adapter::AdapterFacts;
use crate::gpu::ALIGN;
use crate::lower::{self, MOST_HEAD_DIM};
use crate::shaders::QK_BINDINGS;
use crate::{inputs, kv, sampler, slots, storage, weights};

/// Workgroups in one direction on every adapter.
const MOST_WORKGROUPS: usize = 65_535;

/// What an adapter's memory allows: values lie where bindings may begin, and no buffer is read and
/// written by one launch.
pub(crate) fn rules(facts: &AdapterFacts) -> PlanRules {
    PlanRules {
        align: ALIGN,
        max_segment: facts.max_buffer / ALIGN * ALIGN,
        max_binding: facts.max_binding / ALIGN * ALIGN,
        read_write_share: false,
        stages: lower::ranges,
    }
}

/// Whether a shader runs an op.
pub(crate) fn supports(facts: &AdapterFacts, query: &OpQuery<'_>) -> Result<(), Reason> {
    for id in query.op.weights() {
        storage::extents(query.weight(id))?;
    }
    match query.op {
        Op::Attention { rope, spec, .. } if rope.head_dim != spec.head_dim => {
            Err(Reason("attention is fused for rope over whole heads".into()))
        }
        Op::Attention { .. } if facts.max_bindings < QK_BINDINGS => {
            let most = facts.max_bindings;
            Err(Reason(format!("a shader sees {most} buffers; {QK_BINDINGS} are needed to fuse attention")))
        }
        Op::LinearSiluMul { weight, .. } if !weights::is_whole(query.weight(*weight), facts.piece_bytes) => {
            Err(Reason("a weight in several pieces or forms is gated apart".into()))
        }
        Op::PagedAttention { spec, .. } | Op::Attention { spec, .. }
            if !spec.head_dim.is_multiple_of(8) || spec.head_dim > MOST_HEAD_DIM =>
        {
            let problem = format!("head_dim is {}", spec.head_dim);
            Err(Reason(format!("{problem}; multiples of 8 up to {MOST_HEAD_DIM} are supported")))
        }
        _ => Ok(()),
    }
}

/// The plan of `backend` on an adapter.
pub(crate) fn plan(
    backend: &dyn Backend,
    facts: &AdapterFacts,
    spec: &ModelSpec,
    source: &dyn WeightSource,
    limits: &Limits,
) -> nvllm_core::Result<Plan> {
    let mut plan = Plan::new(backend, spec, source, limits)?;
    // Values are f32 in memory, whatever they are rounded to.
    let wide = Limits { activations: Activations::F32, ..limits.clone() };
    let rules = rules(facts);
    let values = plan.spec.programs.iter().map(|program| MemoryPlan::new(program, &wide, &rules));
    plan.values = values.collect::<nvllm_core::Result<_>>()?;
    check_extents(facts, &plan)?;
    kv::check(facts, &plan.kv, limits)?;
    plan.memory.weights = weights::bytes_for(&plan, facts.piece_bytes)?;
    plan.memory.arena = arena(&plan.values).iter().sum();
    plan.memory.scratch = scratch_bytes(&plan);
    Ok(plan)
}

/// Bytes of each allocation that all programs share.
pub(crate) fn arena(plans: &[MemoryPlan]) -> Vec<usize> {
    let num = plans.iter().map(|plan| plan.segments.len()).max().unwrap_or(0);
    let bytes = |at: usize| plans.iter().filter_map(|plan| plan.segments.get(at)).copied().max().unwrap_or(0);
    (0..num).map(bytes).collect()
}

/// Bytes of all that is neither weight, cache nor value.
fn scratch_bytes(plan: &Plan) -> usize {
    let Plan { spec, weights, limits, kv, .. } = plan;
    [
        inputs::bytes_for(&spec.programs, weights, limits, kv),
        slots::bytes_for(limits, spec.vocab_size),
        sampler::bytes_for(limits, spec.vocab_size),
        kv::scratch_bytes(kv),
    ]
    .into_iter()
    .fold(0, usize::saturating_add)
}

/// Refuses limits for which a launch or a binding would be too large.
fn check_extents(facts: &AdapterFacts, plan: &Plan) -> nvllm_core::Result<()> {
    let Plan { spec, weights, limits, kv, .. } = plan;
    let values = spec.programs.iter().flat_map(|program| &program.values);
    let times = values.map(|value| value.rows.times).max().unwrap_or(1);
    let bad = |field, problem| Err(CoreError::BadLimits { field, problem });
    for (field, extent) in [("step_tokens", limits.step_tokens), ("step_outputs", limits.step_outputs)] {
        let most = MOST_WORKGROUPS / times;
        if extent > most {
            return bad(field, format!("is {extent}; up to {most} are supported on wgpu"));
        }
    }
    let parts = [
        ("step_tokens", limits.step_tokens, storage::input_bytes(&spec.programs, weights, limits)),
        ("seqs", limits.seqs, slots::seen_bytes(limits, spec.vocab_size)),
        ("step_outputs", limits.step_outputs, sampler::mask_bytes(limits, spec.vocab_size)),
        ("context", limits.context, inputs::layout(limits, kv).len),
    ];
    for (field, extent, bytes) in parts {
        if bytes > facts.max_binding {
            let (bytes, most) = (ByteCount(bytes), ByteCount(facts.max_binding));
            let problem = format!(
                "is {extent}; that takes {bytes} in one piece, and a shader of {} sees {most}: give less",
                facts.name
            );
            return bad(field, problem);
        }
    }
    Ok(())
}
