//! Linear layers by NVIDIA's library, where it is found and measures faster: under `Numerics::Fast`
//! only, since it sums in orders of its own.
//!
//! Shapes of layers and numbers of rows are few, so each pair is timed once, at the first load:
//! both kernels over the model's own layers, one after another in a graph, so that weights come
//! from memory as they do in a step.
//!
//! The library adds a residual as our kernels do. Gate and up it leaves for `silu_mul` to join,
//! which its time includes.

use std::rc::Rc;

use nvllm_core::program::Node;
use nvllm_core::{Activations, DType, Limits, Numerics, Op, OrderId, Program, Rows};

use super::choice::Chosen;
use super::linear::{Epilogue, Linear, NORM_ROWS};
use super::stage::{Schedule, Stage};
use super::{LANES, Lowering, Operand};
use crate::cublaslt::{Algorithm, CublasLt, Layout, Product, Shape, WORKSPACE_BYTES, cublaslt_version};
use crate::device::Device;
use crate::error::{Doing, Result};
use crate::graphs::capture;
use crate::launch::{Args, Extents, Launch};
use crate::measured::{Faster, Measured};
use crate::memory::Address;

/// When the vendor's library runs a linear layer under [`Numerics::Fast`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// Where it measures faster than our kernels.
    #[default]
    IfFaster,
    /// Wherever it takes the shape: how tests see it run.
    Always,
}

/// Most rows of each bucket that is timed, with the order of the library's product in it.
const BUCKETS: [(usize, OrderId); 13] = [
    (4, OrderId("cublaslt.4")),
    (8, OrderId("cublaslt.8")),
    (16, OrderId("cublaslt.16")),
    (32, OrderId("cublaslt.32")),
    (64, OrderId("cublaslt.64")),
    (128, OrderId("cublaslt.128")),
    (256, OrderId("cublaslt.256")),
    (512, OrderId("cublaslt.512")),
    (1024, OrderId("cublaslt.1024")),
    (2048, OrderId("cublaslt.2048")),
    (4096, OrderId("cublaslt.4096")),
    (8192, OrderId("cublaslt.8192")),
    (usize::MAX, OrderId("cublaslt.more")),
];

/// Rows up to which all layers of a shape are timed together: with more, values and not weights are
/// what comes from memory.
const MANY_ROWS: usize = 256;
/// Layers that are timed with more rows than that.
const FEW_LAYERS: usize = 4;
/// Timed runs of each candidate, of which the fastest counts.
const RUNS: usize = 3;

/// Bytes that the linear layers of `program` need beside their values: the library's workspace,
/// then gate and up.
pub(crate) fn workspace_bytes(program: &Program, limits: &Limits) -> usize {
    let joined = |node: &Node| {
        let Op::LinearSiluMul { weight, .. } = node.op else { return 0 };
        let rows = program.value(node.outputs[0]).rows.max(limits);
        rows * program.weights[weight.index()].num_rows() * DType::Bf16.size()
    };
    let joined = program.nodes.iter().map(joined).max().unwrap_or(0);
    if wanted(limits) { WORKSPACE_BYTES + joined } else { 0 }
}

/// Whether the library may be used: its products here take bf16.
pub(crate) fn wanted(limits: &Limits) -> bool {
    limits.numerics == Numerics::Fast && limits.activations == Activations::Bf16
}

/// A linear layer that the library could run.
struct Layer {
    /// Its node in the program.
    node: usize,
    x: Address,
    w: Address,
    /// What is added to the product, or 0.
    residual: Address,
    /// Where the product goes.
    y: Address,
    rows: Rows,
    form: Form,
    /// What joins gate and up, if the product is these.
    join: Option<Launch>,
}

/// What makes layers alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    shape: Shape,
    adds: bool,
    joins: bool,
}

