//! What a backend runs by kernels, what in parts and what not at all: tables by op, by format of
//! weights, by storage of the KV cache and by width of heads.
//!
//! They are asked of plans, which read no weight: a backend of a device that is elsewhere answers
//! too.

use nvllm_core::program::QkNorm;
use nvllm_core::weight::{AxisRole, PUBLIC, WeightPart};
use nvllm_core::{
    Activations, AttentionSpec, Backend, DType, KvFormat, ModelSpec, Op, PagedKv, RopeScaling, RopeSpec,
    SpecBuilder, WeightDecl, WeightFormat,
};

use crate::error::{Doing, Result};
use crate::model_op::{ModelOp, Setting, Support};

/// One table.
#[derive(Clone, Debug)]
pub struct SupportTable {
    /// What its rows are.
    pub rows_are: &'static str,
    /// Columns: a backend and an op, or a backend.
    pub columns: Vec<String>,
    /// Rows: a label, and an answer for each column.
    pub rows: Vec<(String, Vec<Support>)>,
}

/// A backend under its name.
pub type Named<'a> = (&'a str, &'a dyn Backend);

/// Widths of heads that models have.
const HEAD_DIMS: [usize; 8] = [32, 64, 80, 96, 128, 192, 256, 512];

/// Ops that read a matrix.
const MATRIX_OPS: [&str; 5] = ["embed", "linear", "linear_add", "linear_silu_mul", "expert_linear"];

/// All tables; the first of them also of the `oracle`, which runs whatever is primitive.
///
/// Errors if an op cannot be asked about.
pub fn support_tables(oracle: Named<'_>, backends: &[Named<'_>]) -> Result<Vec<SupportTable>> {
    let all: Vec<Named<'_>> = std::iter::once(oracle).chain(backends.iter().copied()).collect();
    let model = every_op(128)?;
    let dense =
        [DType::Bf16, DType::F16, DType::F32].map(|dtype| (dtype.to_string(), WeightFormat::dense(dtype)));
    let coded = PUBLIC.map(|(name, format)| (name.to_owned(), format));
    let formats: Vec<_> = dense.into_iter().chain(coded).collect();
    let bases = [Activations::Bf16, Activations::F32];
    let stored: Vec<_> =
        bases.into_iter().flat_map(|a| KvFormat::ALL.into_iter().map(move |kv| (a, kv))).collect();
    let by_op = Op::STEMS.iter().map(|stem| {
        let op = find(&model, stem);
        let answers = all.iter().map(|(_, backend)| op.support(*backend, Setting::default()));
        Ok(((*stem).to_owned(), answers.collect::<Result<_>>()?))
    });
    let by_op = SupportTable {
        rows_are: "op",
        columns: all.iter().map(|(name, _)| (*name).to_owned()).collect(),
        rows: by_op.collect::<Result<_>>()?,
    };
    let by_format = table("weights", backends, &MATRIX_OPS, &formats, |(name, weights)| {
        (name.clone(), model.clone(), Setting { weights: *weights, ..Setting::default() })
    })?;
    let cache_ops = ["kv_append", "paged_attention", "attention"];
    let by_cache = table("activations, KV cache", backends, &cache_ops, &stored, |&(activations, kv)| {
        let label = format!("{}, {}", activations.dtype(), kv.name());
        (label, model.clone(), Setting { activations, kv, ..Setting::default() })
    })?;
    let models = HEAD_DIMS.map(|head_dim| every_op(head_dim).map(|model| (head_dim, model)));
    let models: Vec<_> = models.into_iter().collect::<Result<_>>()?;
    let by_width = table("head_dim", backends, &cache_ops[1..], &models, |(head_dim, model)| {
        (head_dim.to_string(), model.clone(), Setting::default())
    })?;
    Ok(vec![by_op, by_format, by_cache, by_width])
}

