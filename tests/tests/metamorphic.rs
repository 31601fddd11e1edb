//! The same logits, bit for bit, in any company.

use nvllm_core::{Activations, Backend, Reference};
use nvllm_tests::checks::metamorphic::{FIXTURES, bits, check, check_step_sizes};
use nvllm_tests::{Fixture, Layout, Part, Session};

#[test]
fn reference() {
    check(&Reference::default());
}

#[test]
fn cpu() {
    check(&nvllm_tests::cpu());
}

#[test]
fn cuda() {
    nvllm_tests::on_cuda(|cuda| check(cuda));
}

#[test]
fn cpu_step_sizes() {
    check_step_sizes(&nvllm_tests::cpu());
}

#[test]
fn cuda_step_sizes() {
    nvllm_tests::on_cuda(|cuda| check_step_sizes(cuda));
}

/// Decode steps of one sequence and of three, replayed and launched kernel by kernel.
#[test]
fn cuda_graphs_equal_eager() {
    let (graphs, eager) = match (nvllm_tests::cuda(true), nvllm_tests::cuda(false)) {
        (Ok(graphs), Ok(eager)) => (graphs, eager),
        (Err(reason), _) | (_, Err(reason)) => return println!("skipped: {reason}"),
    };
    for name in FIXTURES {
        let fixture = Fixture::load(name);
        let spec = fixture.spec("config.json");
        for activations in [Activations::F32, Activations::Bf16] {
            let decode = |backend: &dyn Backend, num_seqs: usize| {
                let mut session =
                    Session::new(backend, &spec, &fixture.source(), activations, Layout::default());
                let sequence = &fixture.sequences[0];
                let pairs = sequence.input_ids.iter().zip(&sequence.position_ids).take(20);
                let one = |(token, position)| {
                    let (tokens, positions) = (std::slice::from_ref(token), std::slice::from_ref(position));
                    let parts: Vec<_> = (0..num_seqs).map(|slot| Part { slot, tokens, positions }).collect();
                    session.step(&parts).iter().map(|row| bits(row)).collect::<Vec<_>>()
                };
                pairs.map(one).collect::<Vec<_>>()
            };
            for num_seqs in [1, 3] {
                let same = decode(&graphs, num_seqs) == decode(&eager, num_seqs);
                assert!(same, "{name} {activations:?}: {num_seqs} sequences");
            }
        }
    }
}