impl Layer {
    fn launches(&self, product: &Rc<Product>, workspace: Address) -> Vec<Launch> {
        let args = Args::new().ptr(self.x).ptr(self.w).ptr(self.residual).ptr(self.y).ptr(workspace);
        let product = Launch::product(Rc::clone(product), self.rows, args.rows(self.rows));
        std::iter::once(product).chain(self.join.clone()).collect()
    }

    /// The layer by `product`, for up to `most_rows` rows.
    fn stage(&self, product: &Rc<Product>, most_rows: usize, workspace: Address) -> Stage {
        let order = BUCKETS.iter().find(|(most, _)| most_rows <= *most).map_or(LANES, |(_, order)| *order);
        Stage::node(
            self.node,
            self.rows,
            Chosen { most_rows, order, launches: self.launches(product, workspace) },
        )
    }
}

/// A load under [`Numerics::Fast`].
pub(crate) struct Tuning<'a> {
    pub lowering: &'a Lowering<'a>,
    pub device: &'a Device,
    pub library: &'a Rc<CublasLt>,
    pub vendor: Vendor,
    pub measured: &'a Measured,
}

impl Tuning<'_> {
    /// Puts the library's products in place of the stages of `schedule` that are slower.
    ///
    /// # Errors
    /// If a launch fails.
    pub(crate) fn improve(&self, schedule: &mut Schedule) -> Result<()> {
        let mut left = self.layers()?;
        while let Some(first) = left.first() {
            let alike = (first.form, first.rows);
            let (layers, others) = left.into_iter().partition(|layer| (layer.form, layer.rows) == alike);
            left = others;
            self.improve_alike(&layers, schedule)?;
        }
        self.measured.keep();
        // No step has begun.
        self.set_counts(0)
    }

    /// The layers that the library could run.
    fn layers(&self) -> Result<Vec<Layer>> {
        let layers = (0..self.lowering.program.nodes.len()).map(|node| self.layer(node));
        layers.filter_map(Result::transpose).collect()
    }

    fn layer(&self, node: usize) -> Result<Option<Layer>> {
        let Some(layer) = self.lowering.layer(node) else { return Ok(None) };
        let Linear { x, y, weight, n, epilogue, dtype, bias, .. } = layer;
        if x.dtype != DType::Bf16 || dtype != DType::Bf16 || bias.is_some() || y.rows.times != 1 {
            return Ok(None);
        }
        let apart = Operand { at: self.lowering.partial + WORKSPACE_BYTES as Address, cols: n, ..y };
        let (product, residual, join) = match epilogue {
            Epilogue::Plain => (y, 0, None),
            Epilogue::Add(residual) => (y, residual, None),
            Epilogue::SiluMul => (apart, 0, Some(self.lowering.silu_mul(apart, y)?)),
        };
        let shape = Shape { k: x.cols, n, out: product.dtype };
        let form = Form { shape, adds: residual != 0, joins: join.is_some() };
        Ok(Some(Layer { node, x: x.at, w: weight, residual, y: product.at, rows: y.rows, form, join }))
    }

    /// `layers` share form and rows.
    fn improve_alike(&self, layers: &[Layer], schedule: &mut Schedule) -> Result<()> {
        let Some(first) = layers.first() else { return Ok(()) };
        let layout = Rc::new(Layout::new(self.library, first.form.shape)?);
        let most = first.rows.max(self.lowering.limits);
        // Where the norm before a layer is made inside it, ours stays.
        let (mut chosen, mut low) = (vec![(NORM_ROWS, None)], NORM_ROWS);
        while low < most {
            let high =
                BUCKETS.iter().map(|(rows, _)| *rows).find(|rows| *rows > low).unwrap_or(most).min(most);
            chosen.push((high, self.choose(&layout, layers, schedule, (low, high))?));
            low = high;
        }
        for layer in layers {
            let theirs = chosen.iter().map(|(high, product)| {
                let product = product.as_ref();
                (*high, product.map(|product| layer.stage(product, *high, self.lowering.partial)))
            });
            let stages = merged(schedule.of_node(layer.node), &theirs.collect::<Vec<_>>());
            schedule.replace_node(layer.node, stages);
        }
        Ok(())
    }

    /// The library's product for more than `low` and at most `high` rows, run once; `None` where
    /// ours stays.
    fn choose(
        &self,
        layout: &Rc<Layout>,
        layers: &[Layer],
        schedule: &Schedule,
        (low, high): (usize, usize),
    ) -> Result<Option<Rc<Product>>> {
        let algorithm = match self.vendor {
            Vendor::Always => algorithms(layout, (low, high))?.first().copied(),
            Vendor::IfFaster => self.measured(layout, layers, schedule, (low, high))?,
        };
        let Some(algorithm) = algorithm else { return Ok(None) };
        let product = Rc::new(Product { layout: Rc::clone(layout), algorithm });
        // The driver loads a kernel when it first runs, which must not happen while a graph is
        // captured.
        let launches = layers[0].launches(&product, self.lowering.partial);
        launches.iter().try_for_each(|launch| launch.run(self.device, extents(high)))?;
        Ok(Some(product))
    }

    /// The fastest of the library's algorithms, where that is faster than ours: as it was measured
    /// before, or now.
    fn measured(
        &self,
        layout: &Rc<Layout>,
        layers: &[Layer],
        schedule: &Schedule,
        (low, high): (usize, usize),
    ) -> Result<Option<Algorithm>> {
        let Form { shape: Shape { k, n, out }, adds, joins } = layers[0].form;
        let form = format!(
            "cuBLASLt {}, {k} x {n} to {out}, adds {adds}, joins {joins}",
            cublaslt_version().unwrap_or(0)
        );
        let case = format!("{form}, {} layers, {low} to {high} rows", layers.len());
        match self.measured.get(&case) {
            Some(Faster::Ours) => return Ok(None),
            Some(Faster::Vendor(data)) => {
                let algorithm = Algorithm { data };
                // The library says whether it is one of its own.
                if layout.takes(&algorithm, low + 1)? && layout.takes(&algorithm, high)? {
                    return Ok(Some(algorithm));
                }
            }
            Some(Faster::Pass(_)) | None => {}
        }
        let found = self.fastest(layout, layers, schedule, (low, high))?;
        let faster = found.map_or(Faster::Ours, |algorithm| Faster::Vendor(algorithm.data));
        self.measured.insert(case, faster);
        Ok(found)
    }

    fn fastest(
        &self,
        layout: &Rc<Layout>,
        layers: &[Layer],
        schedule: &Schedule,
        (low, high): (usize, usize),
    ) -> Result<Option<Algorithm>> {
        let algorithms = algorithms(layout, (low, high))?;
        self.set_counts(high)?;
        let layers = if high <= MANY_ROWS { layers } else { &layers[..layers.len().min(FEW_LAYERS)] };
        let at = extents(high);
        let of_layer = |layer: &Layer| {
            let ours = schedule.of_node(layer.node).iter().find(|stage| stage.takes(at));
            ours.map_or(&[][..], |stage| &stage.launches).iter().cloned()
        };
        let ours = self.seconds(high, &layers.iter().flat_map(of_layer).collect::<Vec<_>>())?;
        let mut best = (ours, None);
        for algorithm in algorithms {
            let product = Rc::new(Product { layout: Rc::clone(layout), algorithm });
            let launches = |layer: &Layer| layer.launches(&product, self.lowering.partial);
            let theirs = self.seconds(high, &layers.iter().flat_map(launches).collect::<Vec<_>>())?;
            if theirs < best.0 {
                best = (theirs, Some(algorithm));
            }
        }
        let Shape { k, n, out } = layers[0].form.shape;
        let micros = |seconds: f64| 1e6 * seconds / layers.len() as f64;
        let (taken, ours, best_micros) = (best.1.is_some(), micros(ours), micros(best.0));
        tracing::info!(k, n, %out, rows = high, cublaslt = taken, ours, best = best_micros, "linear, in microseconds");
        Ok(best.1)
    }

    /// Seconds of `launches` on `rows` rows, replayed as a graph.
    fn seconds(&self, rows: usize, launches: &[Launch]) -> Result<f64> {
        let run = |at: Extents| launches.iter().try_for_each(|launch| launch.run(self.device, at));
        run(extents(rows))?;
        let graph = capture(self.device, extents(rows), run)?;
        let mut best = f64::INFINITY;
        for _ in 0..=RUNS {
            best = best.min(self.device.seconds(|| graph.launch().doing("launching a graph"))?);
        }
        Ok(best)
    }

    /// Tells kernels that read the step's extents from the device how many rows there are.
    fn set_counts(&self, rows: usize) -> Result<()> {
        self.lowering.inputs.write_counts([rows as i32; 3])
    }
}

