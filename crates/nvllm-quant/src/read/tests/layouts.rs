//! What the bits mean, by hand.

use nvllm_core::weight::Table;
use proptest::prelude::*;

use super::*;

/// 8 x 8 codes of which code `(row, col)` is `(row + col) % 16`, in a group of 8 columns, a scale
/// of 1, and these words of zero points.
fn gptq_of(zeros: u32) -> Files {
    let words: Vec<u32> = (0..8).map(|row| (0..8).map(|col| ((row + col) % 16) << (4 * col)).sum()).collect();
    Files::default().words("m.qweight", &[1, 8], &words).words("m.qzeros", &[1, 1], &[zeros]).f16s(
        "m.scales",
        &[1, 8],
        &[1.0; 8],
    )
}

/// The zero point of each row.
fn zero_points(config: &Value, files: &Files) -> Vec<f32> {
    values(config, files)
        .chunks(8)
        .enumerate()
        .map(|(row, values)| {
            for (col, x) in values.iter().enumerate() {
                assert_eq!(x - values[0], ((row + col) % 16) as f32 - (row % 16) as f32);
            }
            row as f32 - values[0]
        })
        .collect()
}

/// What `GPTQModel` was seen to write: 1 is subtracted from all nibbles of a word at once.
#[test]
fn zero_points_of_v1_borrow_from_their_neighbours() {
    let v1 = gptq(4, 8, "gptq", false);
    assert_eq!(zero_points(&v1, &gptq_of(0xeeee_eeef)), [0.0; 8]);
    assert_eq!(zero_points(&v1, &gptq_of(0x4444_443f)), [0.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]);
    assert_eq!(zero_points(&v1, &gptq_of(0x7777_7777)), [8.0; 8]);
    // A file that does not say is of v1.
    let silent = json!({"quant_method": "gptq", "bits": 4, "group_size": 8});
    assert_eq!(zero_points(&silent, &gptq_of(0x7777_7777)), [8.0; 8]);
}

#[test]
fn zero_points_of_v2_are_as_they_are() {
    let v2 = gptq(4, 8, "gptq_v2", false);
    assert_eq!(zero_points(&v2, &gptq_of(0x7654_3210)), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
}

#[test]
fn eight_bits_of_gptq_are_unsigned() {
    let files = Files::default()
        .words("m.qweight", &[1, 4], &[0xff80_0100, 0, 0x0403_0201, 0xffff_ffff])
        .words("m.qzeros", &[1, 1], &[0xfe7f_03ff])
        .bf16s("m.scales", &[1, 4], &[1.0, 1.0, 2.0, 1.0]);
    let got = values(&gptq(8, -1, "gptq", false), &files);
    // 0xfe7f03ff and 1 in each byte, the first carrying: 0xff, 0x80, 0x05, 0x00.
    let zeros = [0.0, 5.0, 128.0, 255.0];
    let codes = [[0.0, 1.0, 128.0, 255.0], [0.0; 4], [1.0, 2.0, 3.0, 4.0], [255.0; 4]];
    let scales = [1.0, 1.0, 2.0, 1.0];
    for row in 0..4 {
        for col in 0..4 {
            assert_eq!(got[row * 4 + col], scales[row] * (codes[row][col] - zeros[row]), "{row}, {col}");
        }
    }
}

/// Columns 0, 2, 4, .. in group 0, the others in group 1.
#[test]
fn act_order_keeps_columns_where_they_were() {
    let codes: Vec<u32> = (0..16).map(|col| col % 16).collect();
    let words: Vec<u32> = codes
        .chunks(8)
        .flat_map(|eight| {
            let word = eight.iter().enumerate().map(|(at, code)| code << (4 * at)).sum::<u32>();
            [word; 8]
        })
        .collect();
    let g_idx: Vec<u32> = (0..16).map(|col| col % 2).collect();
    let files = Files::default()
        .words("m.qweight", &[2, 8], &words)
        .words("m.qzeros", &[2, 1], &[0, 0x1111_1111])
        .f16s("m.scales", &[2, 8], &[[1.0; 8], [0.5; 8]].concat());
    let with = |g_idx: &[u32]| files.clone().words("m.g_idx", &[16], g_idx);
    let config = gptq(4, 8, "gptq_v2", true);
    let expected = |group: &dyn Fn(usize) -> usize| -> Vec<f32> {
        (0..16).map(|col| if group(col) == 0 { col as f32 } else { 0.5 * (col as f32 - 1.0) }).collect()
    };
    let got = values(&config, &with(&g_idx));
    assert!(got.chunks(16).all(|row| row == expected(&|col| col % 2)), "{got:?}");
    assert!(read(&config, &with(&g_idx)).unwrap().info("m.weight").unwrap().format.permuted);
    // The plain order is none, whatever config.json says; without g_idx it has to be plain.
    let plain: Vec<u32> = (0..16).map(|col| col / 8).collect();
    for (act_order, files) in [(true, with(&plain)), (false, files.clone())] {
        let config = gptq(4, 8, "gptq_v2", act_order);
        assert!(!read(&config, &files).unwrap().info("m.weight").unwrap().format.permuted);
        assert!(values(&config, &files).chunks(16).all(|row| row == expected(&|col| col / 8)));
    }
    let message = refused(&config, &files);
    assert!(
        message.contains("`m.weight`: has its columns in another order (`desc_act`) and no `g_idx`"),
        "{message}"
    );
    let mut far = plain.clone();
    far[3] = 2;
    let message = refused(&config, &with(&far));
    assert!(message.contains("`m.g_idx`: puts a column into group 2; there are 2 groups"), "{message}");
    let message = refused(&config, &with(&[0; 16]));
    assert!(
        message.contains("`m.g_idx`: puts 16 columns into group 0, where group_size makes them 8"),
        "{message}"
    );
}

#[test]
fn awq_interleaves_the_rows_of_a_word() {
    // Nibble i holds i: rows 0, 2, 4, 6, 1, 3, 5, 7.
    let files = Files::default()
        .words("m.qweight", &[8, 1], &[0x7654_3210; 8])
        .words("m.qzeros", &[1, 1], &[0x0000_000f])
        .f16s("m.scales", &[1, 8], &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0]);
    let got = values(&awq(8), &files);
    let first: Vec<_> = got.iter().step_by(8).copied().collect();
    assert_eq!(first, [-15.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 14.0]);
    assert!(got.chunks(8).all(|row| row.iter().all(|x| *x == row[0])));
}

