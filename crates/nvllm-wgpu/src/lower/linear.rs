//! Linear layers, by themselves or with what is fused to them.

use nvllm_core::{OrderId, ValueId, WeightId};

use super::lowering::Input;
use super::norm_inside::Inside;
use super::{Dim, Dispatch, Lowering, Stage};
use crate::error::Result;
use crate::gpu::Part;
use crate::kernel::Kernel;
use crate::shaders::{self, Epilogue};
use crate::storage::{Extent, Store};
use crate::weights::{Run, Segment, Weight};

/// Workgroups in one direction on every adapter.
const MOST_WORKGROUPS: usize = 65_535;

/// Columns that fill a GPU in workgroups of twice as many as usual.
const MANY_COLS: usize = 2048;

/// Columns that a workgroup makes.
pub(super) const COLS: usize = 4;

/// Rows that a workgroup makes, with the most rows for which a launch of so many is made: all kinds
/// sum in one order.
const ROWS: [(usize, usize); 3] = [(1, 1), (4, 4), (8, usize::MAX)];

/// Those where a workgroup has so much memory for sums of `parts` times its columns.
fn tiles(parts: usize, memory: usize) -> &'static [(usize, usize)] {
    // 64 parts of each sum, and the table of a coded weight.
    let fits = 64 * 4 * 8 * COLS * parts + 64 <= memory;
    if fits { &ROWS } else { &[(1, 1), (4, usize::MAX)] }
}

/// Rows of x, and of the weight, of which a workgroup of linear/tiled.wgsl makes the products.
const TILE: usize = 32;

/// Bytes of its memory: two tiles, and the table of a coded weight.
const TILE_BYTES: usize = (16 << 10) + 64;

/// Tiles that fill a GPU, and the rows for which tiles are made at all and, however few, always.
const MANY_TILES: usize = 512;
const LEAST_ROWS: usize = 128;
const MANY_ROWS: usize = 480;

/// The rows from which tiles are faster than a few rows a workgroup, if they can be made.
fn tiled_from(of: &Extent, num_cols: usize, parts: usize, memory: usize) -> Option<usize> {
    let tiles = MANY_TILES.div_ceil(num_cols.div_ceil(TILE / parts));
    let rows = ((tiles - 1) * TILE).clamp(LEAST_ROWS, MANY_ROWS);
    (of.is_wide() && TILE_BYTES <= memory).then_some(rows + 1)
}

/// Of products over k columns, one after another.
const ELEMENTS: OrderId = OrderId("64 strided");
/// Of products over chunks of 16 bytes.
const CHUNKS: OrderId = OrderId("64 strided chunks");
/// Of rows of both kinds.
const BOTH: OrderId = OrderId("64 strided, or chunks of them");

/// The order of sums over rows of a weight.
pub(super) fn order_of(weight: &Weight) -> OrderId {
    let mut runs = weight.runs.iter().map(|run| run.of.is_wide());
    let first = runs.next().unwrap_or(false);
    match (first, runs.all(|wide| wide == first)) {
        (true, true) => CHUNKS,
        (false, true) => ELEMENTS,
        (_, false) => BOTH,
    }
}

/// A linear layer: its weight, and what it does beside the product.
#[derive(Clone, Copy)]
struct Layer<'a> {
    x: Input<'a>,
    bias: Option<WeightId>,
    residual: Option<ValueId>,
    out: ValueId,
    gated: bool,
    /// For one row, what is normed to be `x`.
    norm: Option<Inside<'a>>,
}

impl<'a> Lowering<'a> {
    /// `residual` is added to the product, which is `gated` if the weight has two halves.
    pub(super) fn linear(
        &self,
        at: usize,
        weight: WeightId,
        bias: Option<WeightId>,
        gated: bool,
    ) -> Result<Stage> {
        let node = &self.program.nodes[at];
        let residual = node.inputs.get(1).copied();
        let norm = self.norm_inside(at);
        let weight = self.weights.get(weight);
        let (mut launches, mut checked) = (Vec::new(), Vec::new());
        for run in &weight.runs {
            let (before, x) = self.input(node.inputs[0], run)?;
            launches.extend(before.clone());
            checked.extend(before);
            let layer = Layer { x, bias, residual, out: node.outputs[0], gated, norm };
            for segment in &run.segments {
                self.products(&layer, &run.of, segment, &mut launches)?;
                if norm.is_some() {
                    self.products(&Layer { norm: None, ..layer }, &run.of, segment, &mut checked)?;
                }
            }
        }
        Ok(Stage { order: order_of(weight), launches, checked: norm.is_some().then_some(checked) })
    }

    /// The input of a run: `x` itself, or what a launch makes of it.
    pub(super) fn input(&self, x: ValueId, run: &Run) -> Result<(Option<Dispatch>, Input<'a>)> {
        let input = Input { part: self.value(x), cols: self.cols(x), rows: self.rows(x) };
        if !run.of.changes_input() {
            return Ok((None, input));
        }
        let (of, changed) = (&run.of, Part::whole(&self.inputs.changed));
        let params = [input.cols as u32, of.input_group() as u32, run.input_scale.to_bits()];
        let order = run.order.as_ref().map_or(input.part, Part::whole);
        let parts = [input.part, order, changed];
        let grid = [Dim::Fixed(input.cols.div_ceil(of.input_group())), Dim::rows(input.rows)];
        let constants = [shaders::act(of.act), shaders::ordered(of.permuted)].join("\n");
        let launch = self.launch(&shaders::LINEAR_INPUT, &constants, &params, &parts, grid)?;
        Ok((Some(launch), Input { part: changed, ..input }))
    }

