//! Kernels for few rows, where W is read once: `small_m.cu` and `mid_m.cu`.

use nvllm_core::program::MemoryPlan;
use nvllm_core::{Op, Program};

use super::{DeviceLimits, Linear, Parts, operands};
use crate::error::Result;
use crate::launch::{Args, Dim, Launch};
use crate::lower::Lowering;
use crate::memory::Address;

/// How `small_m.cu` goes through W.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Small {
    /// Tiles of so many rows of W, one a block.
    Resident(usize),
    Stream,
}

impl Small {
    const fn tile_rows(self) -> usize {
        match self {
            Self::Resident(rows) => rows,
            Self::Stream => 16,
        }
    }

    /// Dynamic shared memory of a block, as small_m.cu has it.
    fn shared(self, l: &Linear, tokens: usize) -> usize {
        let (range, rows) = (l.range(), self.tile_rows());
        let partial = 32 * (rows + 4) * tokens;
        let x = 8 * tokens * range * 2;
        match self {
            Self::Resident(_) => 8 * (range / 64) * rows * 128 + partial + x,
            Self::Stream => 8 * (if l.device.tight { 4 } else { 6 }) * rows * 128 + 2 * partial + x,
        }
    }
}

/// The fewest rows with which one tile a multiprocessor covers W; otherwise W streams. None if not
/// even that fits.
pub(super) fn small(l: &Linear, tokens: usize) -> Option<Small> {
    let fits = |traversal: &Small| traversal.shared(l, tokens) <= l.device.shared;
    let covers = |rows: &usize| l.tiles(*rows) <= l.device.blocks;
    let resident = [16, 32, 48].into_iter().filter(covers).map(Small::Resident).find(fits);
    resident.or_else(|| Some(Small::Stream).filter(fits))
}

/// The flag that lets the next kernel start when x is here, so that its weights do not queue before
/// x.
const LATE: usize = 2;

/// A norm of x that every block makes for itself.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    pub weight: Address,
    pub eps: f32,
}

impl Norm {
    pub(super) const NONE: Self = Self { weight: 0, eps: 0.0 };
}

pub(super) fn small_m(lowering: &Lowering<'_>, l: &Linear, tokens: usize) -> Result<Vec<Launch>> {
    small_m_with(lowering, l, tokens, None)
}

fn small_m_with(
    lowering: &Lowering<'_>,
    l: &Linear,
    tokens: usize,
    norm: Option<Norm>,
) -> Result<Vec<Launch>> {
    let traversal = small(l, tokens).unwrap_or(Small::Stream);
    let shared = traversal.shared(l, tokens) as u32;
    let tiles = l.tiles(traversal.tile_rows());
    let suffix = match traversal {
        Small::Resident(rows) => format!("r{rows}"),
        Small::Stream => "stream".into(),
    };
    let normed = match norm {
        None => "",
        Some(_) if l.k() <= 1024 => "_norm1",
        Some(_) => "_norm4",
    };
    let name = format!("linear_small_m{}_{suffix}{normed}_t{tokens}", l.form());
    let grid = match traversal {
        Small::Resident(_) => tiles,
        Small::Stream => tiles.min(lowering.modules.blocks_at_once(&name, 256, shared)? * l.device.blocks),
    };
    let Norm { weight, eps } = norm.unwrap_or(Norm::NONE);
    // y's type is the other flag.
    let args = operands(l, l.factors(), LATE).ptr(weight).f32(eps);
    let function = lowering.modules.function_with(&name, shared)?;
    Ok(vec![Launch::new(function, Dim::Fixed(grid), 256, args).with_shared(shared).early()])
}

/// Rows at most for which the norm in every block costs less than a launch of its own.
pub(in crate::lower) const NORM_ROWS: usize = 2;

/// Columns of the widest row that a block makes the norm of.
pub(super) const NORM_COLS: usize = 4096;

/// Static shared memory of the kernels with a norm, and to spare.
const NORM_SHARED: usize = 1024;

impl Lowering<'_> {
    /// The launches of the linear layer after node `at` if that is a norm which the layer makes for
    /// itself, by the rows that they take at most; none from the number on for which it does not.
    /// The bits are those of the two kernels one after the other.
    pub(in crate::lower) fn norm_inside(&self, at: usize) -> Result<Vec<(usize, Vec<Launch>)>> {
        let norm = &self.program.nodes[at];
        let (Op::RmsNorm { weight, eps }, Some(Parts { x: normed, .. })) = (&norm.op, self.parts(at + 1))
        else {
            return Ok(Vec::new());
        };
        let x = self.value(norm.inputs[0]);
        let cols = self.program.weights[weight.index()].num_rows();
        let whole = cols == normed.cols && normed.dtype == x.dtype;
        let norm = Norm { weight: self.weights.vector(*weight).narrow, eps: *eps };
        if !(only_for_next(self.program, self.plan, at) && whole && norm.weight != 0) {
            return Ok(Vec::new());
        }
        match (self.coded_layer(at + 1), self.layer(at + 1)) {
            (Some(layer), _) => layer.normed(self, x, norm),
            (None, Some(layer)) => self.normed(Linear { x, ..layer }, norm),
            (None, None) => Ok(Vec::new()),
        }
    }

    /// The launches of a dense layer with the norm of x in every block; none if its kernel cannot.
    fn normed(&self, layer: Linear, norm: Norm) -> Result<Vec<(usize, Vec<Launch>)>> {
        let shared = layer.device.shared.saturating_sub(NORM_SHARED);
        let layer = Linear { device: DeviceLimits { shared, ..layer.device }, ..layer };
        if !(layer.fast() && layer.k() <= NORM_COLS && small(&layer, 8).is_some()) {
            return Ok(Vec::new());
        }
        Ok(vec![(NORM_ROWS, small_m_with(self, &layer, 8, Some(norm))?)])
    }
}

