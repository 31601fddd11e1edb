//! Every fixture against Hugging Face: wrong mathematics shows here.

use nvllm_core::{Activations, Backend};

use crate::{FIXTURES, Fixture};

/// Holds `backend` to every fixture and both config layouts.
pub fn check_f32(backend: &dyn Backend) {
    for (name, tolerance) in FIXTURES {
        let fixture = Fixture::load(name);
        let expected = fixture.expected();
        assert!(!expected.hidden.is_empty() && !expected.greedy.is_empty(), "{name}: nothing to compare");
        for config in ["config.json", "config_v5.json"] {
            let d = fixture.run(backend, config, Activations::F32).distance(&expected);
            println!("{name}/{config}: {d:?}");
            assert!(d.logits <= tolerance, "{name}/{config}: logits off by {}", d.logits);
            assert!(d.hidden <= tolerance, "{name}/{config}: hidden states off by {}", d.hidden);
            assert_eq!(d.num_equal, d.num_greedy, "{name}/{config}: greedy runs that are equal");
        }
    }
}

/// Holds `backend` to what rounding to bf16 may move.
pub fn check_bf16(backend: &dyn Backend) {
    println!("{:28} ours to reference   ours to f32   reference to f32", "fixture");
    for (name, _) in FIXTURES {
        let rounded = Fixture::load(name).rounded(backend);
        let [apart, off, rounding] = [rounded.apart, rounded.off, rounded.rounding].map(|d| d.logits);
        println!("{name:28} {apart:>16.4} {off:>14.4} {rounding:>14.4}");
        assert!(rounded.holds(), "{name}: {rounded:?}");
    }
}
