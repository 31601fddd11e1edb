//! Quantised checkpoints that the reference packages wrote (`tests/python/quant_fixtures.py`): the
//! model has the logits that follow from the values of its weights. The values themselves:
//! `nvllm-quant/src/read/tests/fixtures.rs`.

use nvllm_core::weight::Dequantized;
use nvllm_core::{Activations, Backend, DType, Reference};
use nvllm_engine::Model;
use nvllm_engine::hub::ModelFiles;
use nvllm_tests::{Fixture, Layout, Session, golden_dir};

/// Each fixture, with the name of its linear layers' format, as `nvllm info` shows it.
const FIXTURES: [(&str, &str); 20] = [
    ("gptq_4bit", "gptq or awq in groups of 32"),
    ("gptq_4bit_act_order", "gptq act-order in groups of 32"),
    ("gptq_4bit_v2", "gptq or awq in groups of 32"),
    ("gptq_8bit", "gptq 8 bits in groups of all"),
    ("awq", "w4a16 asymmetric in groups of 32"),
    ("bnb_int8", "int8 channel"),
    ("bnb_nf4", "nf4"),
    ("bnb_nf4_double", "nf4"),
    ("bnb_fp4_double", "fp4"),
    ("ct_w8a8", "w8a8"),
    ("ct_w8a8_static", "w8a8 static"),
    ("ct_w8a8_naive", "w8a8"),
    ("ct_w4a16", "w4a16 in groups of 32"),
    ("ct_w4a16_asym", "w4a16 asymmetric in groups of 32"),
    ("ct_w8a16_asym", "w8a16 asymmetric in groups of all"),
    ("ct_mixed", "w4a16 in groups of 32"),
    ("ct_fp8_channel", "fp8 channel"),
    ("ct_fp8_tensor", "fp8 static"),
    ("ct_fp8_block", "fp8 128x128"),
    ("fp8_blocks", "fp8 128x128"),
];

fn open(name: &str) -> Model {
    let files = ModelFiles::in_directory(&golden_dir().join("quant").join(name)).unwrap();
    Model::open(&files).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Inputs stay as they are: how formats round them is core's business, and tested there.
#[test]
fn logits_and_greedy_tokens_are_those_of_the_values() {
    for (name, format) in FIXTURES {
        let (fixture, model) = (Fixture::load(&format!("quant/{name}")), open(name));
        let formats: Vec<_> = model.weight_formats().unwrap().iter().map(ToString::to_string).collect();
        assert!(formats.iter().any(|known| known == format), "{name}: {formats:?}");
        assert!(formats.iter().any(|known| known == "bf16"), "{name}: its head is dense: {formats:?}");
        assert_eq!(model.dtype, DType::Bf16, "{name}");
        assert!(model.remarks.is_empty(), "{name}: {:?}", model.remarks);
        let sequence = &fixture.sequences[0];
        let source = Dequantized::new(model.source.as_ref(), DType::F32);
        let mut session =
            Session::new(&Reference::default(), &model.spec, &source, Activations::F32, Layout::default());
        let logits = session.logits(&sequence.input_ids, &sequence.position_ids);
        let off = logits.iter().zip(&sequence.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(logits.len() == sequence.logits.len() && off <= 1e-3, "{name}: logits off by {off}");
        session.clear();
        let greedy = session.greedy(&sequence.input_ids, &sequence.position_ids, sequence.greedy_24.len());
        assert_eq!(greedy, sequence.greedy_24, "{name}");
    }
}

/// On a backend that has kernels for some formats and none for others, whichever they are: as the
/// reference runs the same weights, which may come with rounded inputs.
#[test]
fn the_cpu_runs_them_as_the_reference_does() {
    let (cpu, reference) = (nvllm_tests::cpu(), Reference::default());
    for (name, _) in FIXTURES {
        let (fixture, model) = (Fixture::load(&format!("quant/{name}")), open(name));
        let sequence = &fixture.sequences[0];
        let limits = nvllm_tests::limits(&model.spec, Activations::F32, &Layout::default());
        let source = model.weights(&cpu, &limits).unwrap();
        let logits = |backend: &dyn Backend| {
            let mut session =
                Session::new(backend, &model.spec, &source, Activations::F32, Layout::default());
            session.logits(&sequence.input_ids, &sequence.position_ids)
        };
        let (ours, expected) = (logits(&cpu), logits(&reference));
        let off = ours.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let rounds = model.weight_formats().unwrap().iter().any(|format| format.act.is_some());
        eprintln!("{name}: {off}");
        // An input that lies on a border may be rounded to its other side, a whole step away.
        let most = if rounds { 0.1 } else { 1e-3 };
        assert!(off <= most, "{name}: logits off by {off}");
    }
}