/// Whether nothing but the node after it reads what node `at` makes of its input, and that input
/// lies apart from what the node after it writes: the plan lets it go before.
fn only_for_next(program: &Program, plan: &MemoryPlan, at: usize) -> bool {
    let [norm, next] = &program.nodes[at..at + 2] else { return false };
    let (product, reads) = (norm.outputs[0], program.nodes.iter().flat_map(|node| &node.inputs));
    let alone = next.inputs[0] == product && reads.filter(|&&id| id == product).count() == 1;
    let (from, to) = (plan.place(norm.inputs[0]), plan.place(next.outputs[0]));
    let apart = from.offset + from.bytes <= to.offset || to.offset + to.bytes <= from.offset;
    alone && apart && !program.value(product).keep
}

/// Shared memory of `mid_m.cu`: a ring of 4 stages.
const MID_SHARED: u32 = 65_536;

pub(super) fn mid_m(lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
    let function = lowering.modules.function_with(&format!("linear_mid_m{}", l.form()), MID_SHARED)?;
    let launch = Launch::new(function, Dim::Fixed(l.tiles(64)), 128, operands(l, l.factors(), 0));
    Ok(vec![launch.by(Dim::Rows { rows: l.y.rows, per: 64 }).with_shared(MID_SHARED).early()])
}

pub(super) fn mid_m_split(lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
    let partial = lowering.partial;
    let function = lowering.modules.function_with("linear_mid_m_split", MID_SHARED)?;
    let args = l.factors().ptr(partial).rows(l.y.rows).int(l.n).int(l.k());
    let split = Launch::new(function, Dim::Fixed(8 * l.n.div_ceil(64)), 128, args)
        .by(Dim::Rows { rows: l.y.rows, per: 64 })
        .with_shared(MID_SHARED);
    let args = operands(l, Args::new().ptr(partial), 0);
    let blocks = Dim::Tiles { rows: l.y.rows, cols: l.y.cols, per: 1024, each: 1, most: usize::MAX };
    let function = lowering.function(&format!("linear_merge{}", l.form()))?;
    let merge = Launch::new(function, blocks, 256, args);
    Ok(vec![split.early(), merge.early()])
}

#[cfg(test)]
mod tests {
    use nvllm_core::program::Recorder;
    use nvllm_core::{Activations, AxisRole, KvFormat, Limits, Numerics, PlanRules, SpecBuilder, ValueId};

    use super::*;

    /// Whether the linear layer that follows a norm may make it, where `more` uses what the norm
    /// makes and `keep` keeps it; and with the layer's output where the norm's input was.
    fn alone(keep: bool, more: impl FnOnce(&mut Recorder, ValueId)) -> [bool; 2] {
        let mut builder = SpecBuilder::new();
        let table = builder.matrix("table", 8, AxisRole::Replicated, [("t".into(), 8, AxisRole::Replicated)]);
        let weight = builder.vector("norm", "n", 8);
        let mut p = builder.program("generate");
        let x = p.embed(table);
        let normed = p.rms_norm(x, weight, 1e-6);
        p.label(normed, "normed");
        p.linear(normed, table);
        more(&mut p, normed);
        let mut program = p.finish().unwrap();
        assert!(!keep || program.keep("normed"));
        let limits = Limits {
            step_tokens: 4,
            step_outputs: 1,
            seqs: 1,
            context: 32,
            block_len: 16,
            kv_bytes: 1 << 20,
            kv_format: KvFormat::Bf16,
            activations: Activations::Bf16,
            numerics: Numerics::Invariant,
            max_in_flight: 1,
            exact_head: false,
        };
        let mut plan = MemoryPlan::new(&program, &limits, &PlanRules::HOST).unwrap();
        let [x, y] = [program.nodes[1].inputs[0], program.nodes[2].outputs[0]].map(ValueId::index);
        plan.places[y].offset = plan.places[x].offset + plan.places[x].bytes;
        let apart = only_for_next(&program, &plan, 1);
        plan.places[y].offset = plan.places[x].offset;
        [apart, only_for_next(&program, &plan, 1)]
    }

    #[test]
    fn a_norm_is_made_inside_only_where_nothing_else_reads_it_and_its_input_is_there() {
        assert_eq!(alone(false, |_, _| {}), [true, false]);
        assert_eq!(alone(true, |_, _| {}), [false, false]);
        let twice = |p: &mut Recorder, normed| {
            p.add(normed, normed);
        };
        assert_eq!(alone(false, twice), [false, false]);
    }
}
