//! Coded weights as shaders/common/coded.wgsl reads them.
//!
//! Every public format becomes one of a few: codes of 4 bits or of 8 (5 and 6 bits are widened) in
//! the order of columns, each row beginning at a chunk of 16 bytes, and for each row and block of
//! columns an f32 scale, with an offset where there is one. Scales of several rows are repeated,
//! those of two levels multiplied.

use nvllm_core::weight::{Code as CoreCode, Offset as CoreOffset, Table, in_parallel};
use nvllm_core::{CanonicalTensor, Reason, WeightFormat};

/// Bytes of a chunk.
pub(crate) const CHUNK_BYTES: usize = 16;

/// Rows that one thread packs at once.
const BATCH: usize = 256;

/// How an element is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    I8,
    E4M3,
    U4,
    Table(Table),
}

/// What moves a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offset {
    None,
    /// Half of the range of 4-bit codes.
    Midpoint,
    /// A zero point a block.
    Int,
    /// A value a block.
    Float,
}

/// How rows of codes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub code: Code,
    pub offset: Offset,
    /// Columns of a block; all of them at most.
    pub group: usize,
    pub cols: usize,
}

impl Form {
    /// That of rows of `cols` elements.
    ///
    /// Errors if they are dense.
    pub(crate) fn new(format: WeightFormat, cols: usize) -> Result<Self, Reason> {
        let code = match format.code {
            CoreCode::I8 | CoreCode::U5 | CoreCode::U6 => Code::I8,
            CoreCode::E4M3 => Code::E4M3,
            CoreCode::U4 => Code::U4,
            CoreCode::Lut4(table) => Code::Table(table),
            CoreCode::Dense(_) => return Err(Reason(format!("its format is {format}; it has no codes"))),
        };
        let Some(scales) = format.scales else {
            return Err(Reason(format!("its format is {format}; codes are run with scales")));
        };
        let offset = match format.offset {
            // Of wider codes it is subtracted before they are stored.
            CoreOffset::Midpoint if code == Code::U4 => Offset::Midpoint,
            CoreOffset::None | CoreOffset::Midpoint => Offset::None,
            CoreOffset::Int => Offset::Int,
            CoreOffset::Float => Offset::Float,
        };
        Ok(Self { code, offset, group: scales.block[1].min(cols).max(1), cols })
    }

    /// Elements of a chunk.
    pub(crate) const fn per(&self) -> usize {
        match self.code {
            Code::I8 | Code::E4M3 => CHUNK_BYTES,
            Code::U4 | Code::Table(_) => 2 * CHUNK_BYTES,
        }
    }

    /// Chunks of a row.
    pub(crate) const fn pitch(&self) -> usize {
        self.cols.div_ceil(self.per())
    }

    /// Blocks of a row.
    pub(crate) const fn blocks(&self) -> usize {
        self.cols.div_ceil(self.group)
    }

    /// Whether blocks have an offset beside their scale.
    pub(crate) const fn has_offsets(&self) -> bool {
        matches!(self.offset, Offset::Int | Offset::Float)
    }

    /// Whether a block is half a chunk.
    pub(crate) const fn is_split(&self) -> bool {
        self.group < self.cols && 2 * self.group == self.per()
    }

    /// The power of two of columns that share a scale, if rows can be read chunk by chunk.
    pub(crate) fn shift(&self) -> Option<usize> {
        if !self.cols.is_multiple_of(self.per()) {
            return None;
        }
        if self.group >= self.cols {
            return Some(31);
        }
        let whole = self.group.is_power_of_two() && self.group >= self.per();
        (whole || self.is_split()).then(|| self.group.trailing_zeros() as usize)
    }

    /// Bytes of a row of codes, and of its scales.
    pub(crate) const fn row_bytes(&self) -> [usize; 2] {
        let words = if self.has_offsets() { 2 } else { 1 };
        [self.pitch() * CHUNK_BYTES, self.blocks() * words * size_of::<f32>()]
    }

    /// Rows `rows` of `parts`, which lie one on top of the other: codes and scales.
    pub(crate) fn pack(&self, parts: &[CanonicalTensor], rows: std::ops::Range<usize>) -> [Vec<u8>; 2] {
        let mut out = self.row_bytes().map(|bytes| vec![0; bytes * rows.len()]);
        let mut ends = Vec::with_capacity(parts.len());
        for part in parts {
            ends.push(ends.last().unwrap_or(&0) + part.num_rows());
        }
        let [codes, scales] = self.row_bytes();
        let [code_out, scale_out] = &mut out;
        let batches = code_out.chunks_mut(codes * BATCH).zip(scale_out.chunks_mut(scales * BATCH));
        in_parallel(batches.enumerate().collect(), |(batch, (code_out, scale_out))| {
            let mut blocks = [vec![0.0; self.blocks()], vec![0.0; self.blocks()]];
            let out = code_out.chunks_mut(codes).zip(scale_out.chunks_mut(scales));
            for (i, (code_out, scale_out)) in out.enumerate() {
                let row = rows.start + batch * BATCH + i;
                let at = ends.partition_point(|&end| end <= row);
                let Some(part) = parts.get(at) else { continue };
                let row = row - (ends[at] - part.num_rows());
                self.pack_codes(part, row, code_out);
                self.pack_scales(part, row, &mut blocks, scale_out);
            }
        });
        out
    }

