//! Every public format against its formula.

use bytes::Bytes;
use proptest::prelude::*;

use super::expand::Expander;
use super::pack::pack;
use super::table::e4m3_to_f32;
use super::*;
use crate::DType;
use crate::sampling::philox4x32;

/// Raw items of a tensor of `shape` in `format`: its parts before they are packed.
struct Items {
    format: WeightFormat,
    shape: [usize; 2],
    codes: Vec<u32>,
    scales: Vec<u32>,
    offsets: Vec<u32>,
    second_scales: Vec<u32>,
    second_offsets: Vec<u32>,
    k_perm: Vec<u32>,
}

/// Blocks along each axis.
fn blocks([n, k]: [usize; 2], block: [usize; 2]) -> [usize; 2] {
    [n.div_ceil(block[0]), k.div_ceil(block[1])]
}

impl Items {
    fn draw(format: WeightFormat, shape: [usize; 2], seed: u64) -> Self {
        let scales = format.scales.unwrap();
        let mut at = 0;
        let mut word = move || {
            at += 1;
            philox4x32(seed, [at, 0, 0, 0])[0]
        };
        let mut many = |[n, k]: [usize; 2], item: &dyn Fn(u32) -> u32| -> Vec<u32> {
            (0..n * k).map(|_| item(word())).collect()
        };
        let mask = (1 << format.code.bits()) - 1;
        // No NaN among E4M3 codes.
        let code = |w: u32| if format.code == Code::E4M3 && w & 0x7f == 0x7f { 0 } else { w & mask };
        let first = blocks(shape, scales.block);
        let second = scales.second.map_or([0, 0], |second| blocks(shape, second.block));
        let float = |offset| if format.offset == Offset::Float { offset } else { [0, 0] };
        let ints = if format.offset == Offset::Int { first } else { [0, 0] };
        let kind = scales.second.map_or(ScaleType::F32, |second| second.kind);
        let mut k_perm: Vec<_> = (0..shape[1] as u32).collect();
        k_perm.sort_by_key(|&i| philox4x32(seed, [i, 1, 0, 0])[0]);
        Self {
            format,
            shape,
            codes: many(shape, &code),
            scales: many(first, &|w| raw_scale(scales.kind, w)),
            offsets: if format.offset == Offset::Int {
                many(ints, &|w| w & mask)
            } else {
                many(float(first), &|w| raw_scale(scales.kind, w))
            },
            second_scales: many(second, &|w| raw_scale(kind, w)),
            second_offsets: many(float(second), &|w| raw_scale(kind, w)),
            k_perm,
        }
    }

    fn tensor(&self) -> CanonicalTensor {
        let scales = self.format.scales.unwrap();
        let (n, cols) = (self.shape[0], |block: [usize; 2]| blocks(self.shape, block)[1]);
        assert!(n > 0);
        let kind = scales.second.map_or(scales.kind, |second| second.kind).bits();
        let second = scales.second.map_or(1, |second| cols(second.block));
        let offset_bits =
            if self.format.offset == Offset::Int { self.format.code.bits() } else { scales.kind.bits() };
        let pack = |items: &[u32], bits, cols| pack(items.iter().copied(), bits, cols);
        CanonicalTensor {
            format: self.format,
            shape: self.shape.into(),
            codes: pack(&self.codes, self.format.code.bits(), self.shape[1]),
            scales: pack(&self.scales, scales.kind.bits(), cols(scales.block)),
            offsets: pack(&self.offsets, offset_bits, cols(scales.block)),
            second_scales: pack(&self.second_scales, kind, second),
            second_offsets: pack(&self.second_offsets, kind, second),
            k_perm: self.format.permuted.then(|| self.k_perm.clone().into()),
            act_scale: self.format.act.is_some_and(ActQuant::is_static).then_some(0.25),
        }
    }

