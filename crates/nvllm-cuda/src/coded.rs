//! Coded weights in device memory. `kernels/common/coded.cuh` reads what is written here.
//!
//! Every public format becomes one of a few: codes of 4 bits or of 8 (5 and 6 bits are widened),
//! each row beginning on a line of 16 bytes, and one scale, with an offset where there is one, for
//! each row and block of columns. Scales of several rows are repeated, those of two levels
//! multiplied, all of them in f32: a kernel that has no conversion to make gains more than the
//! bytes cost. They lie in octets, the 8 rows of an octet together, because a tensor core's tile
//! takes them so.
//!
//! Parts of a weight that share a format are stacked into one run of rows; each run has launches of
//! its own.

use std::ops::Range;
use std::sync::Arc;

use nvllm_core::weight::{ActQuant, Table};
use nvllm_core::{CanonicalTensor, Reason, TensorInfo, WeightFormat, WeightInfo};

use crate::device::Device;
use crate::error::Result;
use crate::kernels::common::coded::{CODE_E4M3, CODE_I8, CODE_TABLE, CODE_U4};
use crate::kernels::common::coded::{OFFSET_FLOAT, OFFSET_INT, OFFSET_MIDPOINT, OFFSET_NONE};
use crate::kernels::linear::coded_input::MOST_GROUPS;
use crate::memory::{Address, Buffer};

/// How an element is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    I8 = CODE_I8 as isize,
    E4M3 = CODE_E4M3 as isize,
    U4 = CODE_U4 as isize,
    Table = CODE_TABLE as isize,
}

/// What moves a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offset {
    None = OFFSET_NONE as isize,
    /// 4-bit codes around 8.
    Midpoint = OFFSET_MIDPOINT as isize,
    /// Zero points.
    Int = OFFSET_INT as isize,
    /// Values.
    Float = OFFSET_FLOAT as isize,
}

/// How a run of rows is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub code: Code,
    pub table: Option<Table>,
    pub offset: Offset,
    /// Columns of a block; all of them at most.
    pub group: usize,
    pub act: Option<ActQuant>,
    pub permuted: bool,
    /// Columns.
    pub cols: usize,
}

impl Form {
    /// That of a tensor.
    ///
    /// Errors if it has none.
    fn new(info: &TensorInfo) -> std::result::Result<Self, Reason> {
        use nvllm_core::weight as core;
        let (format, cols) = (info.format, info.shape.last().copied().unwrap_or(1));
        let refused = |problem: &str| Reason(format!("its format is {format}; {problem}"));
        let (code, table) = match format.code {
            core::Code::I8 | core::Code::U5 | core::Code::U6 => (Code::I8, None),
            core::Code::E4M3 => (Code::E4M3, None),
            core::Code::U4 => (Code::U4, None),
            core::Code::Lut4(table) => (Code::Table, Some(table)),
            core::Code::Dense(_) => return Err(refused("dense weights run on inputs as they are")),
        };
        let Some(scales) = format.scales else { return Err(refused("codes run with scales")) };
        let offset = match format.offset {
            // Of wider codes it is subtracted before they are stored.
            core::Offset::Midpoint if code == Code::U4 => Offset::Midpoint,
            core::Offset::None | core::Offset::Midpoint => Offset::None,
            core::Offset::Int => Offset::Int,
            core::Offset::Float => Offset::Float,
        };
        let group = scales.block[1].min(cols).max(1);
        let form = Self { code, table, offset, group, act: format.act, permuted: format.permuted, cols };
        if form.input_groups() > MOST_GROUPS {
            return Err(refused("inputs have up to 1,024 groups"));
        }
        Ok(form)
    }

    /// Bits of an element.
    pub(crate) const fn bits(&self) -> usize {
        match self.code {
            Code::I8 | Code::E4M3 => 8,
            Code::U4 | Code::Table => 4,
        }
    }

    /// Bytes from one row of codes to the next.
    pub(crate) const fn pitch(&self) -> usize {
        (self.cols * self.bits()).div_ceil(8).next_multiple_of(16)
    }

    /// Blocks of a row.
    pub(crate) const fn blocks(&self) -> usize {
        self.cols.div_ceil(self.group)
    }

    /// Columns of the input that share a scale.
    pub(crate) fn input_group(&self) -> usize {
        if let Some(ActQuant::DynGroupE4M3(group)) = self.act {
            group.min(self.cols).max(1)
        } else {
            self.cols
        }
    }

    /// Scales of a row of the input.
    pub(crate) fn input_groups(&self) -> usize {
        self.cols.div_ceil(self.input_group())
    }

    /// Whether the layer sees its input otherwise than it comes.
    pub(crate) const fn changes_input(&self) -> bool {
        self.permuted || self.act.is_some()
    }

    /// Whether blocks have an offset beside their scale.
    pub(crate) const fn has_offsets(&self) -> bool {
        matches!(self.offset, Offset::Int | Offset::Float)
    }

