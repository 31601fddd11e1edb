//! The same logits, bit for bit, however a sequence is chunked, batched, paged and placed.

use nvllm_core::weight::{DenseSource, Safetensors};
use nvllm_core::{Activations, Backend, TokenId};

use crate::{Fixture, Layout, Part, Session, model_dir, spec_of};

/// Dense, YaRN over 140 tokens, sliding window, routed experts, and a window with YaRN and biases.
pub const FIXTURES: [&str; 5] =
    ["a_qwen3_tied_gqa", "e_qwen3_yarn", "f_qwen3_sliding", "h1_qwen3moe_norm", "m_qwen2_window_yarn"];

/// Logits as they are compared.
pub fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// Holds `backend` to it on every fixture, in f32 and bf16.
pub fn check(backend: &dyn Backend) {
    for name in FIXTURES {
        let fixture = Fixture::load(name);
        let spec = fixture.spec("config.json");
        let longest = fixture.sequences.iter().max_by_key(|s| s.input_ids.len()).unwrap();
        let (ids, positions) = (&longest.input_ids, &longest.position_ids);
        for activations in [Activations::F32, Activations::Bf16] {
            let run = |layout: Layout| {
                bits(
                    &Session::new(backend, &spec, &fixture.source(), activations, layout)
                        .logits(ids, positions),
                )
            };
            let whole = run(Layout::default());
            for chunk in [1, 7, 64] {
                assert!(
                    run(Layout { chunk, ..Layout::default() }) == whole,
                    "{name} {activations:?}: chunks of {chunk}"
                );
            }
            for block_len in [1, 3, 64, 256] {
                let layout = Layout { block_len, ..Layout::default() };
                assert!(run(layout) == whole, "{name} {activations:?}: blocks of {block_len}");
            }
            for stride in [17, 1008] {
                let layout = Layout { stride, ..Layout::default() };
                assert!(run(layout) == whole, "{name} {activations:?}: every {stride}th block");
            }
            mixed_batch(backend, &fixture, activations, &whole, ids, positions);
        }
    }
}

/// The sequence in slot 2, cut unevenly, between two others that change from step to step.
fn mixed_batch(
    backend: &dyn Backend,
    fixture: &Fixture,
    activations: Activations,
    whole: &[u32],
    ids: &[TokenId],
    positions: &[u32],
) {
    let spec = fixture.spec("config.json");
    let mut session = Session::new(backend, &spec, &fixture.source(), activations, Layout::default());
    let mut got = Vec::new();
    let (mut at, mut others) = (0, [0, 0]);
    for size in [3, 1, 9, 1, 1, 30, 2].into_iter().cycle() {
        let end = (at + size).min(ids.len());
        let part = Part { slot: 2, tokens: &ids[at..end], positions: &positions[at..end] };
        // Neighbours take other parts of the same text, 5 and 1 tokens a step, while there is text
        // left.
        let mut parts = Vec::new();
        for (slot, num) in [(0, 5), (3, 1)] {
            let start = &mut others[slot / 3];
            if *start + num < ids.len() {
                let range = *start..*start + num;
                parts.push(Part { slot, tokens: &ids[range.clone()], positions: &positions[range] });
                *start += num;
            }
        }
        let mine = parts.len().min(1);
        parts.insert(mine, part);
        got.extend(bits(&session.step(&parts).remove(mine)));
        at = end;
        if at == ids.len() {
            break;
        }
    }
    assert!(got == whole, "{} {activations:?}: in a mixed batch", fixture.name);
}

/// The demo model in bf16, whose shapes fast kernels take: steps of each size have kernels of their
/// own, and all give the same bits. Sequences reach beyond one chunk of attention.
pub fn check_step_sizes(backend: &dyn Backend) {
    let spec = spec_of(&model_dir().join("config.json"));
    let source = DenseSource::new(Safetensors::open(&model_dir()).unwrap());
    let tokens: Vec<_> = (0..300).map(|i| TokenId((i * 37 + 11) % 8000)).collect();
    let positions: Vec<_> = (0..300).collect();
    let run = |sizes: &[usize]| {
        let mut session = Session::new(backend, &spec, &source, Activations::Bf16, Layout::default());
        let (mut at, mut logits) = (0, Vec::new());
        for size in sizes {
            let range = at..at + size;
            let part = Part { slot: 0, tokens: &tokens[range.clone()], positions: &positions[range] };
            logits.extend(bits(&session.step(&[part]).remove(0)));
            at += size;
        }
        logits
    };
    let whole = run(&[300]);
    assert_eq!(whole.len(), 300 * spec.vocab_size);
    assert!(run(&[140, 100, 30, 16, 8, 2, 1, 1, 1, 1]) == whole, "{}", backend.info().name);
}