    /// The formula in f64, and the magnitude of its terms.
    fn value(&self, row: usize, col: usize) -> (f64, f64) {
        let scales = self.format.scales.unwrap();
        let at = |block: [usize; 2]| row / block[0] * blocks(self.shape, block)[1] + col / block[1];
        let code = self.codes[row * self.shape[1] + col];
        let signed = |raw: u32| f64::from(raw as u8 as i8);
        let q = match self.format.code {
            Code::I8 => signed(code),
            Code::E4M3 => f64::from(e4m3_to_f32(code as u8)),
            Code::Lut4(table) => f64::from(table.values()[code as usize]),
            _ => f64::from(code),
        };
        let levels = |first: &[u32], second: &[u32]| {
            let outer = scales.second.map_or(1.0, |s| scale_value(s.kind, second[at(s.block)]));
            outer * scale_value(scales.kind, first[at(scales.block)])
        };
        let s = levels(&self.scales, &self.second_scales);
        match self.format.offset {
            Offset::None => (s * q, (s * q).abs()),
            Offset::Midpoint => {
                let x = s * (q - f64::from(1 << (self.format.code.bits() - 1)));
                (x, x.abs())
            }
            Offset::Int => {
                let z = self.offsets[at(scales.block)];
                let z = if self.format.code == Code::I8 { signed(z) } else { f64::from(z) };
                (s * (q - z), (s * (q - z)).abs())
            }
            Offset::Float => {
                let m = levels(&self.offsets, &self.second_offsets);
                (s * q + m, (s * q).abs() + m.abs())
            }
        }
    }
}

/// Bits of a scale of moderate size.
fn raw_scale(kind: ScaleType, w: u32) -> u32 {
    let x = (w >> 8) as f32 / 2_f32.powi(24) * 0.1 + 0.001;
    match kind {
        ScaleType::F32 => x.to_bits(),
        ScaleType::F16 => half::f16::from_f32(x).to_bits().into(),
        ScaleType::Bf16 => half::bf16::from_f32(x).to_bits().into(),
        ScaleType::E8M0 => 110 + w % 20,
        ScaleType::E4M3 => w % 0x7f,
        ScaleType::I8 => w & 0xff,
        ScaleType::U6 => w & 0x3f,
    }
}

fn scale_value(kind: ScaleType, raw: u32) -> f64 {
    match kind {
        ScaleType::F32 => f32::from_bits(raw).into(),
        ScaleType::F16 => half::f16::from_bits(raw as u16).into(),
        ScaleType::Bf16 => half::bf16::from_bits(raw as u16).into(),
        ScaleType::E8M0 => 2_f64.powi(raw as i32 - 127),
        ScaleType::E4M3 => f64::from(e4m3_to_f32(raw as u8)),
        ScaleType::I8 => f64::from(raw as u8 as i8),
        ScaleType::U6 => f64::from(raw),
    }
}

fn weight(tensor: &CanonicalTensor) -> Weight {
    let part = WeightPart { source: "w".into(), num_rows: tensor.num_rows(), role: AxisRole::Replicated };
    let decl = WeightDecl {
        name: "w".into(),
        shape: tensor.shape.clone(),
        parts: vec![part],
        in_role: AxisRole::Replicated,
    };
    Weight { decl, segments: vec![tensor.clone()] }
}

/// Rows in logical column order.
fn rows(tensor: &CanonicalTensor) -> Vec<f32> {
    tensor.check("w").unwrap();
    weight(tensor).to_f32().unwrap()
}

