//! Kernels of `linear`, of the fused ops that begin with it, and of `expert_linear`.

use nvllm_core::program::Node;
use nvllm_core::{Limits, Op, Program};

use super::choice::{Chosen, KernelCandidate, any_rows, candidate_launches};
use super::{LANES, Lowering, Operand};
use crate::error::Result;
use crate::kernels::linear::linear_order::RANGES;
use crate::modules::SharedKernel;
pub(super) use coded::any_format;
pub(crate) use coded::{input_bytes, runs_gated};
pub(super) use few::NORM_ROWS;
use few::{mid_m, mid_m_split, small, small_m};
use general::general;
use hopper::{C1_N32, C1_N64, C1_N128, C2_N64, C2_N128, C3_N128};
use hopper::{cluster_split, double_rows, narrow, single_rows, splits};
use layer::{DeviceLimits, Parts, operands};
pub(crate) use layer::{Epilogue, Linear};
pub(super) use layer::{HOPPER, SPLIT8};
use many::tensor_core;

mod coded;
mod few;
mod general;
mod hopper;
mod layer;
mod many;
mod norm_inside;

/// Rows at most of `mid_m.cu`.
const MID_ROWS: usize = 128;

/// Rows at most of `cluster_split.cu`: more of them would not run at once.
const SPLIT_ROWS: usize = 64;

/// Rows of W from which `mid_m.cu` has tiles enough without cutting K.
const WHOLE_ROWS: usize = 4096;

/// Best first.
static TABLE: [KernelCandidate<Linear>; 15] = [
    KernelCandidate {
        order: SPLIT8,
        takes: |l| l.fast() && small(l, 8).is_some(),
        most_rows: |_| 8,
        launch: |lowering, l| small_m(lowering, l, 8),
    },
    KernelCandidate {
        order: SPLIT8,
        takes: |l| l.fast() && small(l, 16).is_some(),
        most_rows: |_| 16,
        launch: |lowering, l| small_m(lowering, l, 16),
    },
    KernelCandidate {
        order: SPLIT8,
        takes: |l| l.fast() && l.k() <= 2048 && l.n < 8192 && small(l, 32).is_some(),
        most_rows: |_| 32,
        launch: |lowering, l| small_m(lowering, l, 32),
    },
    KernelCandidate { order: SPLIT8, takes: splits, most_rows: |_| SPLIT_ROWS, launch: cluster_split },
    KernelCandidate {
        order: SPLIT8,
        takes: narrow,
        most_rows: |l| C1_N32.one_wave_rows(l),
        launch: |lowering, l| C1_N32.launch(lowering, l),
    },
    KernelCandidate {
        order: SPLIT8,
        takes: narrow,
        most_rows: |l| C1_N64.one_wave_rows(l),
        launch: |lowering, l| C1_N64.launch(lowering, l),
    },
    KernelCandidate {
        order: SPLIT8,
        takes: narrow,
        most_rows: |l| C2_N64.one_wave_rows(l),
        launch: |lowering, l| C2_N64.launch(lowering, l),
    },
    KernelCandidate {
        order: SPLIT8,
        takes: |l| l.fast() && l.y.cols.is_multiple_of(8) && l.n < WHOLE_ROWS,
        most_rows: |_| MID_ROWS,
        launch: mid_m_split,
    },
    KernelCandidate {
        order: SPLIT8,
        takes: Linear::hopper,
        most_rows: single_rows,
        launch: |lowering, l| C1_N128.launch(lowering, l),
    },
    KernelCandidate {
        order: SPLIT8,
        takes: Linear::hopper,
        most_rows: double_rows,
        launch: |lowering, l| C2_N128.launch(lowering, l),
    },
    KernelCandidate {
        order: SPLIT8,
        takes: Linear::hopper,
        most_rows: any_rows,
        launch: |lowering, l| C3_N128.launch(lowering, l),
    },
    KernelCandidate {
        order: SPLIT8,
        takes: |l| l.fast() && l.y.cols.is_multiple_of(8),
        most_rows: |_| MID_ROWS,
        launch: mid_m,
    },
    KernelCandidate {
        order: SPLIT8,
        takes: Linear::fast,
        most_rows: |_| 256,
        launch: |lowering, l| tensor_core(lowering, l, 64),
    },
    KernelCandidate {
        order: SPLIT8,
        takes: Linear::fast,
        most_rows: any_rows,
        launch: |lowering, l| tensor_core(lowering, l, 128),
    },
    KernelCandidate { order: LANES, takes: |_| true, most_rows: any_rows, launch: general },
];

/// The kernels with dynamic shared memory, as layers with `cols` columns would be launched on
/// Hopper.
pub(super) fn shared_kernels(cols: usize) -> Vec<SharedKernel> {
    let plain = Linear::plain(4096, cols, HOPPER);
    let dense = [plain, Linear { epilogue: Epilogue::SiluMul, ..plain }];
    let of = |l: &Linear| {
        let many = [64, 128].map(|tokens| many::kernel(l, tokens));
        [few::kernels(l), many.into(), hopper::kernels(l)].concat()
    };
    dense.iter().flat_map(of).chain(coded::kernels(cols, HOPPER.tight)).collect()
}