/// A weight 2 x 64 of 4 bits whose second run of scales is under a scale of its own.
fn bnb(nested: bool) -> Files {
    let codes: Vec<u8> = (0..64).map(|at| (at % 16) << 4 | (15 - at % 16)).collect();
    let offset = if nested { r#", "nested_blocksize": 1, "nested_offset": 0.25"# } else { "" };
    let state =
        format!(r#"{{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64]{offset}}}"#);
    let files = Files::default()
        .with("m.weight", "U8", &[64, 1], codes)
        .f32s("m.weight.quant_map", &[16], Table::Nf4.values())
        .with("m.weight.quant_state.bitsandbytes__nf4", "U8", &[state.len()], state);
    if !nested {
        return files.f32s("m.weight.absmax", &[2], &[1.0, 3.0]);
    }
    let map: Vec<f32> = (0..256).map(|at| at as f32 / 256.0).collect();
    files.with("m.weight.absmax", "U8", &[2], [128, 64]).f32s("m.weight.nested_quant_map", &[256], &map).f32s(
        "m.weight.nested_absmax",
        &[2],
        &[1.5, 11.0],
    )
}

#[test]
fn bitsandbytes_has_the_earlier_weight_in_the_high_nibble_and_adds_the_offset_last() {
    for nested in [false, true] {
        let got = values(&nf4(), &bnb(nested));
        // 128 / 256 * 1.5 + 0.25, and 64 / 256 * 11 + 0.25: the same two scales.
        for (at, x) in got.iter().enumerate() {
            let code = if at % 2 == 0 { at / 2 % 16 } else { 15 - at / 2 % 16 };
            assert_eq!(*x, Table::Nf4.values()[code] * [1.0, 3.0][at / 64], "{at}, nested {nested}");
        }
    }
    // Bytes under another type's name are the same bytes.
    let mut files = bnb(false);
    files.0.get_mut("m.weight").unwrap().dtype = "BF16".into();
    files.0.get_mut("m.weight").unwrap().shape = vec![32, 1];
    assert_eq!(values(&nf4(), &files), values(&nf4(), &bnb(false)));
}

#[test]
fn llm_int8_has_the_magnitude_that_127_stands_for() {
    let files = Files::default()
        .with("m.weight", "I8", &[2, 2], [127, 0, 129, 64])
        .f32s("m.SCB", &[2], &[127.0, 254.0])
        .with("m.weight_format", "U8", &[], [0]);
    let config = json!({"quant_method": "bitsandbytes", "load_in_8bit": true});
    assert_eq!(values(&config, &files), [127.0, 0.0, -254.0, 128.0]);
    let message = refused(&config, &files.with("m.weight_format", "U8", &[], [1]));
    assert!(message.contains("`m.weight_format`: names an order of the weight's elements"), "{message}");
}

/// 16 rows in 3 groups of 8: two words of zero points a group, along the rows.
#[test]
fn packed_zero_points_lie_along_the_rows() {
    let words: Vec<u32> = (0..48).map(|_| 0x7654_3210).collect();
    let zeros = [0x8888_8888, 0x7654_3210, 0xffff_ffff, 0x8888_8888, 0xfedc_ba98, 0];
    let files = Files::default()
        .words("m.weight_packed", &[16, 3], &words)
        .with(
            "m.weight_shape",
            "I64",
            &[2],
            [16_i64, 24].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>(),
        )
        .bf16s("m.weight_scale", &[16, 3], &[1.0; 48]);
    let packed = files.clone().words("m.weight_zero_point", &[2, 3], &zeros);
    let config = compressed("pack-quantized", &int4(8, false), &Value::Null);
    let got = values(&config, &packed);
    let mut unpacked = Vec::new();
    for (row, x) in got.chunks(24).enumerate() {
        for group in 0..3 {
            let point = (zeros[row / 8 * 3 + group] >> (row % 8 * 4) & 15) as f32 - 8.0;
            unpacked.push(point as i8 as u8);
            for col in 0..8 {
                assert_eq!(x[group * 8 + col], col as f32 - 8.0 - point, "{row}, {group}, {col}");
            }
        }
    }
    // Older files have them in bytes.
    let bytes = files.clone().with("m.weight_zero_point", "I8", &[16, 3], unpacked.clone());
    assert_eq!(values(&config, &bytes), got);
    unpacked[5] = 8;
    let message = refused(&config, &files.clone().with("m.weight_zero_point", "I8", &[16, 3], unpacked));
    assert!(message.contains("`m.weight_zero_point`: has 8; 4 bits hold -8 to 7"), "{message}");
    // Symmetric, with no zero points.
    let symmetric = compressed("pack-quantized", &int4(8, true), &Value::Null);
    let expected: Vec<f32> = (0..8).map(|col| col as f32 - 8.0).collect();
    assert!(values(&symmetric, &files).chunks(8).all(|eight| eight == expected));
}

#[test]
fn words_of_a_row_may_be_wider_than_the_row() {
    let extents = [1_i64, 12].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    let files = Files::default()
        .words("m.weight_packed", &[1, 2], &[0x7654_3210, 0x0000_ba98])
        .with("m.weight_shape", "I64", &[2], extents)
        .bf16s("m.weight_scale", &[1, 1], &[2.0]);
    let channel = json!({"num_bits": 4, "type": "int", "strategy": "channel", "symmetric": true});
    let expected: Vec<f32> = (0..12).map(|code| 2.0 * (code as f32 - 8.0)).collect();
    assert_eq!(values(&compressed("pack-quantized", &channel, &Value::Null), &files), expected);
}

/// 130 x 129: the last block of each axis is of two rows and one column.
#[test]
fn fp8_blocks_may_be_cut_off() {
    let files = Files::default().with("m.weight", "F8_E4M3", &[130, 129], vec![0x38; 130 * 129]).bf16s(
        "m.weight_scale_inv",
        &[2, 2],
        &[1.0, 2.0, 3.0, 4.0],
    );
    let got = values(&fp8_blocks(), &files);
    for (at, x) in got.iter().enumerate() {
        assert_eq!(*x, [1.0, 2.0, 3.0, 4.0][at / 129 / 128 * 2 + at % 129 / 128], "{at}");
    }
    // One scale for all, under either of its names.
    let tensor = json!({"quant_method": "fp8", "activation_scheme": "static"});
    let one = Files::default().with("m.weight", "F8_E4M3", &[1, 2], [0x38, 0xb8]);
    let names = [("m.weight_scale_inv", "m.activation_scale"), ("m.weight_scale", "m.input_scale")];
    for (scale, input) in names {
        let files = one.clone().f32s(scale, &[], &[2.0]).f32s(input, &[1], &[0.5]);
        assert_eq!(values(&tensor, &files), [2.0, -2.0]);
        let source = read(&tensor, &files).unwrap();
        assert_eq!(source.tensor("m.weight").unwrap().act_scale, Some(0.5));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_transpose_is_one(rows in 0..40_usize, cols in 1..40_usize) {
        let item = |row: usize, col: usize| (row * 64 + col) as u16;
        let bytes: Vec<u8> = (0..rows * cols).flat_map(|at| item(at / cols, at % cols).to_le_bytes()).collect();
        let got = super::super::repack::transposed::<2>(&bytes, rows);
        for (at, &bytes) in got.as_chunks::<2>().0.iter().enumerate() {
            prop_assert_eq!(u16::from_le_bytes(bytes), item(at % rows, at / rows));
        }
        prop_assert_eq!(got.len(), bytes.len());
    }
}