/// Public formats, and some that are none: bf16 scales, blocks of several rows, a bf16 second
/// level, odd groups.
fn formats() -> Vec<WeightFormat> {
    let of = WeightFormat::scaled;
    let mut formats: Vec<_> = PUBLIC.iter().map(|(_, format)| *format).collect();
    formats.extend([
        of(Code::U4, ScaleType::Bf16, [2, 6], Offset::Float),
        of(Code::I8, ScaleType::U6, [3, 5], Offset::Float).under(ScaleType::Bf16, [6, WHOLE]),
        of(Code::U6, ScaleType::E8M0, [WHOLE, 3], Offset::Int).permuted(),
        of(Code::U5, ScaleType::I8, [1, 7], Offset::Int).under(ScaleType::F32, [4, 21]),
    ]);
    formats
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_dequantised_value_is_its_formula(
        which in 0..PUBLIC.len() + 4, n in 1..9_usize, k in prop_oneof![1..70_usize, 250..530_usize], seed: u64,
    ) {
        let items = Items::draw(formats()[which], [n, k], seed);
        let tensor = items.tensor();
        let got = rows(&tensor);
        prop_assert_eq!(tensor.bytes(), tensor.info().bytes(), "{}", tensor.format);
        for (row, out) in got.chunks(k).enumerate() {
            for col in 0..k {
                let (want, size) = items.value(row, col);
                let place = if tensor.format.permuted { items.k_perm[col] as usize } else { col };
                // Three f32 operations, and a subnormal.
                let off = (f64::from(out[place]) - want).abs();
                prop_assert!(off <= 3.0 * size / 16_777_216.0 + 1e-44, "{}: {off:e} at {row}, {col}", tensor.format);
            }
        }
        let (mut expander, mut fast) = (Expander::new(&tensor), vec![0.0; k]);
        for (row, slow) in got.chunks(k).enumerate() {
            expander.row(row, &mut fast);
            let same = fast.iter().zip(slow).all(|(a, b)| a.to_bits() == b.to_bits());
            prop_assert!(same, "{}: {fast:?} for {slow:?}", tensor.format);
        }
        // Rows have the same values in a part as in the whole.
        let unit = tensor.format.scales.map_or(1, |s| s.second.map_or(s.block[0], |second| second.block[0].max(s.block[0])));
        let first = if unit == WHOLE { n / 2 } else { n / 2 / unit * unit };
        let cut = tensor.slice_rows("w", first..n).unwrap();
        prop_assert_eq!(&rows(&cut), &got[first * k..]);
    }

    /// A backend that keeps scales and offsets as f32 keeps those that elements are made with.
    #[test]
    fn rows_of_scales_and_offsets_are_those_of_their_blocks(
        at in 0..PUBLIC.len(), n in 1..300_usize, k in 1..600_usize, seed: u64,
    ) {
        let tensor = Items::draw(PUBLIC[at].1, [n, k], seed).tensor();
        let width = tensor.format.scales.unwrap().block[1].min(k);
        for row in [0, n / 2, n - 1] {
            let mut got = [vec![0.0; k.div_ceil(width)], vec![0.0; k.div_ceil(width)]];
            tensor.block_scales(row, &mut got[0]);
            tensor.block_offsets(row, &mut got[1]);
            for (block, (&scale, &offset)) in got[0].iter().zip(&got[1]).enumerate() {
                let want = [tensor.scale(row, block * width), tensor.offset(row, block * width)];
                prop_assert_eq!([scale, offset].map(f32::to_bits), want.map(f32::to_bits));
            }
        }
    }

    #[test]
    fn packed_items_are_where_the_layout_says(bits in 1..33_usize, cols in 1..20_usize, rows in 0..4_usize, seed: u64) {
        let items: Vec<u32> = (0..rows * cols)
            .map(|i| (u64::from(philox4x32(seed, [i as u32, 0, 0, 0])[0]) & ((1 << bits) - 1)) as u32)
            .collect();
        let bytes = pack(items.iter().copied(), bits, cols);
        let row_bytes = (cols * bits).div_ceil(8);
        prop_assert_eq!(bytes.len(), rows * row_bytes);
        for (at, item) in items.iter().enumerate() {
            for bit in 0..bits {
                let place = at % cols * bits + bit;
                let byte = bytes[at / cols * row_bytes + place / 8];
                prop_assert_eq!(u32::from(byte >> (place % 8) & 1), item >> bit & 1);
            }
        }
    }
}

/// The values of one row of the given parts.
fn one_row(format: WeightFormat, parts: [&[u8]; 5], k: usize) -> Vec<f32> {
    let [codes, scales, offsets, second_scales, second_offsets] = parts.map(Bytes::copy_from_slice);
    let tensor = CanonicalTensor {
        format,
        codes,
        scales,
        offsets,
        second_scales,
        second_offsets,
        ..CanonicalTensor::dense(DType::F32, [1, k], Bytes::new())
    };
    rows(&tensor)
}

fn public(name: &str) -> WeightFormat {
    PUBLIC.iter().find(|(known, _)| *known == name).unwrap().1
}

const HALF: [u8; 2] = 0x3800_u16.to_le_bytes();
const TWO: [u8; 2] = 0x4000_u16.to_le_bytes();
const MINUS_ONE: [u8; 2] = 0xbc00_u16.to_le_bytes();

