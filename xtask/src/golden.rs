//! `cargo xtask golden`: how far every backend is from Hugging Face on every fixture, as a table.
//!
//! The tests hold these numbers to tolerances; this shows them.

use std::process::ExitCode;

use nvllm_core::{Activations, Backend, Reference};
use nvllm_tests::{Distance, Fixture, QWEN3_FIXTURES};

/// Prints the tables. Fails if f32 activations miss a tolerance or a greedy run.
pub(crate) fn command() -> ExitCode {
    let backends: [(&str, Box<dyn Backend>); 2] =
        [("reference", Box::new(Reference::default())), ("cpu", Box::new(nvllm_tests::cpu()))];
    println!("f32 activations against Hugging Face's f32: largest difference of logits and hidden states.\n");
    println!("| fixture | backend | logits | hidden | allowed | greedy runs equal |");
    println!("|---|---|---|---|---|---|");
    let mut holds = true;
    for (name, tolerance) in QWEN3_FIXTURES {
        let fixture = Fixture::load(name);
        let expected = fixture.expected();
        for (backend_name, backend) in &backends {
            let d = fixture.run(backend.as_ref(), "config.json", Activations::F32).distance(&expected);
            holds &= within(&d, tolerance);
            let (logits, hidden) = (d.logits, d.hidden);
            println!(
                "| {name} | {backend_name} | {logits:.1e} | {hidden:.1e} | {tolerance:.0e} | {}/{} |",
                d.num_equal, d.num_greedy
            );
        }
    }
    println!("\nbf16 activations: against the reference with the same rounding points, and against f32.\n");
    println!(
        "| fixture | backend | logits to bf16 reference | hidden | logits to f32 | hidden | greedy as f32 |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, _) in QWEN3_FIXTURES {
        let fixture = Fixture::load(name);
        let expected = fixture.expected();
        let rounded = fixture.run(&Reference::default(), "config.json", Activations::Bf16);
        for (backend_name, backend) in &backends {
            let values = fixture.run(backend.as_ref(), "config.json", Activations::Bf16);
            let (near, far) = (values.distance(&rounded), values.distance(&expected));
            println!(
                "| {name} | {backend_name} | {:.1e} | {:.1e} | {:.1e} | {:.1e} | {}/{} |",
                near.logits, near.hidden, far.logits, far.hidden, far.num_equal, far.num_greedy
            );
        }
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Not NaN, not above the tolerance, and the same words.
fn within(d: &Distance, tolerance: f32) -> bool {
    d.logits <= tolerance && d.hidden <= tolerance && d.num_equal == d.num_greedy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_of_any_kind_fails() {
        let good = Distance { logits: 1e-4, hidden: 1e-4, num_equal: 2, num_greedy: 2 };
        assert!(within(&good, 1e-3));
        for bad in [
            Distance { logits: 2e-3, ..good },
            Distance { hidden: 2e-3, ..good },
            Distance { logits: f32::NAN, ..good },
            Distance { num_equal: 1, ..good },
        ] {
            assert!(!within(&bad, 1e-3), "{bad:?}");
        }
    }
}
