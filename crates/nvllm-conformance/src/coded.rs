//! Coded weights: drawn codes, scales and offsets, packed as a checkpoint's reader would deliver
//! them, beside a twin that holds their values.
//!
//! The values come from the numbers that were drawn, not from the packed bytes: what reads those in
//! another order, or another block's scale, differs from the twin.

use std::collections::BTreeMap;

use nvllm_core::weight::pack::pack;
use nvllm_core::weight::table::{e4m3_to_f32, e8m0_to_f32};
use nvllm_core::weight::{Offset, ScaleType, Scales};
use nvllm_core::{CanonicalTensor, Code, DType, WeightDecl, WeightFormat};

use crate::draw::Draw;
use crate::ring::Ring;
use crate::trial::Trial;

/// A trial over coded weights, and the same over their values.
#[derive(Clone)]
pub(crate) struct Coded {
    /// With the coded tensors.
    pub trial: Trial,
    /// With dense f32 tensors of their values, which quantise their inputs alike.
    pub twin: Trial,
    /// Weights that are coded.
    pub names: Vec<&'static str>,
}

impl std::fmt::Debug for Coded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.trial.fmt(f)
    }
}

impl Coded {
    /// Codes the parts of the weights `names`: the first part of each in `format`, of the others
    /// one in four in another of `formats`.
    pub(crate) fn new(
        trial: Trial,
        names: &[&'static str],
        format: WeightFormat,
        others: &[WeightFormat],
    ) -> Self {
        let mut draw = Draw::new(trial.layout.content ^ 0x5ca1e);
        let (mut coded, mut twin) = (trial.clone(), trial);
        for decl in coded.spec.weights.iter().filter(|decl| names.contains(&decl.name.as_str())) {
            for (at, part) in decl.parts.iter().enumerate() {
                let other = at > 0 && draw.below(4) == 0;
                let format = if other { others[draw.below(others.len())] } else { format };
                let (packed, values) = drawn(format, [part.num_rows, decl.num_cols()], &mut draw);
                coded.source.put(&part.source, packed);
                twin.source.put(&part.source, values);
            }
        }
        Self { trial: coded, twin, names: names.to_vec() }
    }
}

impl Coded {
    /// Codes every matrix that is no table of rows in `format`; copies, whose names differ in their
    /// last number, have the same bytes.
    pub(crate) fn matrices(trial: Trial, format: WeightFormat) -> Self {
        let mut draw = Draw::new(trial.layout.content ^ 0x5ca1e);
        let (mut coded, mut twin) = (trial.clone(), trial);
        let mut first = BTreeMap::<String, String>::new();
        let is_matrix = |decl: &&WeightDecl| decl.shape.len() > 1 && !Ring::is_table(decl);
        for decl in coded.spec.weights.iter().filter(is_matrix) {
            for part in &decl.parts {
                let stem = part.source.rsplit_once('.').map_or("", |(stem, _)| stem);
                if let Some(other) = first.get(stem) {
                    coded.source.put_copy(&part.source, other);
                    twin.source.put_copy(&part.source, other);
                    continue;
                }
                let (packed, values) = drawn(format, [part.num_rows, decl.num_cols()], &mut draw);
                coded.source.put(&part.source, packed);
                twin.source.put(&part.source, values);
                first.insert(stem.to_owned(), part.source.clone());
            }
        }
        Self { trial: coded, twin, names: Vec::new() }
    }
}

/// Numbers as they are stored, one for each block of a matrix.
struct Level {
    kind: ScaleType,
    block: [usize; 2],
    cols: usize,
    raw: Vec<u32>,
}

impl Level {
    /// Around `size`: positive, but for integers, which are of any sign that they have.
    fn draw(kind: ScaleType, block: [usize; 2], [n, k]: [usize; 2], size: f32, draw: &mut Draw) -> Self {
        let (rows, cols) = (n.div_ceil(block[0]), k.div_ceil(block[1]));
        let one = |draw: &mut Draw| {
            let x = size * (0.5 + draw.below(1 << 20) as f32 / (1 << 20) as f32);
            match kind {
                ScaleType::F32 => x.to_bits(),
                ScaleType::F16 => half_bits(DType::F16, x),
                ScaleType::Bf16 => half_bits(DType::Bf16, x),
                ScaleType::E8M0 => (x.abs().to_bits() >> 23) + draw.below(2) as u32,
                ScaleType::E4M3 => 0x30 + draw.below(0x18) as u32,
                ScaleType::I8 => draw.below(256) as u32,
                ScaleType::U6 => draw.below(64) as u32,
            }
        };
        Self { kind, block, cols, raw: (0..rows * cols).map(|_| one(draw)).collect() }
    }

    /// What numbers under a second level are of in the mean.
    fn typical(kind: ScaleType) -> f32 {
        match kind {
            ScaleType::I8 => 64.0,
            ScaleType::U6 => 32.0,
            _ => 1.0,
        }
    }

    fn value(&self, [row, col]: [usize; 2]) -> f32 {
        let raw = self.raw[row / self.block[0] * self.cols + col / self.block[1]];
        match self.kind {
            ScaleType::F32 => f32::from_bits(raw),
            ScaleType::F16 => DType::F16.read(&raw.to_le_bytes(), 0),
            ScaleType::Bf16 => DType::Bf16.read(&raw.to_le_bytes(), 0),
            ScaleType::E8M0 => e8m0_to_f32(raw as u8),
            ScaleType::E4M3 => e4m3_to_f32(raw as u8),
            ScaleType::I8 => signed(raw),
            ScaleType::U6 => raw as f32,
        }
    }

