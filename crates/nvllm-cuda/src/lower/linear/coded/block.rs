//! Blocks of the tensor-core kernels over coded weights: which forms they take, and how large they
//! are.

use nvllm_core::weight::PUBLIC;
use nvllm_core::{TensorInfo, WeightInfo};

use crate::coded::{self, Code, Form, Offset};
use crate::kernels::linear::coded_order::{COLS, range_len};
use crate::kernels::linear::coded_stage::stage_bytes;
use crate::kernels::linear::{coded_few as few, coded_many as many};
use crate::lower::linear::DeviceLimits;
use crate::modules::SharedKernel;

/// A block of `coded_few.cu`: 16 or 32 rows of W in a tile, `rows` of x of which there is room for
/// `tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// 1 or 2.
    pub r: usize,
    pub tokens: usize,
    pub rows: usize,
}

impl Block {
    fn shared(self, form: &Form, slots: usize) -> usize {
        shared(form, [self.r, self.tokens, self.rows], slots)
    }

    /// Its kernel, with so many stages in a warp's ring.
    pub(super) fn kernel(self, form: &Form, slots: usize) -> SharedKernel {
        let name = format!("linear_coded_few_{}{}_r{}_t{}", code_name(form), mode(form), self.r, self.tokens);
        SharedKernel::new(name, self.shared(form, slots))
    }
}

/// Whether `coded_few.cu` takes the form.
pub(super) fn fast(form: &Form) -> bool {
    let unit = if form.bits() == 4 { 32 } else { 16 };
    // A stage copies the scales of at most 8 blocks, or of 4 if they have offsets.
    let least = if form.offset == Offset::None { unit } else { 32 };
    let blocks = form.group >= form.cols || form.group.is_power_of_two() && form.group >= least;
    let scaled = form.code == Code::E4M3 && form.input_group() == COLS && form.offset == Offset::None;
    // Two numbers have 16 bits of such a value: as a sum grows longer, what that costs it falls
    // below what its additions do.
    let exact = !is_split(form) || form.cols >= 128;
    form.cols.is_multiple_of(unit) && blocks && (form.input_groups() == 1 || scaled) && exact
}

/// Whether codes stand for values that are not exact in bf16, so that kernels take each as two.
fn is_split(form: &Form) -> bool {
    let exact = |value: &f32| value.to_bits().trailing_zeros() >= 16;
    form.table.is_some_and(|table| !table.values().iter().all(exact))
}

/// Columns that share a scale in a stage.
fn period(form: &Form) -> usize {
    if form.group >= form.cols { COLS } else { form.group.min(COLS) }
}

/// Most stages in a warp's ring of coded_few.cu.
pub(super) const fn ring(tight: bool) -> usize {
    if tight { 3 } else { 4 }
}

/// Bytes of a stage of 16 r rows of W.
fn stage(form: &Form, r: usize) -> usize {
    stage_bytes(r, form.bits(), COLS / period(form), form.has_offsets())
}

/// Shared memory of a block with so many stages in a warp's ring.
fn shared(form: &Form, [r, tokens, rows]: [usize; 3], slots: usize) -> usize {
    let (grouped, table) = (form.input_groups() > 1, form.code == Code::Table);
    few::shared_bytes(r, tokens, rows, slots, stage(form, r), range_len(form.cols), grouped, table)
}

/// Shared memory of a block of coded_many.cu.
pub(super) fn many_shared(form: &Form) -> usize {
    let (grouped, table) = (form.input_groups() > 1, form.code == Code::Table);
    many::shared_bytes(stage(form, 1), form.cols.div_ceil(COLS), grouped, table)
}

pub(super) fn many_kernel(form: &Form) -> SharedKernel {
    let name = format!("linear_coded_many_{}{}", code_name(form), mode(form));
    SharedKernel::new(name, many_shared(form))
}

/// Every kernel of `coded_few.cu` and `coded_many.cu`, as weights of public formats with `cols`
/// columns would be launched by it, most shared memory first.
pub(in crate::lower::linear) fn kernels(cols: usize, tight: bool) -> Vec<SharedKernel> {
    let tiles =
        [(1, 8), (1, 16), (1, 32), (2, 8), (2, 16)].map(|(r, tokens)| Block { r, tokens, rows: tokens });
    let of = |form: &Form| {
        let few = tiles.map(|block| block.kernel(form, ring(tight)));
        few.into_iter().chain([many_kernel(form)]).collect::<Vec<_>>()
    };
    let formats =
        PUBLIC.map(|(_, format)| WeightInfo { parts: vec![TensorInfo { shape: vec![64, cols], format }] });
    let forms = formats.iter().flat_map(|info| forms(info).unwrap_or_default()).filter(fast);
    let mut all: Vec<_> = forms.flat_map(|form| of(&form)).collect();
    all.sort_by_key(|kernel| std::cmp::Reverse(kernel.shared));
    all
}

