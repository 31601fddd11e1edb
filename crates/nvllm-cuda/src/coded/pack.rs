//! Codes and scales in the order in which kernels read them.

use nvllm_core::CanonicalTensor;

use super::form::{Code, Form};

/// Codes as the device has them: those of a word in the order that coded.cuh says.
pub(super) fn codes_of(form: &Form, part: &CanonicalTensor) -> Vec<u8> {
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
pub(super) fn scales_of(form: &Form, parts: &[CanonicalTensor]) -> Vec<u8> {
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
