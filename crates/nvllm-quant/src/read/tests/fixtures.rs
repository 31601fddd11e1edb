//! Checkpoints that the reference packages wrote (`tests/python/quant_fixtures.py`): each weight
//! has the value that its package computes.

use std::path::{Path, PathBuf};

use nvllm_core::weight::Safetensors;

use super::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/quant")
}

fn open(name: &str) -> Arranged {
    let dir = golden().join(name);
    let config = HfConfig::parse(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    super::super::weights(&config, Safetensors::open(&dir).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// FNV-1a of bytes.
fn hash(bytes: &[u8]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// How many representable numbers lie between.
fn ulps(a: f32, b: f32) -> u64 {
    let place = |x: f32| if x < 0.0 { -i64::from(x.abs().to_bits()) } else { i64::from(x.abs().to_bits()) };
    place(a).abs_diff(place(b))
}

#[test]
fn every_weight_has_the_value_that_its_package_computes() {
    let mut names: Vec<_> =
        std::fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 20, "{names:?}");
    for name in names.iter().map(|name| name.to_str().unwrap()) {
        let dir = golden().join(name);
        let expected: Value =
            serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
        let hashes = expected["hashes"].as_object().unwrap();
        assert_eq!(hashes.len(), 14, "{name}");
        let kept = Safetensors::open_files(&dir, &[dir.join("expected.safetensors")]).unwrap();
        let source = Dequantized::new(open(name), DType::F32);
        // bitsandbytes multiplies the code by the scale and then by 1 / 127; here 127 divides the
        // scale, since a scale is what a format has. Each way rounds twice, and 1 / 127 is rounded.
        let most = if name == "bnb_int8" { 3 } else { 0 };
        let mut num_kept = 0;
        for (weight, expected) in hashes {
            let bytes = source.tensor(weight).unwrap_or_else(|e| panic!("{name}: {e}")).codes;
            if let Ok(kept) = kept.raw(weight) {
                let (values, kept) = (numbers(&bytes), numbers(&kept.bytes));
                assert_eq!(kept.len(), values.len());
                num_kept += 1;
                let far = |(a, b): (&f32, &f32)| ulps(*a, *b) > most;
                if let Some(at) = values.iter().zip(&kept).position(far) {
                    panic!("{name}: element {at} of {weight} is {} and not {}", values[at], kept[at]);
                }
            }
            // As the script does it: zeros have no sign.
            let same: Vec<u8> = numbers(&bytes).iter().flat_map(|x| (x + 0.0).to_le_bytes()).collect();
            assert!(
                most > 0 || hash(&same) == *expected.as_str().unwrap(),
                "{name}: {weight} has other values"
            );
        }
        assert_eq!(num_kept, 2, "{name}");
    }
}

/// As the writer set them: 0.02, 0.021, .. in bf16.
#[test]
fn static_scales_of_inputs_come_with_their_weights() {
    for name in ["ct_w8a8_static", "ct_fp8_tensor"] {
        let source = open(name);
        let scale = |weight: &str| source.tensor(weight).unwrap().act_scale.unwrap();
        let first = scale("model.layers.0.self_attn.q_proj.weight");
        let last = scale("model.layers.1.mlp.down_proj.weight");
        assert!((first - 0.02).abs() < 1e-4 && (last - 0.033).abs() < 2e-4, "{name}: {first}, {last}");
    }
}
