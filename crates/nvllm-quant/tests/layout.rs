//! What is written for other engines: names, types, extents, bytes.

use bytes::Bytes;
use half::bf16;
use nvllm_core::weight::Table;
use nvllm_core::{CanonicalTensor, DType};
use nvllm_quant::make::{Entry, Format, Layout, quantize};
use serde_json::Value;

fn dense(cols: usize, values: &[f32]) -> CanonicalTensor {
    let mut bytes = Vec::new();
    values.iter().for_each(|&x| DType::Bf16.write(x, &mut bytes));
    CanonicalTensor::dense(DType::Bf16, [values.len() / cols, cols], Bytes::from(bytes))
}

/// What a file has of `x` in `format`, as `name dtype shape`, and the bytes.
fn stored(format: Format, double_quant: bool, cols: usize, x: &[f32]) -> Vec<(String, Bytes)> {
    let tensor = quantize("a.weight", &dense(cols, x), format).unwrap();
    let layout = Layout::of(format, double_quant);
    let entries = layout.entries("a.weight", &tensor.info()).unwrap();
    let bytes = layout.bytes("a.weight", &tensor, "bfloat16").unwrap();
    assert_eq!(entries.len(), bytes.len());
    let line = |entry: &Entry| format!("{} {} {:?}", entry.name, entry.dtype, entry.shape);
    entries
        .iter()
        .zip(bytes)
        .map(|(entry, bytes)| {
            assert_eq!(entry.bytes(), bytes.len(), "{entry:?}");
            (line(entry), bytes)
        })
        .collect()
}

fn f32s(bytes: &Bytes) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

#[test]
fn int8_is_int_quantized() {
    let files = stored(Format::Int8, false, 4, &[127.0, -127.0, 3.0, 0.0, 0.0, 0.5, -63.5, 1.0]);
    let names: Vec<_> = files.iter().map(|(line, _)| line.as_str()).collect();
    assert_eq!(names, ["a.weight I8 [2, 4]", "a.weight_scale F32 [2, 1]"]);
    assert_eq!(files[0].1, [127, 129, 3, 0, 0, 1, 129, 2].as_slice());
    assert_eq!(f32s(&files[1].1), [1.0, 0.5]);
}

#[test]
fn fp8_is_float_quantized() {
    let files = stored(Format::Fp8, false, 3, &[448.0, -1.0, 0.0]);
    let names: Vec<_> = files.iter().map(|(line, _)| line.as_str()).collect();
    assert_eq!(names, ["a.weight F8_E4M3 [1, 3]", "a.weight_scale F32 [1, 1]"]);
    assert_eq!(files[0].1, [0x7e, 0xb8, 0].as_slice());
    assert_eq!(f32s(&files[1].1), [1.0]);
}

/// The words of -8, -7 .. are those that compressed-tensors 0.20.1 writes.
#[test]
fn int4_is_pack_quantized() {
    let x: Vec<f32> = (0..64).map(|i| (i % 8) as f32 - 8.0).collect();
    let files = stored(Format::Int4 { group_size: 32 }, false, 64, &x);
    let names: Vec<_> = files.iter().map(|(line, _)| line.as_str()).collect();
    let expected = ["a.weight_packed I32 [1, 8]", "a.weight_scale BF16 [1, 2]", "a.weight_shape I64 [2]"];
    assert_eq!(names, expected);
    assert_eq!(files[0].1, [0x10, 0x32, 0x54, 0x76].repeat(8));
    assert_eq!(files[1].1, bf16::from_f32(1.0).to_le_bytes().repeat(2));
    assert_eq!(files[2].1, [1_u64, 64].map(u64::to_le_bytes).concat());
}

#[test]
fn a_head_of_8_bits_is_packed_too() {
    let files = stored(Format::Int8Weights, false, 4, &[-127.0, 0.0, 1.0, 127.0]);
    let names: Vec<_> = files.iter().map(|(line, _)| line.as_str()).collect();
    let expected = ["a.weight_packed I32 [1, 1]", "a.weight_scale F32 [1, 1]", "a.weight_shape I64 [2]"];
    assert_eq!(names, expected);
    assert_eq!(files[0].1, [1, 128, 129, 255].as_slice());
}