    /// The launches of one segment, for each number of rows.
    fn products(
        &self,
        layer: &Layer<'_>,
        of: &Extent,
        segment: &Segment,
        launches: &mut Vec<Dispatch>,
    ) -> Result<()> {
        let Layer { bias, residual, out, gated, norm, .. } = *layer;
        let (rows, cols) = (self.rows(out), self.cols(out));
        let num_cols = if gated { cols } else { segment.num_rows };
        let epilogue = Epilogue { bias: bias.is_some(), residual: residual.is_some(), gated };
        let is_coded = matches!(of.store, Store::Coded(_));
        let weight = shaders::weight(&of.store, of.is_wide(), shaders::LINEAR_SCALES);
        let round = shaders::round(self.rounds(out));
        let memory = self.gpu.facts.workgroup_bytes;
        let parts = 1 + usize::from(gated);
        let tiled = tiled_from(of, num_cols, parts, memory);
        let last = tiled.map_or(usize::MAX, |least| least - 1);
        let mut least = 1;
        for &(per, most) in tiles(parts, memory) {
            let (chunks, tile_cols) =
                if per == 1 { held(of, num_cols, gated, norm.is_some()) } else { (0, COLS) };
            let mut constants = vec![
                round.clone(),
                weight.clone(),
                shaders::tile(per, tile_cols, epilogue),
                shaders::held(chunks, tile_cols * parts, of.per()),
            ];
            let grid = [Dim::Fixed(num_cols.div_ceil(tile_cols)), Dim::Rows { rows, per }];
            let inside = norm.filter(|_| per == 1);
            let kernel = match inside {
                Some(norm) => {
                    constants.push(shaders::normed(layer.x.cols, is_coded, norm.rounds));
                    &shaders::LINEAR_NORMED[usize::from(is_coded)]
                }
                None => shaders::LINEAR.of(is_coded, of.is_wide()),
            };
            let constants = constants.join("\n");
            let launch = self.over_segment(layer, of, segment, inside, (kernel, &constants, grid))?;
            launches.push(launch.only(rows, least..=most.min(last)));
            least = most.saturating_add(1);
        }
        if let Some(least) = tiled {
            let constants = [round, weight, shaders::epilogue(epilogue)].join("\n");
            let grid = [Dim::Fixed(num_cols.div_ceil(TILE / parts)), Dim::Rows { rows, per: TILE }];
            let kernel = &shaders::LINEAR_TILED[usize::from(is_coded)];
            let launch = self.over_segment(layer, of, segment, None, (kernel, &constants, grid))?;
            launches.push(launch.only(rows, least..=usize::MAX));
        }
        Ok(())
    }

    /// One launch over a segment: all kinds have the same parameters and bindings, but for a norm
    /// inside.
    fn over_segment(
        &self,
        layer: &Layer<'_>,
        of: &Extent,
        segment: &Segment,
        inside: Option<Inside<'_>>,
        (kernel, constants, grid): (&Kernel, &str, [Dim; 2]),
    ) -> Result<Dispatch> {
        let Layer { x, bias, residual, out, gated, norm } = *layer;
        let (rows, cols) = (self.rows(out), self.cols(out));
        let num_cols = if gated { cols } else { segment.num_rows };
        let eps = norm.map_or(0.0, |norm| norm.eps).to_bits() as usize;
        let fixed = [x.cols, cols, segment.first, num_cols, rows.times, Self::count_word(rows)];
        let params = fixed.into_iter().chain(of.reader_params()).chain([eps]);
        let params: Vec<_> = params.map(|word| word as u32).collect();
        let weight_part = Part::whole(&segment.buffer);
        let fixed = [
            Part::whole(&self.inputs.buffer),
            inside.map_or(x.part, |norm| norm.x),
            weight_part,
            bias.map_or(weight_part, |bias| Part::whole(self.weights.get(bias).vector())),
            residual.map_or(weight_part, |residual| self.value(residual)),
            self.value(out),
        ];
        let scales = segment.scales.as_ref().map(Part::whole);
        let bound = fixed.into_iter().chain(scales).chain(inside.map(|norm| norm.weight));
        self.launch(kernel, constants, &params, &bound.collect::<Vec<_>>(), grid)
    }
}

/// Chunks that an invocation can hold: 16 bytes each, of codes with their scales.
const HELD_DENSE: usize = 24;
const HELD_CODED: usize = 16;

/// Chunks of a row of which an invocation holds all of its own at once, and columns of a workgroup.
/// Of long rows none are held: what a workgroup asks for at once is enough there.
fn held(of: &Extent, num_cols: usize, gated: bool, normed: bool) -> (usize, usize) {
    if !of.is_wide() {
        return (0, COLS);
    }
    let most = if matches!(of.store, Store::Coded(_)) { HELD_CODED } else { HELD_DENSE };
    let chunks = of.cols / of.per();
    let parts = 1 + usize::from(gated);
    let fits = |cols: &usize| {
        chunks.div_ceil(64) * cols * parts <= most && num_cols.div_ceil(*cols) <= MOST_WORKGROUPS
    };
    // Each workgroup norms the row: where there are many columns, rather fewer of them.
    let wide = if normed && num_cols >= MANY_COLS { 2 * COLS } else { COLS };
    [wide, COLS, COLS / 2, 1].into_iter().find(fits).map_or((0, COLS), |cols| (chunks, cols))
}