    /// Bytes of codes and scales of so many rows, of the table and of the column order.
    fn sizes(&self, rows: usize) -> [usize; 4] {
        let each = if self.has_offsets() { 8 } else { 4 };
        let table = if self.table.is_some() { 16 * size_of::<f32>() } else { 0 };
        let order = if self.permuted { self.cols * size_of::<u32>() } else { 0 };
        [rows * self.pitch(), rows.next_multiple_of(8) * self.blocks() * each, table, order]
    }
}

/// Consecutive rows of a weight in one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub form: Form,
    /// Of the weight.
    pub rows: Range<usize>,
    /// The parts that they are.
    pub parts: Range<usize>,
}

impl Extent {
    pub(crate) fn bytes(&self) -> usize {
        self.form.sizes(self.rows.len()).iter().sum()
    }
}

/// The runs of rows that a weight is held as: neighbours of one format together, unless a column
/// order or an input's scale belongs to one part alone.
///
/// Errors with the format that no kernel of this crate runs.
pub(crate) fn runs(info: &WeightInfo) -> std::result::Result<Vec<Extent>, Reason> {
    let mut runs: Vec<Extent> = Vec::new();
    let mut last: Option<WeightFormat> = None;
    for (at, part) in info.parts.iter().enumerate() {
        let form = Form::new(part)?;
        let rows = part.shape.iter().rev().skip(1).product::<usize>();
        let alone = part.format.permuted || part.format.act.is_some_and(ActQuant::is_static);
        if let Some(run) = runs.last_mut().filter(|_| !alone && last == Some(part.format)) {
            run.rows.end += rows;
            run.parts.end += 1;
        } else {
            let start = runs.last().map_or(0, |run| run.rows.end);
            runs.push(Extent { form, rows: start..start + rows, parts: at..at + 1 });
        }
        last = Some(part.format);
    }
    Ok(runs)
}

/// A run of rows in device memory.
pub(crate) struct Run {
    pub of: Extent,
    /// Codes, scales with offsets, table, column order.
    buffers: [Buffer; 4],
    /// The input's scale where it is static, else 0.
    pub input_scale: f32,
}

impl Run {
    /// Packs `parts`, the tensors of the run, and copies them to the device.
    pub(crate) fn load(device: &Arc<Device>, of: Extent, parts: &[CanonicalTensor]) -> Result<Self> {
        let [codes, scales, table, order] = of.form.sizes(of.rows.len()).map(|len| Buffer::new(device, len));
        let buffers = [codes?, scales?, table?, order?];
        let mut at = 0;
        for part in parts {
            let bytes = codes_of(&of.form, part);
            buffers[0].write(at, &bytes)?;
            at += bytes.len();
        }
        buffers[1].write(0, &scales_of(&of.form, parts))?;
        if let Some(table) = of.form.table {
            buffers[2].write(0, bytemuck::cast_slice(table.values()))?;
        }
        let first = parts.first();
        if let Some(order) = first.and_then(|part| part.k_perm.as_ref()) {
            buffers[3].write(0, bytemuck::cast_slice(order))?;
        }
        let input_scale = first.and_then(|part| part.act_scale).unwrap_or(0.0);
        Ok(Self { of, buffers, input_scale })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buffers.iter().map(Buffer::len).sum()
    }

    /// Codes, scales and table, 0 for one that the form does not have.
    pub(crate) fn addresses(&self) -> [Address; 3] {
        [0, 1, 2].map(|i| self.buffers[i].at(0))
    }

    /// The column order, or 0.
    pub(crate) fn order(&self) -> Address {
        self.buffers[3].at(0)
    }
}

/// Codes as the device has them: those of a word in the order that coded.cuh says.
fn codes_of(form: &Form, part: &CanonicalTensor) -> Vec<u8> {
    use nvllm_core::weight::{Code as Core, Offset as Moved};
    let (bits, cols, pitch) = (part.format.code.bits(), form.cols, form.pitch());
    let row_bytes = (cols * bits).div_ceil(8);
    let middle = match (part.format.offset, part.format.code) {
        (Moved::Midpoint, Core::U5 | Core::U6) => 1_u8 << (bits - 1),
        _ => 0,
    };
    let row = |row: usize, out: &mut [u8]| {
        let codes = &part.codes[row * row_bytes..(row + 1) * row_bytes];
        if bits == form.bits() {
            out[..row_bytes].copy_from_slice(codes);
        } else {
            // Eight codes fill as many bytes as one has bits.
            for (codes, out) in codes.chunks(bits).zip(out[..cols].chunks_mut(8)) {
                let mut word = [0; 8];
                word[..codes.len()].copy_from_slice(codes);
                let word = u64::from_le_bytes(word);
                for (i, x) in out.iter_mut().enumerate() {
                    *x = ((word >> (i * bits)) as u8 & ((1 << bits) - 1)).wrapping_sub(middle);
                }
            }
        }
        for word in out.as_chunks_mut().0 {
            let codes = u32::from_le_bytes(*word);
            *word =
                if form.bits() == 8 { pairs_of_bytes(codes) } else { pairs_of_nibbles(codes) }.to_le_bytes();
        }
    };
    let mut bytes = vec![0; part.num_rows() * pitch];
    in_threads(&mut bytes, pitch, row);
    bytes
}