#[test]
fn values_by_hand() {
    // Low nibble first, around 8, times a half.
    let q4_0 = one_row(public("q4_0"), [&[0x80, 0xf7], &HALF, &[], &[], &[]], 4);
    assert_eq!(q4_0, [-4.0, 0.0, -0.5, 3.5]);
    // Codes plus a minimum.
    let q4_1 = one_row(public("q4_1"), [&[0x10], &HALF, &MINUS_ONE, &[], &[]], 2);
    assert_eq!(q4_1, [-1.0, -0.5]);
    // 5 bits: 31, 0, 16 are 0b11111, 0b00000 and 0b10000 from the lowest bit up.
    let q5_0 = one_row(public("q5_0"), [&[0b0001_1111, 0b0100_0000], &TWO, &[], &[], &[]], 3);
    assert_eq!(q5_0, [30.0, -32.0, 0.0]);
    let gptq = one_row(public("gptq or awq"), [&[0x3c], &HALF, &[0x07], &[], &[]], 2);
    assert_eq!(gptq, [2.5, -2.0]);
    let q8_0 = one_row(public("q8_0"), [&[0xff, 0x7f], &TWO, &[], &[], &[]], 2);
    assert_eq!(q8_0, [-2.0, 254.0]);
    // d * scale * q - dmin * m: 0.5 * 3 * 9 - 1 * 5, the minimum's factor being stored negative.
    let q4_k = one_row(public("q4_k"), [&[0x09], &[3], &[5], &HALF, &MINUS_ONE], 1);
    assert_eq!(q4_k, [8.5]);
    // d * scale * (q - 32), the scale -2.
    let q6_k = one_row(public("q6_k"), [&[33], &[0xfe], &[], &HALF, &[]], 1);
    assert_eq!(q6_k, [-1.0]);
    let nf4 = one_row(public("nf4"), [&[0xf0], &2_f32.to_le_bytes(), &[], &[], &[]], 2);
    assert_eq!(nf4, [-2.0, 2.0]);
    let fp4 = one_row(public("fp4"), [&[0xb4], &3_f32.to_le_bytes(), &[], &[], &[]], 2);
    assert_eq!(fp4, [1.0, -3.0]);
    let mxfp4 = one_row(public("mxfp4"), [&[0xf3], &[129], &[], &[], &[]], 2);
    assert_eq!(mxfp4, [6.0, -24.0]);
    // E2M1 times E4M3 times f32: 6 * 1.5 * 0.5.
    let nvfp4 = one_row(public("nvfp4"), [&[0x07], &[0x3c], &[], &0.5_f32.to_le_bytes(), &[]], 1);
    assert_eq!(nvfp4, [4.5]);
    let fp8 = one_row(public("fp8 channel"), [&[0x3c, 0xfe], &2_f32.to_le_bytes(), &[], &[], &[]], 2);
    assert_eq!(fp8, [3.0, -896.0]);
}