    fn pack_codes(&self, part: &CanonicalTensor, row: usize, out: &mut [u8]) {
        let bits = part.format.code.bits();
        let row_bytes = (self.cols * bits).div_ceil(8);
        let codes = &part.codes[row * row_bytes..(row + 1) * row_bytes];
        if bits == 8 * CHUNK_BYTES / self.per() {
            out[..row_bytes].copy_from_slice(codes);
            return;
        }
        let middle = if part.format.offset == CoreOffset::Midpoint { 1_u8 << (bits - 1) } else { 0 };
        // Eight codes fill as many bytes as one has bits.
        for (codes, out) in codes.chunks(bits).zip(out[..self.cols].chunks_mut(8)) {
            let mut word = [0; 8];
            word[..codes.len()].copy_from_slice(codes);
            let word = u64::from_le_bytes(word);
            for (i, x) in out.iter_mut().enumerate() {
                *x = ((word >> (i * bits)) as u8 & ((1 << bits) - 1)).wrapping_sub(middle);
            }
        }
    }

    fn pack_scales(
        &self,
        part: &CanonicalTensor,
        row: usize,
        [scales, offsets]: &mut [Vec<f32>; 2],
        out: &mut [u8],
    ) {
        part.block_scales(row, scales);
        if self.code == Code::E4M3 {
            // Shaders know no NaN among codes: its block has one for a scale.
            let codes = part.codes[row * self.cols..(row + 1) * self.cols].chunks(self.group);
            for (scale, codes) in scales.iter_mut().zip(codes) {
                if codes.iter().any(|code| code & 0x7f == 0x7f) {
                    *scale = f32::NAN;
                }
            }
        }
        if !self.has_offsets() {
            out.copy_from_slice(bytemuck::cast_slice(scales));
            return;
        }
        part.block_offsets(row, offsets);
        for ((out, scale), offset) in out.chunks_exact_mut(8).zip(scales).zip(offsets) {
            out[..4].copy_from_slice(&scale.to_le_bytes());
            out[4..].copy_from_slice(&offset.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use nvllm_core::DType;
    use nvllm_core::weight::PUBLIC;
    use nvllm_core::weight::pack::pack;

    use super::*;

    /// Rows of codes that count up under scales of 1 in f32 or f16.
    fn tensor(name: &str, rows: usize, cols: usize) -> CanonicalTensor {
        let (_, format) = *PUBLIC.iter().find(|(public, _)| *public == name).expect("it is public");
        let scales = format.scales.expect("it has scales");
        let bits = format.code.bits();
        let num = rows.div_ceil(scales.block[0]) * cols.div_ceil(scales.block[1]);
        let one: &[u8] = if scales.kind.bits() == 32 { &[0, 0, 0x80, 0x3f] } else { &[0, 0x3c] };
        let dense = CanonicalTensor::dense(DType::F32, [rows, cols], Vec::new().into());
        let codes = pack((0..(rows * cols) as u32).map(|i| i % 64), bits, cols);
        CanonicalTensor { format, codes, scales: one.repeat(num).into(), ..dense }
    }

    #[test]
    fn a_nan_among_codes_of_fp8_is_its_blocks_scale() {
        let mut part = tensor("fp8 128x128", 3, 256);
        let mut codes = part.codes.to_vec();
        codes[256 + 130] = 0xff;
        part.codes = codes.into();
        let form = Form::new(part.format, 256).unwrap();
        let [_, scales] = form.pack(&[part], 0..3);
        let nans = (0..6).filter(|&i| DType::F32.read(&scales, i).is_nan());
        assert_eq!(nans.collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn five_bits_become_bytes_around_zero_across_parts() {
        let parts = [tensor("q5_0", 2, 37), tensor("q5_0", 3, 37)];
        let form = Form::new(parts[0].format, 37).unwrap();
        assert_eq!((form.code, form.pitch(), form.shift()), (Code::I8, 3, None));
        // The last row of the first part and the first of the second.
        let [codes, scales] = form.pack(&parts, 1..3);
        let row =
            |first: usize| (0..37).map(move |i| ((first + i) % 64 % 32) as u8).map(|x| x.wrapping_sub(16));
        assert!(codes[..37].iter().copied().eq(row(37)) && codes[48..85].iter().copied().eq(row(0)));
        assert!(codes[37..48].iter().all(|&byte| byte == 0));
        assert_eq!(scales.len(), 2 * 2 * 4);
    }

    #[test]
    fn rows_are_read_by_chunks_where_blocks_do_not_end_inside_them() {
        let shift = |name: &str, cols| {
            let (_, format) = *PUBLIC.iter().find(|(public, _)| *public == name).unwrap();
            Form::new(format, cols).unwrap().shift()
        };
        assert_eq!(shift("q4_0", 1024), Some(5));
        assert_eq!(shift("nvfp4", 1024), Some(4), "two blocks a chunk");
        assert_eq!(shift("q6_k", 1024), Some(4));
        assert_eq!(shift("int8 channel", 1024), Some(31));
        assert_eq!(shift("w4a16", 1040), None, "a row ends inside a chunk");
    }
}