    fn packed(&self) -> bytes::Bytes {
        pack(self.raw.iter().copied(), self.kind.bits(), self.cols)
    }
}

fn half_bits(dtype: DType, x: f32) -> u32 {
    let mut bytes = Vec::new();
    dtype.write(x, &mut bytes);
    u32::from(u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn signed(raw: u32) -> f32 {
    f32::from(raw as u8 as i8)
}

/// One or two levels of numbers around `size`.
struct Levels(Level, Option<Level>);

impl Levels {
    fn draw(scales: Scales, shape: [usize; 2], size: f32, draw: &mut Draw) -> Self {
        let inner = if scales.second.is_some() { 1.0 } else { size };
        let first = Level::draw(scales.kind, scales.block, shape, inner, draw);
        let size = size / Level::typical(scales.kind);
        Self(first, scales.second.map(|second| Level::draw(second.kind, second.block, shape, size, draw)))
    }

    fn value(&self, at: [usize; 2]) -> f32 {
        self.1.as_ref().map_or(1.0, |second| second.value(at)) * self.0.value(at)
    }

    fn packed(&self) -> [bytes::Bytes; 2] {
        [self.0.packed(), self.1.as_ref().map(Level::packed).unwrap_or_default()]
    }
}

/// The largest code value, about.
fn reach(code: Code) -> f32 {
    match code {
        Code::I8 => 128.0,
        Code::E4M3 => 448.0,
        Code::U4 => 8.0,
        Code::U5 => 16.0,
        Code::U6 => 32.0,
        Code::Lut4(table) => table.values().iter().fold(0.0, |most: f32, x| most.max(x.abs())),
        Code::Dense(_) => 1.0,
    }
}

/// A tensor in `format` of values around `1 / sqrt(k)`, and a dense one of the same values.
fn drawn(format: WeightFormat, [n, k]: [usize; 2], draw: &mut Draw) -> (CanonicalTensor, CanonicalTensor) {
    let Some(scales) = format.scales else { unreachable!("{format} is not coded") };
    let bits = format.code.bits();
    let code = |draw: &mut Draw| match draw.below(1 << bits) as u32 {
        // No NaN.
        0x7f | 0xff if format.code == Code::E4M3 => 0,
        code => code,
    };
    let codes: Vec<u32> = (0..n * k).map(|_| code(draw)).collect();
    let size = 1.0 / ((k as f32).sqrt() * reach(format.code));
    let levels = Levels::draw(scales, [n, k], size, draw);
    let blocks = [n.div_ceil(scales.block[0]), k.div_ceil(scales.block[1])];
    let ints: Vec<u32> = (0..blocks[0] * blocks[1]).map(|_| code(draw)).collect();
    let floats = (format.offset == Offset::Float)
        .then(|| Levels::draw(scales, [n, k], -size * reach(format.code), draw));
    let mut perm: Vec<u32> = (0..k as u32).collect();
    if format.permuted {
        draw.shuffle(&mut perm);
    }
    let number = |raw: u32| if format.code == Code::I8 { signed(raw) } else { raw as f32 };
    let mut values = vec![0.0; n * k];
    for (at, &code) in codes.iter().enumerate() {
        let (row, col) = (at / k, at % k);
        let q = match format.code {
            Code::E4M3 => e4m3_to_f32(code as u8),
            Code::Lut4(table) => table.values()[code as usize],
            _ => number(code),
        };
        let s = levels.value([row, col]);
        values[row * k + perm[col] as usize] = match format.offset {
            Offset::None => s * q,
            Offset::Midpoint => s * (q - reach(format.code)),
            Offset::Int => {
                let block = row / scales.block[0] * blocks[1] + col / scales.block[1];
                s * (q - number(ints[block]))
            }
            Offset::Float => s * q + floats.as_ref().map_or(0.0, |floats| floats.value([row, col])),
        };
    }
    let [scales, second_scales] = levels.packed();
    let [offsets, second_offsets] = match (&floats, format.offset) {
        (Some(floats), _) => floats.packed(),
        (None, Offset::Int) => [pack(ints, bits, blocks[1]), bytes::Bytes::new()],
        _ => Default::default(),
    };
    let act_scale = format.act.filter(|act| act.is_static()).map(|_| 0.005 * (1 + draw.below(4)) as f32);
    let dense = values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
    let twin = CanonicalTensor {
        format: WeightFormat { act: format.act, ..WeightFormat::dense(DType::F32) },
        act_scale,
        ..CanonicalTensor::dense(DType::F32, [n, k], dense.into())
    };
    let packed = CanonicalTensor {
        format,
        codes: pack(codes, bits, k),
        scales,
        offsets,
        second_scales,
        second_offsets,
        k_perm: format.permuted.then(|| perm.into()),
        ..twin.clone()
    };
    (packed, twin)
}

/// All public formats.
pub(crate) fn formats() -> Vec<WeightFormat> {
    nvllm_core::weight::PUBLIC.iter().map(|(_, format)| *format).collect()
}
