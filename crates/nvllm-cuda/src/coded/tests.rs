use nvllm_core::weight::pack::pack;
use nvllm_core::weight::table::e4m3_to_f32;
use nvllm_core::weight::{ActQuant, PUBLIC, ScaleType};
use nvllm_core::{CanonicalTensor, DType, TensorInfo, WeightFormat, WeightInfo};

use super::*;

/// A tensor of `format` with bytes of a counter, whose scales are small numbers.
fn tensor(format: WeightFormat, rows: usize, cols: usize, seed: u32) -> CanonicalTensor {
    let info = TensorInfo { shape: vec![rows, cols], format };
    let random =
        |i: usize, bits: usize| (i as u32).wrapping_add(seed).wrapping_mul(2_654_435_761) >> (32 - bits);
    let Some(scales) = format.scales else { unreachable!() };
    let floats = |kind: ScaleType, block: [usize; 2], part: usize| {
        let (n, k) = (rows.div_ceil(block[0]), cols.div_ceil(block[1]));
        let raw = |i: usize| {
            let x = 0.5 + random(i * 7 + part, 10) as f32 / 1024.0;
            let mut bytes = Vec::new();
            let dtype = match kind {
                ScaleType::F32 => DType::F32,
                ScaleType::F16 => DType::F16,
                ScaleType::Bf16 => DType::Bf16,
                _ => return 0x20 + random(i * 3 + part, 4),
            };
            dtype.write(x, &mut bytes);
            bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
        };
        pack((0..n * k).map(raw), kind.bits(), k)
    };
    let bits = format.code.bits();
    // E4M3: no NaN.
    let code = |i: usize| if bits == 8 { random(i, 8) & 0xf7 } else { random(i, bits) };
    let (n, k) = (rows.div_ceil(scales.block[0]), cols.div_ceil(scales.block[1]));
    let (mut offsets, mut second_offsets) = Default::default();
    let mut second_scales = bytes_of_none();
    if let Some(second) = scales.second {
        second_scales = floats(second.kind, second.block, 3);
    }
    match format.offset {
        nvllm_core::weight::Offset::Int => offsets = pack((0..n * k).map(|i| code(i + 99)), bits, k),
        nvllm_core::weight::Offset::Float => {
            offsets = floats(scales.kind, scales.block, 5);
            if let Some(second) = scales.second {
                second_offsets = floats(second.kind, second.block, 8);
            }
        }
        _ => {}
    }
    let order: Vec<u32> = (0..cols as u32).rev().collect();
    let dense = CanonicalTensor::dense(DType::F32, info.shape.clone(), bytes_of_none());
    let tensor = CanonicalTensor {
        format,
        codes: pack((0..rows * cols).map(code), bits, cols),
        scales: floats(scales.kind, scales.block, 1),
        offsets,
        second_scales,
        second_offsets,
        k_perm: format.permuted.then(|| order.into()),
        act_scale: format.act.filter(|act| act.is_static()).map(|_| 0.5),
        ..dense
    };
    tensor.check("t").unwrap();
    tensor
}

fn bytes_of_none() -> bytes::Bytes {
    bytes::Bytes::new()
}

/// As coded.cuh reads an element.
fn value(form: &Form, codes: &[u8], scales: &[u8], row: usize, col: usize) -> f32 {
    let codes = &codes[row * form.pitch()..];
    let byte = if form.bits() == 8 { codes[col & !3 | (col & 1) << 1 | col >> 1 & 1] } else { 0 };
    let place = (col & 7) >> 1 | (col & 1) << 2;
    let nibble = usize::from(codes[(col & !7 | place) / 2] >> (place % 2 * 4) & 15);
    let code = match form.code {
        Code::I8 => f32::from(byte as i8),
        Code::E4M3 => e4m3_to_f32(byte),
        Code::U4 => nibble as f32,
        Code::Table => form.table.unwrap().values()[nibble],
    };
    let at = (row / 8 * form.blocks() + col / form.group) * 8 + row % 8;
    let read = |at| DType::F32.read(scales, at);
    match form.offset {
        Offset::None => read(at) * code,
        Offset::Midpoint => read(at) * (code - 8.0),
        Offset::Int => read(2 * at) * (code - read(2 * at + 1)),
        Offset::Float => read(2 * at) * code + read(2 * at + 1),
    }
}