/// A table with a row for each of `items` and a column for each backend and op; `row` names an item
/// and says what is asked.
fn table<T>(
    rows_are: &'static str,
    backends: &[Named<'_>],
    stems: &[&str],
    items: &[T],
    row: impl Fn(&T) -> (String, Vec<ModelOp>, Setting),
) -> Result<SupportTable> {
    let pairs = || backends.iter().flat_map(|backend| stems.iter().map(move |stem| (backend, stem)));
    let columns = pairs().map(|((name, _), stem)| format!("{name}: {stem}")).collect();
    let row = |item: &T| {
        let (label, model, setting) = row(item);
        let answers = pairs().map(|((_, backend), stem)| find(&model, stem).support(*backend, setting));
        Ok((label, answers.collect::<Result<_>>()?))
    };
    Ok(SupportTable { rows_are, columns, rows: items.iter().map(row).collect::<Result<_>>()? })
}

/// The op of this stem with a matrix of the activations' dtype.
fn find<'a>(model: &'a [ModelOp], stem: &str) -> &'a ModelOp {
    model.iter().find(|op| op.op().stem() == stem).expect("the model has every op")
}

/// Every op once, in shapes like those of a small model.
fn every_op(head_dim: usize) -> Result<Vec<ModelOp>> {
    const WIDTH: usize = 1024;
    const EXPERTS: usize = 8;
    let mut b = SpecBuilder::new();
    let mut weight = |name: &str, shape: &[usize]| {
        let experts = if shape.len() > 2 { shape[0] } else { 1 };
        let num_rows = if shape.len() > 2 { shape[1] } else { shape[0] };
        let part = |at| WeightPart { source: format!("{name}{at}"), num_rows, role: AxisRole::Replicated };
        b.weight(WeightDecl {
            name: name.into(),
            shape: shape.to_vec(),
            parts: (0..experts).map(part).collect(),
            in_role: AxisRole::Replicated,
        })
    };
    let attended = 8 * head_dim;
    let table = weight("table", &[4096, WIDTH]);
    let norm = weight("norm", &[WIDTH]);
    let qkv = weight("qkv", &[attended + 2 * 2 * head_dim, WIDTH]);
    let [q_norm, k_norm] = ["q_norm", "k_norm"].map(|name| weight(name, &[head_dim]));
    let out = weight("out", &[WIDTH, attended]);
    let up = weight("up", &[4096, WIDTH]);
    let down = weight("down", &[WIDTH, 2048]);
    let router = weight("router", &[EXPERTS, WIDTH]);
    let experts = weight("experts", &[EXPERTS, WIDTH, WIDTH]);
    let kv = b.paged_kv(PagedKv { num_layers: 1, num_heads: 2, head_dim, window: None })(0);
    let spec = AttentionSpec { num_heads: 8, num_kv_heads: 2, head_dim, scale: 1.0, window: None };
    let rope = RopeSpec { theta: 1e6, head_dim, scaling: RopeScaling::None };
    let mut p = b.program("generate");
    let x = p.embed(table);
    let h = p.rms_norm(x, norm, 1e-6);
    let h = p.linear(h, qkv);
    let h = p.attention(h, Some(QkNorm { q: q_norm, k: k_norm, eps: 1e-6 }), &rope, &spec, kv);
    let h = p.linear(h, out);
    let h = p.all_reduce(h);
    let x = p.add(x, h);
    let h = p.linear(x, up);
    let h = p.silu_mul(h);
    let h = p.linear(h, down);
    let x = p.add(x, h);
    let logits = p.linear_f32(x, router);
    let (ids, weights) = p.top_k(logits, 2, true);
    let h = p.expert_linear(x, experts, ids);
    let x = p.weighted_sum(h, weights);
    let x = p.gather_rows(x);
    let logits = p.linear_f32(x, table);
    p.all_gather(logits);
    let program = p.finish().doing("recording every op")?;
    let spec: ModelSpec = b.finish("every op", vec![program], 4096, 4096);
    ModelOp::all(&spec)
}

#[cfg(test)]
mod tests {
    use nvllm_core::Reference;

    use super::*;

    #[test]
    fn the_reference_runs_primitives_and_expands_the_rest() {
        let backend = Reference::default();
        let named: Named<'_> = ("reference", &backend);
        let tables = support_tables(named, &[named]).unwrap();
        for (stem, answers) in &tables[0].rows {
            let fused = Op::FUSED.contains(&stem.as_str());
            match &answers[..1] {
                [Support::Native] => assert!(!fused, "{stem}"),
                [Support::Expanded(reason)] => assert!(fused && !reason.is_empty(), "{stem}"),
                other => panic!("{stem}: {other:?}"),
            }
        }
        assert_eq!(tables[1].rows.len(), 3 + PUBLIC.len());
        assert!(
            tables.iter().all(|table| table.rows.iter().all(|(_, row)| row.len() == table.columns.len()))
        );
    }
}
