//! Values against those of the package `gguf`: tests/python/gguf_blocks.py writes both files.

use std::path::PathBuf;

use nvllm_core::weight::{Checkpoint as _, DenseSource, Safetensors, TensorInfo};
use nvllm_core::{AxisRole, CanonicalTensor, Weight, WeightDecl, WeightPart, WeightSource};

use crate::{Gguf, blocks};

fn data(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file)
}

fn values(tensor: &CanonicalTensor) -> Vec<u32> {
    tensor.check("w").unwrap();
    let part = WeightPart { source: "w".into(), num_rows: tensor.num_rows(), role: AxisRole::Replicated };
    let (shape, parts) = (tensor.shape.clone(), vec![part]);
    let decl = WeightDecl { name: "w".into(), shape, parts, in_role: AxisRole::Replicated };
    let values = Weight { decl, segments: vec![tensor.clone()] }.to_f32().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn every_element_has_ggmls_value_to_the_bit() {
    let gguf = Gguf::open(&data("blocks.gguf")).unwrap();
    let expected =
        DenseSource::new(Safetensors::open_files(&data(""), &[data("blocks.safetensors")]).unwrap());
    assert_eq!(gguf.names(), expected.names());
    assert_eq!(gguf.names().len(), 11);
    for name in gguf.names() {
        let tensor = gguf.tensor(&name).unwrap();
        assert_eq!(tensor.kind.name, name.to_uppercase());
        let info = blocks::info(&name, tensor.kind, tensor.shape.clone()).unwrap();
        let found = blocks::tensor(tensor.kind, info.clone(), &tensor.bytes);
        assert_eq!((found.info(), found.bytes()), (info.clone(), info.bytes()), "{name}");
        assert!(info.format.plain().is_some() || info.format.to_string() == name, "{}", info.format);
        let expected = expected.tensor(&name).unwrap();
        assert_eq!(found.shape, expected.shape);
        assert_eq!(values(&found), values(&expected), "{name}");
    }
}

#[test]
fn the_packages_metadata_are_read() {
    let gguf = Gguf::open(&data("blocks.gguf")).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap(), ["a", "b c", "é"]);
    assert_eq!(metadata.f32s("tokenizer.ggml.scores").unwrap(), [0.5, -1.0]);
    assert_eq!(metadata.i32s("tokenizer.ggml.token_type").unwrap(), [1, 3]);
    assert_eq!(metadata.u64_opt("llama.context_length").unwrap(), Some(128));
}

#[test]
fn types_and_vectors_that_are_not_read_are_refused_by_name() {
    let gguf =
        super::write::File::new().tensor("t", &[256], 12, &[0; 144]).tensor("q", &[256, 1], 10, &[0; 84]);
    let gguf = gguf.open().unwrap();
    let refused = |name: &str| {
        let tensor = gguf.tensor(name).unwrap();
        blocks::info(name, tensor.kind, tensor.shape.clone())
            .map(|TensorInfo { .. }| ())
            .unwrap_err()
            .to_string()
    };
    assert!(refused("t").contains("tensor `t`: is a vector in Q4_K; vectors in F32"), "{}", refused("t"));
    assert!(refused("q").contains("tensor `q`: is in Q2_K; F32, F16, BF16, Q8_0"), "{}", refused("q"));
}