/// Every public format, two parts of it in one run, of rows and columns that end inside octets,
/// blocks and lines.
#[test]
fn a_kernel_reads_the_values_of_every_format() {
    for (name, format) in PUBLIC {
        for cols in [300, 512, 37] {
            let parts = [tensor(format, 13, cols, 1), tensor(format, 140, cols, 2)];
            let info = WeightInfo { parts: parts.iter().map(CanonicalTensor::info).collect() };
            let runs = runs(&info).unwrap();
            let together = !format.permuted && !format.act.is_some_and(ActQuant::is_static);
            assert_eq!(runs.len(), if together { 1 } else { 2 }, "{name}");
            for run in runs {
                let (parts, form) = (&parts[run.parts], run.form);
                let codes: Vec<u8> = parts.iter().flat_map(|part| codes_of(&form, part)).collect();
                let scales = scales_of(&form, parts);
                assert_eq!([codes.len(), scales.len()], form.sizes(run.rows.len())[..2], "{name}");
                let (mut row, mut expected) = (0, vec![0.0; cols]);
                for part in parts {
                    for at in 0..part.num_rows() {
                        let dense = nvllm_core::Weight { decl: decl(part), segments: vec![part.clone()] };
                        dense.dequant_row(at, &mut expected).unwrap();
                        for col in 0..cols {
                            let logical = part.k_perm.as_ref().map_or(col, |order| order[col] as usize);
                            let found = value(&form, &codes, &scales, row, col);
                            assert_eq!(found.to_bits(), expected[logical].to_bits(), "{name}: {row}, {col}");
                        }
                        row += 1;
                    }
                }
            }
        }
    }
}

fn decl(part: &CanonicalTensor) -> nvllm_core::WeightDecl {
    nvllm_core::WeightDecl {
        name: "w".into(),
        shape: part.shape.clone(),
        parts: Vec::new(),
        in_role: nvllm_core::AxisRole::Replicated,
    }
}

#[test]
fn a_nan_among_codes_of_fp8_is_its_blocks_scale() {
    let format = PUBLIC.iter().find(|(name, _)| *name == "fp8 128x128").unwrap().1;
    let mut part = tensor(format, 3, 256, 1);
    let mut codes = part.codes.to_vec();
    codes[256 + 130] = 0xff;
    part.codes = codes.into();
    let form = Form::new(&part.info()).unwrap();
    let scales = scales_of(&form, &[part]);
    let nans = (0..16).filter(|&i| DType::F32.read(&scales, i).is_nan());
    assert_eq!(nans.collect::<Vec<_>>(), [9]);
}

#[test]
fn formats_that_differ_are_runs_of_their_own() {
    let of = |name: &str| PUBLIC.iter().find(|(public, _)| *public == name).unwrap().1;
    let part = |name, rows| TensorInfo { shape: vec![rows, 64], format: of(name) };
    let info = WeightInfo { parts: vec![part("q4_0", 3), part("q4_0", 5), part("q8_0", 2), part("q4_0", 1)] };
    let rows: Vec<_> = runs(&info).unwrap().into_iter().map(|run| (run.rows, run.parts)).collect();
    assert_eq!(rows, [(0..8, 0..2), (8..10, 2..3), (10..11, 3..4)]);
    let mixed = WeightInfo { parts: vec![part("q4_0", 3), TensorInfo::dense(DType::Bf16, [5, 64])] };
    assert!(runs(&mixed).unwrap_err().0.contains("bf16"));
}
