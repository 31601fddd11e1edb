//! The builder with which a model records its program: one method an op, named as the op.

use super::op::QkNorm;
use super::{AttentionSpec, Node, Op, Program, ProgramOutput, RopeSpec, Rows, Value, ValueKind};
use crate::{CoreError, KvLayer, PagedKv, Result, ValueId, WeightDecl, WeightId};

/// Records one program. Shapes are checked as ops are added; the first fault is reported by
/// [`finish`](Self::finish), so that model code reads as the model does.
pub struct Recorder {
    program: Program,
    fault: Option<String>,
}

/// A linear layer's weight and bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Projection {
    /// `[n, k]`.
    pub weight: WeightId,
    /// `[n]`.
    pub bias: Option<WeightId>,
}

impl From<WeightId> for Projection {
    fn from(weight: WeightId) -> Self {
        Self { weight, bias: None }
    }
}

impl Recorder {
    /// Starts the program `name` over `weights` and the KV groups `kv`.
    pub fn new(name: &str, weights: &[WeightDecl], kv: &[PagedKv]) -> Self {
        let program = Program {
            name: name.into(),
            values: Vec::new(),
            nodes: Vec::new(),
            output: None,
            weights: weights.to_vec(),
            kv: kv.to_vec(),
        };
        Self { program, fault: None }
    }

    /// The program, or the first fault in its recording.
    pub fn finish(self) -> Result<Program> {
        match self.fault {
            None => Ok(self.program),
            Some(problem) => Err(CoreError::BadProgram { program: self.program.name, problem }),
        }
    }

    /// Names a value, so that it can be kept and compared.
    pub fn label(&mut self, value: ValueId, label: impl Into<String>) -> ValueId {
        self.program.values[value.index()].label = Some(label.into());
        value
    }

    /// [`Op::Embed`].
    pub fn embed(&mut self, table: WeightId) -> ValueId {
        let cols = self.weight_shape("embed", table, 2)[1];
        self.one(Op::Embed { table }, &[], Rows::TOKENS, cols, ValueKind::Act)
    }

    /// [`Op::RmsNorm`].
    pub fn rms_norm(&mut self, x: ValueId, weight: WeightId, eps: f32) -> ValueId {
        let n = self.weight_shape("rms_norm", weight, 1)[0];
        let (rows, cols) = self.shape(x);
        self.check(n > 0 && cols.is_multiple_of(n), || format!("rms_norm: {cols} columns, weight of {n}"));
        self.one(Op::RmsNorm { weight, eps }, &[x], rows, cols, ValueKind::Act)
    }

    /// [`Op::Linear`] with an output in the activation dtype.
    pub fn linear(&mut self, x: ValueId, projection: impl Into<Projection>) -> ValueId {
        self.linear_as(x, projection.into(), ValueKind::Act)
    }

    /// [`Op::Linear`] with an f32 output: logits of a head or a router.
    pub fn linear_f32(&mut self, x: ValueId, projection: impl Into<Projection>) -> ValueId {
        self.linear_as(x, projection.into(), ValueKind::F32)
    }

    fn linear_as(&mut self, x: ValueId, projection: Projection, kind: ValueKind) -> ValueId {
        let (rows, n) = self.projected("linear", x, projection);
        let Projection { weight, bias } = projection;
        self.one(Op::Linear { weight, bias }, &[x], rows, n, kind)
    }

    /// [`Op::LinearAdd`]: `r` is the residual.
    pub fn linear_add(&mut self, x: ValueId, projection: impl Into<Projection>, r: ValueId) -> ValueId {
        let projection = projection.into();
        let (rows, n) = self.projected("linear_add", x, projection);
        let (other, kind) = (self.shape(r), self.program.value(r).kind);
        self.check(other == (rows, n) && kind == ValueKind::Act, || {
            format!("linear_add: {rows:?} x {n} and {other:?} {kind:?}")
        });
        let Projection { weight, bias } = projection;
        self.one(Op::LinearAdd { weight, bias }, &[x, r], rows, n, ValueKind::Act)
    }

    /// [`Op::LinearSiluMul`].
    pub fn linear_silu_mul(&mut self, x: ValueId, projection: impl Into<Projection>) -> ValueId {
        let projection = projection.into();
        let (rows, n) = self.projected("linear_silu_mul", x, projection);
        self.check(n.is_multiple_of(2), || format!("linear_silu_mul: {n} columns are not two halves"));
        let Projection { weight, bias } = projection;
        self.one(Op::LinearSiluMul { weight, bias }, &[x], rows, n / 2, ValueKind::Act)
    }