/// The library's algorithms for these numbers of rows, likeliest to be fast first.
fn algorithms(layout: &Layout, (low, high): (usize, usize)) -> Result<Vec<Algorithm>> {
    let mut algorithms = Vec::new();
    for algorithm in layout.algorithms(high)? {
        if layout.takes(&algorithm, low + 1)? {
            algorithms.push(algorithm);
        }
    }
    Ok(algorithms)
}

const fn extents(rows: usize) -> Extents {
    let positions = usize::MAX;
    Extents { tokens: rows, outputs: rows, seqs: rows, prefill: true, positions, draws: true }
}

/// The stages to keep: in each range of rows, given by its end, what was chosen for it, or `ours`
/// where nothing was.
fn merged(ours: &[Stage], chosen: &[(usize, Option<Stage>)]) -> Vec<Stage> {
    let up_to = |most_rows: usize, stage: &Stage| Stage { most_rows, ..stage.clone() };
    let (mut stages, mut low) = (Vec::new(), 0);
    for (high, theirs) in chosen {
        if let Some(theirs) = theirs {
            stages.push(up_to(*high, theirs));
        } else {
            let inside = ours.iter().filter(|stage| stage.most_rows > low && stage.most_rows < *high);
            let beyond = ours.iter().find(|stage| stage.most_rows >= *high);
            stages.extend(inside.cloned().chain(beyond.map(|stage| up_to(*high, stage))));
        }
        low = *high;
    }
    if let Some(last) = stages.last_mut() {
        last.most_rows = usize::MAX;
    }
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stage that is told from others by its order.
    fn stage(most_rows: usize, order: &'static str) -> Stage {
        Stage::node(0, Rows::TOKENS, Chosen { most_rows, order: OrderId(order), launches: Vec::new() })
    }

    #[test]
    fn each_range_of_rows_has_what_was_chosen_for_it() {
        let ours = [(8, "a"), (16, "b"), (256, "c"), (usize::MAX, "d")].map(|(most, name)| stage(most, name));
        let kept = |chosen: &[(usize, Option<&'static str>)]| {
            let chosen = chosen.iter().map(|&(high, theirs)| (high, theirs.map(|name| stage(high, name))));
            let stages = merged(&ours, &chosen.collect::<Vec<_>>()).into_iter();
            stages.map(|stage| (stage.most_rows, stage.orders[0].0)).collect::<Vec<_>>()
        };
        assert_eq!(
            kept(&[(4, None), (32, None), (64, Some("v")), (100, None)]),
            [(4, "a"), (8, "a"), (16, "b"), (32, "c"), (64, "v"), (usize::MAX, "c")]
        );
        assert_eq!(kept(&[(1, Some("v"))]), [(usize::MAX, "v")]);
        assert_eq!(kept(&[(512, None)]), [(8, "a"), (16, "b"), (256, "c"), (usize::MAX, "d")]);
    }

    #[test]
    fn buckets_ascend_and_cover_every_number_of_rows() {
        assert!(BUCKETS.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1));
        assert_eq!(BUCKETS[BUCKETS.len() - 1].0, usize::MAX);
    }
}
