//! The smallest model that samples: a table and a head.

use std::sync::Arc;

use nvllm_core::weight::{AxisRole, SyntheticSource};
use nvllm_core::{
    Activations, Backend, DType, Executable, InlineVec, Limits, ModelSpec, OutputRow, PagedKv, Result,
    SeqStep, SlotId, SlotReset, Source, SpecBuilder, Step, StepId, TokenId,
};
use nvllm_wgpu::WgpuBackend;

const VOCAB: usize = 64;

/// A table, a head, and a cache of so many layers that no op reads.
fn model(kv_layers: usize) -> ModelSpec {
    let mut builder = SpecBuilder::new();
    let mut matrix = |name: &str| {
        builder.matrix(name, 64, AxisRole::Replicated, [(name.to_owned(), VOCAB, AxisRole::Replicated)])
    };
    let (table, head) = (matrix("table"), matrix("head"));
    if kv_layers > 0 {
        let _ =
            builder.paged_kv(PagedKv { num_layers: kv_layers, num_heads: 8, head_dim: 128, window: None });
    }
    let mut program = builder.program("generate");
    let x = program.embed(table);
    let x = program.gather_rows(x);
    let logits = program.linear_f32(x, head);
    program.output_logits(logits);
    let programs = vec![program.finish().expect("a program")];
    builder.finish("a head", programs, VOCAB, 1024)
}

pub(crate) fn load(backend: &WgpuBackend, kv_layers: usize, kv_bytes: usize) -> Result<Box<dyn Executable>> {
    let spec = model(kv_layers);
    let limits =
        Limits { step_tokens: 4, kv_bytes, max_in_flight: 2, ..Limits::new(Activations::F32, 4, 1024) };
    backend.plan_and_load(&spec, &SyntheticSource::new(&spec.weights, DType::F32, 0), &limits)
}

/// One token of one sequence, sampled.
pub(crate) fn step(id: u64) -> Step {
    let slot = SlotId(0);
    let sampling = Arc::default();
    let reset = SlotReset { slot, prompt: [].into(), output: [].into(), sampling };
    let seq = SeqStep {
        slot,
        tokens: [Source::Host(TokenId(3))].into(),
        positions: [Source::Host(id as u32)].into(),
        kv_start: Source::Host(id as u32),
        block_tables: InlineVec::new(),
        outputs: [OutputRow::sample(0)].into(),
    };
    let resets = if id == 0 { vec![reset] } else { Vec::new() };
    Step { id: StepId(id), resets, seqs: vec![seq], ..Step::default() }
}