    /// Rows and columns of a linear layer's product.
    fn projected(&mut self, op: &str, x: ValueId, Projection { weight, bias }: Projection) -> (Rows, usize) {
        let shape = self.weight_shape(op, weight, 2);
        let (rows, cols) = self.shape(x);
        self.check(cols == shape[1], || format!("{op}: {cols} columns into a weight {shape:?}"));
        if let Some(bias) = bias {
            let len = self.weight_shape(op, bias, 1)[0];
            self.check(len == shape[0], || format!("{op}: bias of {len} for a weight {shape:?}"));
        }
        (rows, shape[0])
    }

    /// [`Op::Add`].
    pub fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let ((rows, cols), other) = (self.shape(a), self.shape(b));
        self.check((rows, cols) == other, || format!("add: {rows:?} x {cols} and {other:?}"));
        self.one(Op::Add, &[a, b], rows, cols, ValueKind::Act)
    }

    /// [`Op::SiluMul`].
    pub fn silu_mul(&mut self, x: ValueId) -> ValueId {
        let (rows, cols) = self.shape(x);
        self.check(cols.is_multiple_of(2), || format!("silu_mul: {cols} columns are not two halves"));
        self.one(Op::SiluMul, &[x], rows, cols / 2, ValueKind::Act)
    }

    /// [`Op::SliceCols`].
    pub fn slice_cols(&mut self, x: ValueId, start: usize, len: usize) -> ValueId {
        let (rows, cols) = self.shape(x);
        self.check(start + len <= cols, || format!("slice_cols: {start}..{} of {cols}", start + len));
        self.one(Op::SliceCols { start, len }, &[x], rows, len, ValueKind::Act)
    }

    /// [`Op::Rope`].
    pub fn rope(&mut self, x: ValueId, spec: &RopeSpec) -> ValueId {
        let (rows, cols) = self.shape(x);
        let dim = spec.head_dim;
        let fits = dim > 0 && dim.is_multiple_of(2) && cols.is_multiple_of(dim) && rows == Rows::TOKENS;
        self.check(fits, || format!("rope: heads of {dim} in {rows:?} x {cols}"));
        self.one(Op::Rope(spec.clone()), &[x], rows, cols, ValueKind::Act)
    }

    /// [`Op::KvAppend`].
    pub fn kv_append(&mut self, k: ValueId, v: ValueId, kv: KvLayer) {
        let (a, b) = (self.shape(k), self.shape(v));
        self.check(a == b && a.0 == Rows::TOKENS, || format!("kv_append: keys {a:?}, values {b:?}"));
        if let Some(group) = self.kv_group("kv_append", kv) {
            let (num_heads, d) = (group.num_heads, group.head_dim);
            self.check(a.1 == num_heads * d, || {
                format!("kv_append: {} columns into {kv}, whose {num_heads} heads have {d} each", a.1)
            });
        }
        self.check_written_once(kv);
        self.push(Op::KvAppend { kv }, &[k, v], Vec::new());
    }

    /// [`Op::PagedAttention`].
    pub fn paged_attention(&mut self, q: ValueId, spec: &AttentionSpec, kv: KvLayer) -> ValueId {
        let (rows, cols) = self.shape(q);
        self.check_attention("paged_attention", spec, kv, cols, spec.num_heads * spec.head_dim);
        self.one(Op::PagedAttention { spec: spec.clone(), kv }, &[q], rows, cols, ValueKind::Act)
    }

    /// [`Op::Attention`].
    pub fn attention(
        &mut self,
        qkv: ValueId,
        norm: Option<QkNorm>,
        rope: &RopeSpec,
        spec: &AttentionSpec,
        kv: KvLayer,
    ) -> ValueId {
        let (rows, cols) = self.shape(qkv);
        let expected = (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim;
        self.check_attention("attention", spec, kv, cols, expected);
        self.check_written_once(kv);
        if let Some(norm) = norm {
            for weight in [norm.q, norm.k] {
                let n = self.weight_shape("attention", weight, 1)[0];
                self.check(n == spec.head_dim, || {
                    format!("attention: q/k norm of {n}, heads of {}", spec.head_dim)
                });
            }
        }
        let op = Op::Attention { norm, rope: rope.clone(), spec: spec.clone(), kv };
        self.one(op, &[qkv], rows, spec.num_heads * spec.head_dim, ValueKind::Act)
    }

    /// [`Op::GatherRows`].
    pub fn gather_rows(&mut self, x: ValueId) -> ValueId {
        let (rows, cols) = self.shape(x);
        self.check(rows == Rows::TOKENS, || format!("gather_rows: {rows:?} are not one row a token"));
        self.one(Op::GatherRows, &[x], Rows::OUTPUTS, cols, ValueKind::Act)
    }

    /// [`Op::TopK`]: expert ids and weights.
    pub fn top_k(&mut self, logits: ValueId, k: usize, renormalize: bool) -> (ValueId, ValueId) {
        let (rows, cols) = self.shape(logits);
        self.check(k > 0 && k <= cols && rows == Rows::TOKENS, || format!("top_k: {k} of {cols}, {rows:?}"));
        let rows = Rows { times: k, ..rows };
        let ids = self.value(rows, 1, ValueKind::I32);
        let weights = self.value(rows, 1, ValueKind::F32);
        self.push(Op::TopK { k, renormalize }, &[logits], vec![ids, weights]);
        (ids, weights)
    }

    /// [`Op::ExpertLinear`].
    pub fn expert_linear(&mut self, x: ValueId, weight: WeightId, ids: ValueId) -> ValueId {
        let shape = self.weight_shape("expert_linear", weight, 3);
        let ((rows, cols), (id_rows, _)) = (self.shape(x), self.shape(ids));
        let fits = cols == shape[2] && rows.of == id_rows.of && (rows.times == 1 || rows == id_rows);
        self.check(fits, || format!("expert_linear: {rows:?} x {cols}, ids {id_rows:?}, weight {shape:?}"));
        self.one(Op::ExpertLinear { weight }, &[x, ids], id_rows, shape[1], ValueKind::Act)
    }

    /// [`Op::WeightedSum`].
    pub fn weighted_sum(&mut self, x: ValueId, weights: ValueId) -> ValueId {
        let ((rows, cols), other) = (self.shape(x), self.shape(weights));
        self.check(other == (rows, 1), || format!("weighted_sum: {rows:?} x {cols}, weights {other:?}"));
        self.one(Op::WeightedSum, &[x, weights], Rows { times: 1, ..rows }, cols, ValueKind::Act)
    }

    /// [`Op::AllReduce`].
    pub fn all_reduce(&mut self, x: ValueId) -> ValueId {
        let (rows, cols) = self.shape(x);
        self.one(Op::AllReduce, &[x], rows, cols, ValueKind::Act)
    }

    /// [`Op::AllGather`].
    pub fn all_gather(&mut self, x: ValueId) -> ValueId {
        let (rows, cols) = self.shape(x);
        self.one(Op::AllGather, &[x], rows, cols, ValueKind::Act)
    }

    /// Hands out `logits` `[Outputs, vocab]` f32: rows can be sampled and scored.
    pub fn output_logits(&mut self, logits: ValueId) {
        let kind = self.program.value(logits).kind;
        self.check(kind == ValueKind::F32, || format!("output: {kind:?}; logits are f32"));
        self.output(ProgramOutput::Logits(logits));
    }

    /// Hands out hidden states `[Outputs, n]`: rows cannot be sampled.
    pub fn output_hidden(&mut self, x: ValueId) {
        self.output(ProgramOutput::Hidden(x));
    }

    fn output(&mut self, output: ProgramOutput) {
        let (rows, cols) = self.shape(output.value());
        let first = self.program.output.is_none();
        self.check(rows == Rows::OUTPUTS && first, || {
            format!("output: {rows:?} x {cols}; a program has one, with one row an output")
        });
        self.program.output = Some(output);
    }

    /// Carries over the output of a program whose values have become `renamed`: for rewrites.
    pub(super) fn copy_output(&mut self, from: &Program, renamed: &[Option<ValueId>]) {
        let renamed = |output: ProgramOutput| renamed[output.value().index()].map(|id| output.of(id));
        self.program.output = from.output.and_then(renamed);
    }

    /// Adds `op` with outputs shaped as in another program: for rewrites, which start from checked
    /// nodes.
    pub(super) fn copy_node(&mut self, op: Op, inputs: &[ValueId], outputs: &[Value]) -> Vec<ValueId> {
        let ids: Vec<_> = outputs.iter().map(|v| self.value(v.rows, v.cols, v.kind)).collect();
        self.push(op, inputs, ids.clone());
        ids
    }

    /// Carries label and keep mark over to `value`.
    pub(super) fn copy_marks(&mut self, value: ValueId, from: &Value) {
        let to = &mut self.program.values[value.index()];
        to.label.clone_from(&from.label);
        to.keep = from.keep;
    }

    /// The declaration of the group that `kv` is a layer of; a fault if there is none, or no such
    /// layer in it.
    fn kv_group(&mut self, op: &str, kv: KvLayer) -> Option<PagedKv> {
        let group = self.program.kv.get(kv.group).cloned();
        let num_groups = self.program.kv.len();
        self.check(group.is_some(), || format!("{op}: KV group {}, of {num_groups}", kv.group));
        let num_layers = group.as_ref().map_or(usize::MAX, |group| group.num_layers);
        self.check(kv.layer < num_layers, || format!("{op}: {kv}, of {num_layers} layers"));
        group
    }

    /// A fault if an op before has stored the step's keys and values in the same place.
    fn check_written_once(&mut self, kv: KvLayer) {
        let written = self.program.nodes.iter().any(|node| match node.op {
            Op::KvAppend { kv: other } | Op::Attention { kv: other, .. } => other == kv,
            _ => false,
        });
        self.check(!written, || format!("{kv} is written by two ops"));
    }

    fn check_attention(&mut self, op: &str, spec: &AttentionSpec, kv: KvLayer, cols: usize, expected: usize) {
        if let Some(group) = self.kv_group(op, kv) {
            let (theirs, ours) = ([spec.num_kv_heads, spec.head_dim], [group.num_heads, group.head_dim]);
            self.check(theirs == ours, || {
                let [[heads, d], [num_heads, head_dim]] = [theirs, ours];
                format!(
                    "{op}: {heads} KV heads of {d} columns over {kv}, which has {num_heads} of {head_dim}"
                )
            });
            let (sees, holds) = (spec.window, group.window);
            self.check(holds.is_none_or(|holds| sees.is_some_and(|sees| sees <= holds)), || {
                format!("{op}: a window of {sees:?} over {kv}, which holds {holds:?} positions")
            });
        }
        let AttentionSpec { num_heads, num_kv_heads, .. } = *spec;
        self.check(num_kv_heads > 0 && num_heads.is_multiple_of(num_kv_heads), || {
            format!("{op}: {num_heads} query heads over {num_kv_heads} KV heads")
        });
        self.check(cols == expected, || format!("{op}: {cols} columns, {spec:?} takes {expected}"));
    }

    fn shape(&self, id: ValueId) -> (Rows, usize) {
        let value = self.program.value(id);
        (value.rows, value.cols)
    }

    /// The weight's shape; a stand-in of the right rank after a fault.
    fn weight_shape(&mut self, op: &str, id: WeightId, rank: usize) -> Vec<usize> {
        let shape = self.program.weights.get(id.index()).map(|w| w.shape.clone()).unwrap_or_default();
        if shape.len() == rank {
            return shape;
        }
        self.check(false, || format!("{op}: weight {id} has shape {shape:?}, rank {rank} is needed"));
        vec![1; rank]
    }

    fn check(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds && self.fault.is_none() {
            self.fault = Some(problem());
        }
    }

    fn value(&mut self, rows: Rows, cols: usize, kind: ValueKind) -> ValueId {
        self.program.values.push(Value { rows, cols, kind, label: None, keep: false });
        ValueId(self.program.values.len() as u32 - 1)
    }

    fn push(&mut self, op: Op, inputs: &[ValueId], outputs: Vec<ValueId>) {
        self.program.nodes.push(Node { op, inputs: inputs.to_vec(), outputs });
    }

    fn one(&mut self, op: Op, inputs: &[ValueId], rows: Rows, cols: usize, kind: ValueKind) -> ValueId {
        let id = self.value(rows, cols, kind);
        self.push(op, inputs, vec![id]);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AxisRole, RopeScaling, SpecBuilder};

    const SPEC: AttentionSpec =
        AttentionSpec { num_heads: 4, num_kv_heads: 2, head_dim: 8, scale: 0.3, window: None };
    const FIRST: KvLayer = KvLayer { group: 0, layer: 1 };

    /// What is wrong with a program that `record` makes of q, k and qkv, over a group of two layers
    /// with two heads of 8 and a group of one layer that keeps 16 positions.
    fn problem(record: impl FnOnce(&mut Recorder, [ValueId; 3])) -> Option<String> {
        let mut b = SpecBuilder::new();
        let tables = [32, 16, 64]
            .map(|cols| b.matrix("t", cols, AxisRole::Replicated, [("t".into(), 5, AxisRole::Vocab)]));
        let kv = b.paged_kv(PagedKv { num_layers: 2, num_heads: 2, head_dim: 8, window: None });
        let windowed = b.paged_kv(PagedKv { num_layers: 1, num_heads: 2, head_dim: 8, window: Some(16) });
        assert_eq!((kv(1), windowed(0)), (FIRST, KvLayer { group: 1, layer: 0 }));
        let mut p = b.program("generate");
        let values = tables.map(|table| p.embed(table));
        record(&mut p, values);
        p.finish().err().map(|error| error.to_string())
    }

    fn fused(spec: &AttentionSpec, kv: KvLayer) -> Option<String> {
        let rope = RopeSpec { head_dim: spec.head_dim, theta: 1e4, scaling: RopeScaling::None };
        problem(|p, [_, _, qkv]| {
            p.attention(qkv, None, &rope, spec, kv);
        })
    }

    fn paged(spec: &AttentionSpec, kv: KvLayer) -> Option<String> {
        problem(|p, [q, ..]| {
            p.paged_attention(q, spec, kv);
        })
    }

    #[test]
    fn attention_that_fits_its_layer_is_recorded() {
        assert_eq!(fused(&SPEC, FIRST), None);
        assert_eq!(paged(&SPEC, FIRST), None);
        let windowed = AttentionSpec { window: Some(16), ..SPEC };
        assert_eq!(paged(&windowed, KvLayer { group: 1, layer: 0 }), None);
        assert_eq!(problem(|p, [_, k, _]| p.kv_append(k, k, FIRST)), None);
    }

    #[test]
    fn attention_that_does_not_fit_its_layer_is_a_fault() {
        let said = |found: Option<String>, expected: &str| {
            let text = found.unwrap_or_else(|| panic!("accepted where {expected}"));
            assert!(text.starts_with("program `generate`: ") && text.contains(expected), "{text}");
        };
        // Both forms have as many columns as they should: only the declaration tells.
        let heads =
            |num_heads, num_kv_heads, head_dim| AttentionSpec { num_heads, num_kv_heads, head_dim, ..SPEC };
        said(
            fused(&heads(6, 1, 8), FIRST),
            "attention: 1 KV heads of 8 columns over kv[1], which has 2 of 8",
        );
        said(fused(&heads(2, 1, 16), FIRST), "1 KV heads of 16");
        said(paged(&heads(2, 2, 16), FIRST), "paged_attention: 2 KV heads of 16 columns over kv[1]");
        said(paged(&heads(4, 4, 8), FIRST), "4 KV heads of 8");
        for form in [fused, paged] {
            said(form(&SPEC, KvLayer { group: 0, layer: 2 }), "kv[2], of 2 layers");
            said(form(&SPEC, KvLayer { group: 2, layer: 0 }), "KV group 2, of 2");
            said(
                form(&SPEC, KvLayer { group: 1, layer: 0 }),
                "a window of None over kv1[0], which holds Some(16)",
            );
        }
        let wide = AttentionSpec { window: Some(17), ..SPEC };
        said(paged(&wide, KvLayer { group: 1, layer: 0 }), "a window of Some(17)");
        said(
            problem(|p, [q, ..]| p.kv_append(q, q, FIRST)),
            "kv_append: 32 columns into kv[1], whose 2 heads have 8",
        );
        said(problem(|p, [_, k, _]| p.kv_append(k, k, KvLayer { group: 0, layer: 7 })), "kv[7], of 2 layers");
    }

    #[test]
    fn a_layer_is_written_by_one_op() {
        let twice = problem(|p, [_, k, _]| {
            p.kv_append(k, k, FIRST);
            p.kv_append(k, k, KvLayer { group: 0, layer: 0 });
            p.kv_append(k, k, FIRST);
        });
        assert!(twice.is_some_and(|text| text.contains("kv[1] is written by two ops")));
    }
}