/// Values of the table, each under its own scale.
#[test]
fn nf4_is_bitsandbytes() {
    let values = Table::Nf4.values();
    let x: Vec<f32> = (0..128).map(|i| values[i % 16] * if i < 64 { 2.0 } else { 0.5 }).collect();
    let files = stored(Format::Nf4, false, 64, &x);
    let names: Vec<_> = files.iter().map(|(line, _)| line.as_str()).collect();
    let state = "a.weight.quant_state.bitsandbytes__nf4 U8 [256]";
    let expected = ["a.weight U8 [64, 1]", "a.weight.absmax F32 [2]", "a.weight.quant_map F32 [16]", state];
    assert_eq!(names, expected);
    // The earlier code is in the high nibble.
    assert_eq!(files[0].1, [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef].repeat(8));
    assert_eq!(f32s(&files[1].1), [2.0, 0.5]);
    assert_eq!(f32s(&files[2].1), values);
    let state: Value = serde_json::from_slice(&files[3].1).unwrap();
    assert_eq!(state["shape"], serde_json::json!([2, 64]));
    assert_eq!(
        (&state["quant_type"], &state["blocksize"], &state["dtype"]),
        (&"nf4".into(), &64.into(), &"bfloat16".into())
    );
}

/// The scales as a reader of the file sees them are near, and those that all are equal are exact.
#[test]
fn scales_of_nf4_can_be_quantised_too() {
    let x: Vec<f32> = (0..64 * 600).map(|i| (1 + i / 64) as f32 / 600.0).collect();
    let files = stored(Format::Nf4, true, 128, &x);
    let find =
        |end: &str| &files.iter().find(|(line, _)| line.starts_with(&format!("a.weight{end} "))).unwrap().1;
    let (nested, map) = (f32s(find(".nested_absmax")), f32s(find(".nested_quant_map")));
    assert_eq!((nested.len(), map.len()), (3, 256));
    assert!(map.is_sorted() && map[0] > -1.0 && map[255] == 1.0 && map.contains(&0.0));
    let state: Value = serde_json::from_slice(find(".quant_state.bitsandbytes__nf4")).unwrap();
    let offset = state["nested_offset"].as_f64().unwrap() as f32;
    for (i, &code) in find(".absmax").iter().enumerate() {
        let (scale, exact) = (map[usize::from(code)] * nested[i / 256] + offset, x[i * 64]);
        assert!((scale - exact).abs() < 0.01, "scale {i} is {scale} and was {exact}");
    }
}

#[test]
fn what_does_not_go_into_a_layout_is_refused_by_name() {
    for (format, cols, number) in [
        (Format::Int4 { group_size: 128 }, 192, "128"),
        (Format::Nf4, 96, "64"),
        (Format::Int8Weights, 6, "4"),
    ] {
        let tensor = quantize("a", &dense(cols, &vec![1.0; cols]), format).unwrap();
        let message = Layout::of(format, false).entries("a.weight", &tensor.info()).unwrap_err().to_string();
        assert!(message.contains("`a.weight`") && message.contains(number), "{message}");
    }
    let head = Layout::of(Format::Nf4, false).config(Format::Nf4, Some(Format::Int8Weights), &[], "float32");
    assert!(head.is_err());
}

#[test]
fn a_config_says_what_lies_in_the_files() {
    let dense = ["lm_head".to_owned()];
    let config = |layers, head| Layout::of(layers, false).config(layers, head, &dense, "bfloat16").unwrap();
    for (format, name, inputs) in [
        (Format::Int8, "int-quantized", true),
        (Format::Fp8, "float-quantized", true),
        (Format::Int4 { group_size: 64 }, "pack-quantized", false),
    ] {
        let config = config(format, None);
        let group = &config["config_groups"]["group_0"];
        assert_eq!((&config["format"], &config["ignore"][0]), (&name.into(), &"lm_head".into()));
        assert_eq!(group["input_activations"].is_object(), inputs);
        assert_eq!(group["weights"]["symmetric"], true);
    }
    let mixed = config(Format::Int8, Some(Format::Int8Weights));
    assert_eq!(mixed["format"], "mixed-precision");
    assert_eq!(mixed["config_groups"]["group_1"]["targets"][0], "lm_head");
    assert_eq!(config(Format::Nf4, None)["bnb_4bit_quant_type"], "nf4");
}