#[test]
fn a_block_scales_its_own_rows_and_columns() {
    // Blocks of 2 x 2 in a matrix 3 x 3: the last of each axis is cut off.
    let format = WeightFormat::scaled(Code::I8, ScaleType::F32, [2, 2], Offset::None);
    let scales: Vec<u8> = [1.0_f32, 10.0, 100.0, 1000.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let tensor = CanonicalTensor {
        format,
        scales: scales.into(),
        ..CanonicalTensor::dense(DType::F32, [3, 3], Bytes::from_static(&[1; 9]))
    };
    assert_eq!(rows(&tensor), [1.0, 1.0, 10.0, 1.0, 1.0, 10.0, 100.0, 100.0, 1000.0]);
    assert!(
        tensor.slice_rows("w", 1..3).unwrap_err().to_string().contains("cannot be cut at rows 1..3 of 3")
    );
    assert_eq!(rows(&tensor.slice_rows("w", 2..3).unwrap()), [100.0, 100.0, 1000.0]);
    assert_eq!(rows(&tensor.slice_rows("w", 0..1).unwrap()), [1.0, 1.0, 10.0]);
}

#[test]
fn formats_are_keys_with_names() {
    let mut seen = std::collections::HashSet::new();
    for (name, format) in PUBLIC {
        assert_eq!(format.fault(), None, "{name}");
        assert_eq!(format.to_string(), name);
        assert!(seen.insert(format), "{name} is in the list twice");
        assert_eq!(format.plain(), None);
    }
    assert_eq!(WeightFormat::dense(DType::Bf16).to_string(), "bf16");
    let of = WeightFormat::scaled;
    assert_eq!(of(Code::U4, ScaleType::F16, [1, 32], Offset::Int).to_string(), "gptq or awq in groups of 32");
    let rows = of(Code::U4, ScaleType::Bf16, [1, WHOLE], Offset::Midpoint).permuted();
    assert_eq!(rows.to_string(), "w4a16 in groups of all, permuted columns");
    let other = WeightFormat::scaled(Code::U5, ScaleType::U6, [1, 64], Offset::Float)
        .under(ScaleType::F16, [1, WHOLE]);
    let text = "U5 codes, U6 scales of 1 x 64 under F16 scales of 1 x all, Float offsets, permuted columns, inputs in int8 a token";
    assert_eq!(other.permuted().with_act(ActQuant::DynTokenI8).to_string(), text);
}

/// The sizes that the formats' authors give: bits an element of long rows, column order and input
/// scale aside.
#[test]
fn formats_take_what_they_are_known_to_take() {
    let known = [
        ("q4_0", 4.5),
        ("q5_1", 6.0),
        ("q8_0", 8.5),
        ("q4_k", 4.5),
        ("q5_k", 5.5),
        ("q6_k", 6.5625),
        ("mxfp4", 4.25),
        ("nvfp4", 4.5),
        ("nf4", 4.5),
        ("gptq or awq", 4.15625),
    ];
    for (name, bits) in known {
        let info = TensorInfo { shape: vec![256, 1024], format: public(name) };
        let second = if name == "nvfp4" { 4 } else { 0 };
        assert_eq!((info.bytes() - second) as f64 * 8.0 / (256.0 * 1024.0), bits, "{name}");
    }
}

#[test]
fn formats_that_cannot_be_are_refused() {
    use {Code::*, ScaleType as S};
    let of = WeightFormat::scaled;
    let faults = [
        (WeightFormat { scales: None, ..public("q4_0") }, "codes without scales"),
        (WeightFormat::dense(DType::Bf16).permuted(), "codes without scales"),
        (of(Dense(DType::F32), S::F32, [1, 1], Offset::None), "elements that are no codes"),
        (of(U4, S::F32, [1, 0], Offset::None), "blocks of nothing"),
        (of(I8, S::F32, [1, 8], Offset::Midpoint), "an offset"),
        (of(E4M3, S::F32, [1, 8], Offset::Int), "an offset"),
        (of(U4, S::E8M0, [1, 8], Offset::Float), "an offset"),
        (of(U4, S::U6, [1, 8], Offset::None), "integer scales"),
        (of(U4, S::F16, [1, 8], Offset::None).under(S::F32, [1, 16]), "floating-point scales of scales"),
        (of(U4, S::U6, [1, 8], Offset::None).under(S::E8M0, [1, 16]), "second-level scales that are"),
        (of(U4, S::U6, [1, 8], Offset::None).under(S::F16, [1, 12]), "second-level blocks that cut"),
        (of(U4, S::U6, [1, 8], Offset::None).under(S::F16, [0, 16]), "second-level blocks of nothing"),
        (public("q8_0").with_act(ActQuant::DynGroupE4M3(0)), "groups of no columns"),
    ];
    for (format, problem) in faults {
        assert!(
            format.fault().is_some_and(|fault| fault.contains(problem)),
            "{format:?}: {:?}",
            format.fault()
        );
    }
}

#[test]
fn tensors_that_are_not_what_their_format_says_are_refused() {
    let good = |name| Items::draw(public(name), [4, 128], 7).tensor();
    let faults = [
        (CanonicalTensor { codes: good("q4_0").codes.slice(1..), ..good("q4_0") }, "255 bytes of codes"),
        (CanonicalTensor { scales: Bytes::new(), ..good("q4_0") }, "0 bytes of scales"),
        (CanonicalTensor { offsets: good("q4_0").scales, ..good("q4_0") }, "32 bytes of offsets"),
        (CanonicalTensor { second_scales: Bytes::new(), ..good("q4_k") }, "second-level scales"),
        (CanonicalTensor { k_perm: None, ..good("gptq act-order") }, "has a column order where"),
        (CanonicalTensor { k_perm: Some([0; 128].into()), ..good("gptq act-order") }, "none of 128 columns"),
        (CanonicalTensor { act_scale: None, ..good("w8a8 static") }, "has an input scale where"),
        (CanonicalTensor { act_scale: Some(0.0), ..good("w8a8 static") }, "an input scale of 0"),
        (CanonicalTensor { act_scale: Some(1.0), ..good("w8a8") }, "has an input scale where"),
    ];
    for (tensor, problem) in faults {
        let message = tensor.check("w").unwrap_err().to_string();
        assert!(message.contains("`w`") && message.contains(problem), "{message}");
    }
}

#[test]
fn parts_of_a_weight_may_differ_in_format() {
    let parts = [("q4_k", 3), ("fp8 static", 2), ("gptq act-order", 1)];
    let tensors = parts.map(|(name, n)| Items::draw(public(name), [n, 256], 3).tensor());
    let mut whole = weight(&tensors[0]);
    whole.decl.shape[0] = 6;
    whole.segments = tensors.to_vec();
    let expected: Vec<_> = tensors.iter().flat_map(rows).collect();
    assert_eq!(whole.to_f32().unwrap(), expected);
    let mut last = vec![0.0; 2 * 256];
    whole.dequant_rows(4, &mut last).unwrap();
    assert_eq!(last, expected[4 * 256..]);
    assert!(whole.dequant_rows(5, &mut last).unwrap_err().to_string().contains("row 6"));
    assert_eq!(whole.bytes(), tensors.iter().map(|tensor| tensor.info().bytes()).sum::<usize>());
    let static_scale = InputQuant { num_rows: 2, act: Some(ActQuant::StaticE4M3), scale: 0.25 };
    assert_eq!(whole.inputs()[1], static_scale);
    let info = WeightInfo { parts: tensors.iter().map(CanonicalTensor::info).collect() };
    let message = whole.decl.refused("cpu", info.plain().unwrap_err()).to_string();
    let expected = "backend `cpu` does not run weight `w`: its format is q4_k; dense weights in f32, f16 and bf16 are run";
    assert_eq!(message, expected);
}

/// A source of one tensor that may announce another format than it delivers.
struct One(TensorInfo, CanonicalTensor);

impl WeightSource for One {
    fn describe(&self) -> String {
        "one".into()
    }

    fn names(&self) -> Vec<String> {
        vec!["w".into()]
    }

    fn info(&self, _: &str) -> crate::Result<TensorInfo> {
        Ok(self.0.clone())
    }

    fn tensor(&self, _: &str) -> crate::Result<CanonicalTensor> {
        Ok(self.1.clone())
    }
}

#[test]
fn a_source_is_held_to_what_it_announces() {
    let tensor = Items::draw(public("q4_0"), [4, 128], 7).tensor();
    let decl = weight(&tensor).decl;
    let announced = |format| TensorInfo { format, ..tensor.info() };
    let source = One(tensor.info(), tensor.clone());
    assert_eq!(WeightInfo::of(&decl, &source).unwrap().bytes(), tensor.bytes());
    assert_eq!(Weight::load(&decl, &source).unwrap().to_f32().unwrap(), rows(&tensor));
    let message = |info, decl: &WeightDecl| {
        let error = Weight::load(decl, &One(info, tensor.clone())).unwrap_err();
        error.to_string()
    };
    let other = message(announced(public("q4_1")), &decl);
    assert!(other.contains("is [4, 128] in q4_0 where the source has announced [4, 128] in q4_1"), "{other}");
    let nothing = WeightFormat::scaled(Code::U4, ScaleType::F32, [1, 0], Offset::None);
    assert!(message(announced(nothing), &decl).contains("cannot be: blocks of nothing"));
    let integers = message(announced(WeightFormat::dense(DType::I32)), &decl);
    assert!(integers.contains("is i32; weights in f32, f16 and bf16 can be read"), "{integers}");
    let mut vector = decl;
    vector.shape = vec![4];
    let text = message(TensorInfo { shape: vec![4], format: public("q8_0") }, &vector);
    assert!(text.contains("is a vector in the format q8_0; vectors are dense"), "{text}");
}