/// The block for steps of up to `most` rows and so many rows of W, in tiles of 32 where these fill
/// the device. None if not even one row of x fits.
pub(super) fn block(form: &Form, most: usize, n: usize, gated: bool, device: &DeviceLimits) -> Option<Block> {
    let whole = [32, 16, 8].into_iter().filter(|&tokens| tokens == 8 || tokens / 2 < most);
    let rows = whole.map(|tokens| (tokens, tokens.min(most))).chain((1..8).rev().map(|rows| (8, rows)));
    // From three quarters of the multiprocessors on, a block's fewer barriers outweigh those that
    // rest.
    let wide = 4 * n.div_ceil(32) >= 3 * device.blocks && (!gated || n.is_multiple_of(32));
    let choices = rows.flat_map(|(tokens, rows)| [(2, tokens, rows), (1, tokens, rows)]);
    choices
        .filter(|&(r, tokens, _)| r == 1 || wide && tokens < 32)
        .map(|(r, tokens, rows)| Block { r, tokens, rows })
        .find(|block| block.shared(form, ring(device.tight)) + few::STATIC_SHARED <= device.shared)
}

/// The forms of a coded weight; none if it is dense.
pub(super) fn forms(info: &WeightInfo) -> Option<Vec<Form>> {
    let coded = info.plain().is_err().then(|| coded::runs(info).ok()).flatten()?;
    Some(coded.into_iter().map(|run| run.form).collect())
}

/// The codes of a form, as kernels' names have them.
fn code_name(form: &Form) -> &'static str {
    match (form.code, form.table) {
        (Code::I8, _) => "i8",
        (Code::E4M3, _) => "e4m3",
        (Code::U4, _) => "u4",
        (Code::Table, _) if is_split(form) => "nf4",
        (Code::Table, _) => "lut4",
    }
}

/// What a block's end needs beside its scale, as kernels' names have it.
fn mode(form: &Form) -> &'static str {
    match (form.has_offsets(), form.input_groups() > 1) {
        (true, _) => "_sums",
        (_, true) => "_scaled",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::BOUNDS;
    use super::*;
    use crate::lower::linear::HOPPER;

    const TIGHT: DeviceLimits = DeviceLimits { blocks: 128, shared: 101_376, tight: true, wgmma: false };

    fn form(name: &str, cols: usize) -> Form {
        let (_, format) = *PUBLIC.iter().find(|(public, _)| *public == name).expect("a public format");
        let info = WeightInfo { parts: vec![TensorInfo { shape: vec![64, cols], format }] };
        coded::runs(&info).expect("it runs")[0].form
    }

    #[test]
    fn every_public_format_but_one_has_a_kernel_of_tensor_cores() {
        for (name, _) in PUBLIC {
            // Its blocks of 16 columns end inside a lane's 4-bit codes.
            assert_eq!(fast(&form(name, 4096)), name != "nvfp4", "{name}");
            assert!(!fast(&form(name, 4100)), "{name}");
            assert_eq!(fast(&form(name, 64)), !["nvfp4", "nf4", "fp4"].contains(&name), "{name}");
        }
    }

    #[test]
    fn a_block_fits_its_device_and_holds_no_more_rows_than_it_has_tokens() {
        for (name, _) in PUBLIC {
            for (device, cols) in [(HOPPER, 1024), (HOPPER, 12_288), (HOPPER, 28_672), (TIGHT, 4096)] {
                let form = form(name, cols);
                for most in BOUNDS {
                    for n in [64, 4096, 4112] {
                        let block = block(&form, most, n, true, &device).expect("one row fits");
                        let shared = block.shared(&form, ring(device.tight));
                        assert!(shared <= device.shared && (1..=block.tokens).contains(&block.rows));
                        assert!(block.rows <= most && (block.r == 1 || n == 4096), "{name}: {block:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_are_wide_where_they_fill_the_device() {
        let of = |n, most| {
            let block = block(&form("q8_0", 1024), most, n, false, &HOPPER).expect("it fits");
            (block.r, block.tokens, block.rows)
        };
        assert_eq!([of(1024, 1), of(4096, 1), of(4096, 16)], [(1, 8, 1), (2, 8, 1), (2, 16, 16)]);
        assert_eq!([of(4096, 32), of(4096, usize::MAX)], [(1, 32, 32), (1, 32, 32)]);
    }
}
