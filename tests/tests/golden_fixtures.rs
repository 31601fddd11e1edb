//! Every Qwen3 fixture against Hugging Face: wrong mathematics shows here.

use std::fmt::Write as _;

use nvllm_core::{Activations, Backend, Reference};
use nvllm_tests::{Fixture, Layout, Session};

/// Fixture and tolerance on logits and hidden states with f32 activations. `d`'s RoPE angles are f32 in the reference.
const CASES: [(&str, f32); 9] = [
    ("a_qwen3_tied_gqa", 1e-3),
    ("b_qwen3_untied_sharded", 1e-3),
    ("c_qwen3_headdim32", 1e-3),
    ("d_qwen3_theta1e6_longpos", 5e-3),
    ("e_qwen3_yarn", 1e-3),
    ("f_qwen3_sliding", 1e-3),
    ("g_qwen3_attnbias", 1e-3),
    ("h1_qwen3moe_norm", 1e-3),
    ("h2_qwen3moe_nonorm_sparse2", 1e-3),
];

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |worst, d| if d.is_nan() { f32::NAN } else { worst.max(d) })
}

/// Holds `backend` to every fixture and both config layouts; prints the worst errors.
fn check_f32(backend: &dyn Backend) {
    let mut table = String::from("fixture                      logits    hidden    greedy\n");
    for (name, tolerance) in CASES {
        let fixture = Fixture::load(name);
        for config in ["config.json", "config_v5.json"] {
            let mut spec = fixture.spec(config, nvllm_model_qwen3::build);
            (0..fixture.hidden.len()).for_each(|l| spec.keep(&format!("hidden.{l}")).unwrap());
            let mut session =
                Session::new(backend, &spec, &fixture.source(), Activations::F32, Layout::default());
            let (mut logits_worst, mut hidden_worst, mut greedy) = (0.0_f32, 0.0_f32, 0);
            for sequence in &fixture.sequences {
                session.clear();
                let logits = session.logits(&sequence.input_ids, &sequence.position_ids);
                let error = worst(&logits, &sequence.logits);
                assert!(
                    error <= tolerance,
                    "{name}/{config} sequence {}: logits off by {error}",
                    sequence.seq
                );
                logits_worst = logits_worst.max(error);
                if sequence.seq == 0 {
                    for (l, expected) in fixture.hidden.iter().enumerate() {
                        let kept =
                            session.exe.kept(&format!("hidden.{l}")).unwrap().to_host().unwrap().to_f32();
                        let error = worst(&kept, expected);
                        assert!(error <= tolerance, "{name}/{config}: hidden state {l} off by {error}");
                        hidden_worst = hidden_worst.max(error);
                    }
                }
                if !sequence.greedy_24.is_empty() {
                    session.clear();
                    let got =
                        session.greedy(&sequence.input_ids, &sequence.position_ids, sequence.greedy_24.len());
                    assert_eq!(got, sequence.greedy_24, "{name}/{config} sequence {}", sequence.seq);
                    greedy += 1;
                }
            }
            assert!(greedy > 0, "{name}: no greedy run");
            writeln!(table, "{name:28} {logits_worst:.1e}   {hidden_worst:.1e}   {greedy} x 24 equal")
                .unwrap();
        }
    }
    println!("{}: worst errors with f32 activations\n{table}", backend.info().name);
}

#[test]
fn reference_f32() {
    check_f32(&Reference::default());
}