/// Bytes 0, 1, 2, 3 at places 0, 2, 1, 3.
const fn pairs_of_bytes(word: u32) -> u32 {
    word & 0xff00_00ff | (word & 0xff00) << 8 | word >> 8 & 0xff00
}

/// Nibbles 0, 1, .. 7 at places 0, 4, 1, 5, 2, 6, 3, 7.
const fn pairs_of_nibbles(word: u32) -> u32 {
    let (mut even, mut odd, mut i) = (0, 0, 0);
    while i < 4 {
        even |= (word >> (8 * i) & 15) << (4 * i);
        odd |= (word >> (8 * i + 4) & 15) << (4 * i);
        i += 1;
    }
    even | odd << 16
}

/// Scales, each with its offset where there is one, of `parts` one on top of the other; zeros fill
/// the last octet.
fn scales_of(form: &Form, parts: &[CanonicalTensor]) -> Vec<u8> {
    let mut ends = Vec::with_capacity(parts.len());
    for part in parts {
        ends.push(ends.last().unwrap_or(&0) + part.num_rows());
    }
    let find = |row: usize| {
        let part = ends.partition_point(|&end| end <= row);
        parts.get(part).map(|found| (found, row - (ends[part] - found.num_rows())))
    };
    let scale = |part: &CanonicalTensor, row: usize, col: usize| {
        let end = (col + form.group).min(form.cols);
        // The tensor-core kernels know no NaN among codes: its block has one for a scale.
        let nan = form.code == Code::E4M3
            && part.codes[row * form.cols + col..row * form.cols + end]
                .iter()
                .any(|code| code & 0x7f == 0x7f);
        if nan { f32::NAN } else { part.scale(row, col) }
    };
    let each = if form.has_offsets() { 2 } else { 1 };
    let octet_bytes = form.blocks() * 8 * each * size_of::<f32>();
    let mut bytes = vec![0; ends.last().map_or(0, |rows: &usize| rows.div_ceil(8)) * octet_bytes];
    in_threads(&mut bytes, octet_bytes, |octet, out| {
        let rows: [_; 8] = std::array::from_fn(|row| find(octet * 8 + row));
        let values =
            (0..form.blocks()).flat_map(|block| rows.iter().map(move |row| (block * form.group, row)));
        for ((col, row), out) in values.zip(out.chunks_exact_mut(4 * each)) {
            let Some((part, row)) = *row else { continue };
            out[..4].copy_from_slice(&scale(part, row, col).to_le_bytes());
            if each == 2 {
                out[4..].copy_from_slice(&part.offset(row, col).to_le_bytes());
            }
        }
    });
    bytes
}

/// Has `fill` write each run of `bytes` of `len`, by as many threads as that is worth.
fn in_threads(bytes: &mut [u8], len: usize, fill: impl Fn(usize, &mut [u8]) + Sync) {
    const WORTH_A_THREAD: usize = 1 << 18;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = (bytes.len() / WORTH_A_THREAD).clamp(1, processors);
    let num = bytes.len() / len.max(1);
    let each = num.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (chunk, bytes) in bytes.chunks_mut(each * len.max(1)).enumerate() {
            let fill = &fill;
            let mut work = move || {
                bytes
                    .chunks_exact_mut(len.max(1))
                    .enumerate()
                    .for_each(|(i, out)| fill(chunk * each + i, out));
            };
            if each >= num { work() } else { drop(scope.spawn(work)) }
        }
    });
}

#[cfg(test)]
mod tests {
    use nvllm_core::weight::pack::pack;
    use nvllm_core::weight::table::e4m3_to_f32;
    use nvllm_core::weight::{PUBLIC, ScaleType};

    use nvllm_core::DType;

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
                                assert_eq!(
                                    found.to_bits(),
                                    expected[logical].to_bits(),
                                    "{name}: {row}, {col}"
                                );
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
        let info =
            WeightInfo { parts: vec![part("q4_0", 3), part("q4_0", 5), part("q8_0", 2), part("q4_0", 1)] };
        let rows: Vec<_> = runs(&info).unwrap().into_iter().map(|run| (run.rows, run.parts)).collect();
        assert_eq!(rows, [(0..8, 0..2), (8..10, 2..3), (10..11, 3..4)]);
        let mixed = WeightInfo { parts: vec![part("q4_0", 3), TensorInfo::dense(DType::Bf16, [5, 64])] };
        assert!(runs(&mixed).unwrap_err().0.contains("bf16"));
    }
}
