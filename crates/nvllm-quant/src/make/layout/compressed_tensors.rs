//! The layout of compressed-tensors (0.20.1): `int-quantized`, `float-quantized` and
//! `pack-quantized`.
//!
//! | weights | `weight` | `weight_packed` | `weight_scale` | `weight_shape` |
//! |---|---|---|---|---|
//! | W8A8 | I8 `[n, k]` | | F32 `[n, 1]` | |
//! | FP8 | `F8_E4M3` `[n, k]` | | F32 `[n, 1]` | |
//! | int4 | | I32 `[n, k/8]` | BF16 or F16 `[n, k/group]` | I64 `[2]` |
//! | int8, inputs as they are | | I32 `[n, k/4]` | F32 `[n, 1]` | I64 `[2]` |
//!
//! Packed integers are moved to 0.. by half their range, and fill a word from its lowest bit up.

use bytes::Bytes;
use nvllm_core::weight::{Code, Offset, ScaleType};
use nvllm_core::{CanonicalTensor, Result, TensorInfo};
use serde_json::{Value, json};

use super::super::Format;
use super::entry::{Entry, matrix, unknown};

/// How a format is stored.
enum Stored {
    /// As bytes of this type.
    Plain(&'static str),
    /// In words that hold so many.
    Packed(usize),
}

fn stored(name: &str, info: &TensorInfo) -> Result<Stored> {
    match (info.format.code, info.format.offset, info.format.act) {
        (Code::I8, Offset::None, Some(_)) => Ok(Stored::Plain("I8")),
        (Code::E4M3, Offset::None, Some(_)) => Ok(Stored::Plain("F8_E4M3")),
        (Code::I8, Offset::None, None) => Ok(Stored::Packed(4)),
        (Code::U4, Offset::Midpoint, None) => Ok(Stored::Packed(8)),
        _ => Err(unknown(name, info)),
    }
}

pub(super) fn entries(name: &str, info: &TensorInfo) -> Result<Vec<Entry>> {
    let stored = stored(name, info)?;
    let scales = info.format.scales.ok_or_else(|| unknown(name, info))?;
    let advice = "; give another --group-size";
    let run = match stored {
        Stored::Packed(per_word) if info.format.code == Code::I8 => per_word,
        Stored::Packed(_) => scales.block[1],
        Stored::Plain(_) => 1,
    };
    let [rows, cols] = matrix(name, info, run, advice)?;
    let scale_type = match scales.kind {
        ScaleType::F32 => "F32",
        ScaleType::F16 => "F16",
        ScaleType::Bf16 => "BF16",
        _ => return Err(unknown(name, info)),
    };
    let scale = [rows, cols.div_ceil(scales.block[1])];
    let scale = Entry::new(format!("{name}_scale"), scale_type, scale);
    Ok(match stored {
        Stored::Plain(dtype) => vec![Entry::new(name.into(), dtype, [rows, cols]), scale],
        Stored::Packed(per_word) => vec![
            Entry::new(format!("{name}_packed"), "I32", [rows, cols / per_word]),
            scale,
            Entry::new(format!("{name}_shape"), "I64", [2]),
        ],
    })
}

pub(super) fn bytes(name: &str, tensor: &CanonicalTensor) -> Result<Vec<Bytes>> {
    let stored = stored(name, &tensor.info())?;
    entries(name, &tensor.info())?;
    let scales = tensor.scales.clone();
    let shape = tensor.shape.iter().flat_map(|&extent| (extent as u64).to_le_bytes()).collect::<Vec<_>>();
    Ok(match stored {
        Stored::Plain(_) => vec![tensor.codes.clone(), scales],
        // 4-bit codes are moved already, and lie as the words want them.
        Stored::Packed(8) => vec![tensor.codes.clone(), scales, shape.into()],
        Stored::Packed(_) => {
            let moved = tensor.codes.iter().map(|code| code ^ 0x80).collect::<Vec<_>>();
            vec![moved.into(), scales, shape.into()]
        }
    })
}

pub(super) fn config(layers: Format, head: Option<Format>, dense: &[String]) -> Value {
    let mut groups = serde_json::Map::new();
    let mut formats = Vec::new();
    let all = [(Some(layers), "Linear"), (head, "lm_head")].into_iter();
    for (format, target) in all.filter_map(|(format, target)| Some((format?, target))) {
        let (name, group) = scheme(format, target);
        groups.insert(format!("group_{}", formats.len()), group);
        formats.push(name);
    }
    formats.dedup();
    let format = if formats.len() == 1 { formats[0] } else { "mixed-precision" };
    json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": dense,
        "kv_cache_scheme": null,
        "global_compression_ratio": null,
    })
}

/// The name of a format's layout, and what is said of the modules `target`.
fn scheme(format: Format, target: &str) -> (&'static str, Value) {
    let (name, bits, kind, group, has_inputs) = match format {
        Format::Int8 => ("int-quantized", 8, "int", None, true),
        Format::Int8Weights => ("pack-quantized", 8, "int", None, false),
        Format::Int4 { group_size } => ("pack-quantized", 4, "int", Some(group_size), false),
        Format::Fp8 => ("float-quantized", 8, "float", None, true),
        Format::Nf4 => ("dense", 4, "float", Some(64), false),
    };
    let strategy = if group.is_some() { "group" } else { "channel" };
    let args = |strategy: &str, group: Option<usize>, dynamic: bool| {
        json!({
            "num_bits": bits, "type": kind, "symmetric": true, "strategy": strategy,
            "group_size": group, "dynamic": dynamic, "actorder": null, "block_structure": null,
        })
    };
    let inputs = if has_inputs { args("token", None, true) } else { Value::Null };
    let group = json!({
        "targets": [target],
        "weights": args(strategy, group, false),
        "input_activations": inputs,
        "output_activations": null,
        "format": name,
    });
    (name, group)
}
