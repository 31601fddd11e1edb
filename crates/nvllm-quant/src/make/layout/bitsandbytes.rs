//! The layout of bitsandbytes (0.50.2) for NF4.
//!
//! | tensor | what |
//! |---|---|
//! | `weight` | U8 `[n*k/2, 1]`: codes in pairs, the earlier one in the high nibble |
//! | `weight.quant_map` | F32 `[16]`: the value of each code |
//! | `weight.absmax` | F32, a scale for each 64 elements of the flattened tensor; U8 codes of them if they are quantised too |
//! | `weight.nested_absmax` | F32, a scale for each 256 of those |
//! | `weight.nested_quant_map` | F32 `[256]`: the value of each of their codes |
//! | `weight.quant_state.bitsandbytes__nf4` | U8: JSON, padded with spaces; the mean that was taken off the scales is in it |
//!
//! Source of the 8-bit map: Dettmers 2016, "8-Bit Approximations for Parallelism in Deep Learning"
//! (arXiv 1511.04561); of the quantised scales: Dettmers et al. 2023 (arXiv 2305.14314).

use bytes::Bytes;
use nvllm_core::weight::{Code, Table};
use nvllm_core::{CanonicalTensor, Result, TensorInfo};
use serde_json::{Value, json};

use super::entry::{Entry, matrix, unknown};

/// Elements that share a scale, and scales that do.
const BLOCK: usize = 64;
const NESTED_BLOCK: usize = 256;
/// Bytes of the JSON: more than the longest.
const STATE_LEN: usize = 256;

/// Elements of the tensor.
fn size(name: &str, info: &TensorInfo) -> Result<usize> {
    if info.format.code != Code::Lut4(Table::Nf4) {
        return Err(unknown(name, info));
    }
    // Then blocks of rows are blocks of the flattened tensor.
    let [rows, cols] = matrix(name, info, BLOCK, ": bitsandbytes' blocks would go from row to row")?;
    Ok(rows * cols)
}

pub(super) fn entries(name: &str, info: &TensorInfo, double_quant: bool) -> Result<Vec<Entry>> {
    let size = size(name, info)?;
    let entry = |end: &str, dtype, shape: &[usize]| Entry::new(format!("{name}{end}"), dtype, shape);
    let mut entries = vec![
        entry("", "U8", &[size / 2, 1]),
        entry(".absmax", if double_quant { "U8" } else { "F32" }, &[size / BLOCK]),
        entry(".quant_map", "F32", &[16]),
        entry(".quant_state.bitsandbytes__nf4", "U8", &[STATE_LEN]),
    ];
    if double_quant {
        entries.push(entry(".nested_absmax", "F32", &[(size / BLOCK).div_ceil(NESTED_BLOCK)]));
        entries.push(entry(".nested_quant_map", "F32", &[256]));
    }
    Ok(entries)
}

pub(super) fn bytes(
    name: &str,
    tensor: &CanonicalTensor,
    model_dtype: &str,
    double_quant: bool,
) -> Result<Vec<Bytes>> {
    size(name, &tensor.info())?;
    let codes = tensor.codes.iter().map(|pair| pair.rotate_left(4)).collect::<Vec<_>>();
    let mut state = json!({
        "quant_type": "nf4", "blocksize": BLOCK, "dtype": model_dtype, "shape": tensor.shape,
    });
    let map = floats(Table::Nf4.values());
    if !double_quant {
        return Ok(vec![codes.into(), tensor.scales.clone(), map, padded(&state)]);
    }
    let scales: Vec<_> = tensor.scales.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let nested = Nested::of(&scales);
    state["nested_blocksize"] = NESTED_BLOCK.into();
    state["nested_dtype"] = "float32".into();
    state["nested_offset"] = nested.offset.into();
    Ok(vec![
        codes.into(),
        nested.codes.into(),
        map,
        padded(&state),
        floats(&nested.scales),
        floats(&nested.values),
    ])
}

fn floats(values: &[f32]) -> Bytes {
    values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>().into()
}

/// The JSON, as long as it was announced.
fn padded(state: &Value) -> Bytes {
    let mut text = state.to_string().into_bytes();
    text.resize(STATE_LEN.max(text.len()), b' ');
    text.into()
}

/// Scales in 8 bits.
struct Nested {
    offset: f32,
    codes: Vec<u8>,
    scales: Vec<f32>,
    values: [f32; 256],
}

impl Nested {
    fn of(scales: &[f32]) -> Self {
        let mean = scales.iter().map(|&x| f64::from(x)).sum::<f64>() / scales.len().max(1) as f64;
        let (offset, values) = (mean as f32, dynamic_map());
        let mut nested = Self { offset, codes: Vec::with_capacity(scales.len()), scales: Vec::new(), values };
        for block in scales.chunks(NESTED_BLOCK) {
            let most = block.iter().fold(0.0, |most: f32, x| most.max((x - offset).abs()));
            let code = |x: &f32| nearest(&values, if most == 0.0 { 0.0 } else { (x - offset) / most });
            nested.codes.extend(block.iter().map(code));
            nested.scales.push(most);
        }
        nested
    }
}

/// Where the value nearest to `x` is in a sorted table.
fn nearest(values: &[f32; 256], x: f32) -> u8 {
    let above = values.partition_point(|&value| value < x).min(255);
    let below = above.saturating_sub(1);
    (if x - values[below] < values[above] - x { below } else { above }) as u8
}

/// 256 values within +-1, sorted: for each power of ten from -6 to 0, with a sign, the middles of
/// 1, 2, 4 .. 64 equal parts of the tenth to the whole of it; 0 and 1.
fn dynamic_map() -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut at = 2;
    values[1] = 1.0;
    for exponent in 0..7_i32 {
        let (parts, unit) = (1 << exponent, 10_f64.powi(exponent - 6));
        for part in 0..parts {
            let middle = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts);
            for sign in [1.0, -1.0] {
                values[at] = (sign * unit * middle) as f32;
                at += 1;
            }
        }
    }
    values.sort_by(f32::total_cmp);
    values
}

pub(super) fn config(dense: &[String], model_dtype: &str, double_quant: bool) -> Value {
    json!({
        "quant_method": "bitsandbytes",
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": model_dtype,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_use_double_quant": double_quant,
        "llm_int8_skip_modules": dense,
        "llm_int8_threshold": 6.0,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_enable_fp32_cpu_offload": false,
    })
}