/// Bytes of partial sums that the linear layers of `program` may need.
pub(crate) fn partial_bytes(program: &Program, limits: &Limits) -> usize {
    let bytes = |node: &Node| {
        let (Op::Linear { weight, .. } | Op::LinearAdd { weight, .. } | Op::LinearSiluMul { weight, .. }) =
            node.op
        else {
            return 0;
        };
        let n = program.weights[weight.index()].num_rows();
        let rows = program.value(node.outputs[0]).rows.max(limits).min(MID_ROWS);
        if n < WHOLE_ROWS { RANGES * rows * n * size_of::<f32>() } else { 0 }
    };
    program.nodes.iter().map(bytes).max().unwrap_or(0)
}

impl Lowering<'_> {
    /// The linear layer of node `at` with its epilogue.
    pub(super) fn linear(&self, at: usize) -> Result<Vec<Chosen>> {
        if let Some(layer) = self.coded_layer(at) {
            return layer.chosen(self);
        }
        let Some(shape) = self.layer(at) else { return Ok(Vec::new()) };
        candidate_launches(self, &TABLE, &shape)
    }
}

#[cfg(test)]
mod tests {
    use nvllm_core::{DType, Numerics};

    use few::Small;

    use crate::lower::choice::choose;
    use crate::weights::Vector;

    use super::*;

    fn layer(k: usize, n: usize, dtype: DType) -> Linear {
        let l = Linear::plain(n, k, DeviceLimits { wgmma: false, ..HOPPER });
        Linear { x: Operand { dtype, ..l.x }, y: Operand { dtype, ..l.y }, dtype, ..l }
    }

    fn rows(l: &Linear) -> Vec<(&'static str, usize)> {
        let chosen = choose(&TABLE, l, Numerics::Invariant).into_iter();
        chosen.map(|candidate| (candidate.order.0, (candidate.most_rows)(l))).collect()
    }

    #[test]
    fn every_shape_has_one_order_from_one_row_to_many() {
        let all = |order, most: &[usize]| most.iter().map(|&most| (order, most)).collect::<Vec<_>>();
        let (fast, slow) = (SPLIT8.0, LANES.0);
        assert_eq!(rows(&layer(1024, 1024, DType::Bf16)), all(fast, &[8, 16, 32, 128, 256, usize::MAX]));
        assert_eq!(rows(&layer(3072, 1024, DType::Bf16)), all(fast, &[8, 16, 128, 256, usize::MAX]));
        // Columns that no run of 16 bytes covers; then a K whose rows of x fill a block's shared
        // memory.
        assert_eq!(rows(&layer(1024, 151_935, DType::Bf16)), all(fast, &[8, 16, 256, usize::MAX]));
        assert_eq!(rows(&layer(16_384, 4096, DType::Bf16)), all(fast, &[128, 256, usize::MAX]));
        assert_eq!(rows(&layer(1020, 1024, DType::Bf16)), all(slow, &[usize::MAX]));
        assert_eq!(rows(&layer(1024, 1024, DType::F32)), all(slow, &[usize::MAX]));
        let wide_bias = Some(Vector { wide: 1, narrow: 0 });
        assert_eq!(rows(&Linear { bias: wide_bias, ..layer(1024, 1024, DType::Bf16) }).len(), 1);
    }

    #[test]
    fn hopper_takes_the_tile_that_fills_it() {
        let hopper = |k, n| Linear { device: HOPPER, ..layer(k, n, DType::Bf16) };
        let most = |k, n| rows(&hopper(k, n)).into_iter().map(|(_, most)| most).collect::<Vec<_>>();
        let any = usize::MAX;
        assert_eq!(most(1024, 4096), [8, 16, 32, 64, 128, 256, 1024, any]);
        assert_eq!(most(1024, 6144), [8, 16, 32, 64, 128, 1024, any]);
        assert_eq!(most(2048, 1024), [8, 16, 32, 64, 256, 512, 1024, any]);
        assert_eq!(most(3072, 1024), [8, 16, 64, 256, 512, 1024, any]);
        // Too long a K for narrow tiles; ranges of 5 steps of 64 columns.
        assert_eq!(most(4096, 4096), [8, 256, any]);
        assert_eq!(most(2560, 4096), [8, 16, 256, any]);
        assert_eq!(most(1024, 151_936), [8, 16, 64, 1024, any]);
    }

    #[test]
    fn fused_forms_have_the_order_of_the_plain_one() {
        let most = |epilogue, n: usize, cols: usize| {
            let l = layer(1024, n, DType::Bf16);
            let all = rows(&Linear { epilogue, y: Operand { cols, ..l.y }, ..l });
            assert!(all.iter().all(|(order, _)| *order == SPLIT8.0));
            all.into_iter().map(|(_, most)| most).collect::<Vec<_>>()
        };
        assert_eq!(most(Epilogue::Add(256), 1024, 1024), most(Epilogue::Plain, 1024, 1024));
        assert_eq!(most(Epilogue::SiluMul, 6144, 3072), most(Epilogue::Plain, 6144, 6144));
        // Half of them no run of 8.
        assert_eq!(most(Epilogue::SiluMul, 2008, 1004), [8, 16, 32, 256, usize::MAX]);
    }

    #[test]
    fn weights_are_resident_where_one_tile_a_multiprocessor_covers_them() {
        let traversal = |k, n| small(&layer(k, n, DType::Bf16), 8);
        assert_eq!(traversal(2048, 1024), Some(Small::Resident(16)));
        assert_eq!(traversal(1024, 4096), Some(Small::Resident(32)));
        assert_eq!(traversal(1024, 6144), Some(Small::Resident(48)));
        assert_eq!(traversal(1024, 151_936), Some(Small::Stream));
    }
}
