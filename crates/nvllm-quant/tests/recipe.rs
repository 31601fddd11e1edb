//! Which tensors are quantised is read off the tape.

use nvllm_core::blocks::{CausalLmShape, causal_lm};
use nvllm_core::{AxisRole, ModelSpec, SpecBuilder};
use nvllm_quant::make::{Format, Recipe};

/// A model of one layer: a linear one, and an expert chosen by a router.
fn spec(tied: bool) -> ModelSpec {
    let shape = CausalLmShape { vocab: 8, hidden: 4, num_layers: 1, eps: 1e-6, tied, max_positions: 16 };
    let declare = |b: &mut SpecBuilder, _| {
        let mut matrix = |name: &str, rows| {
            let part = (format!("l.{name}.weight"), rows, AxisRole::Replicated);
            b.matrix(name, 4, AxisRole::Replicated, [part])
        };
        let (linear, router) = (matrix("linear", 4), matrix("router", 2));
        let parts = (0..2).map(|i| (format!("l.expert{i}.weight"), 4, AxisRole::Experts)).collect::<Vec<_>>();
        let mut experts = nvllm_core::WeightDecl {
            name: "experts".into(),
            shape: vec![2, 4, 4],
            parts: Vec::new(),
            in_role: AxisRole::Replicated,
        };
        experts.parts = parts
            .into_iter()
            .map(|(source, num_rows, role)| nvllm_core::WeightPart { source, num_rows, role })
            .collect();
        (linear, router, b.weight(experts))
    };
    causal_lm("test", &shape, SpecBuilder::new(), declare, |&(linear, router, experts), p, h| {
        let x = p.linear(h, linear);
        let scores = p.linear_f32(x, router);
        let (ids, weights) = p.top_k(scores, 1, true);
        let y = p.expert_linear(x, experts, ids);
        let y = p.weighted_sum(y, weights);
        p.add(h, y)
    })
    .unwrap()
}

const LAYERS: Format = Format::Int4 { group_size: 32 };
const HEAD: Format = Format::Int8Weights;

fn names(recipe: Recipe, tied: bool) -> Vec<String> {
    recipe.formats(&spec(tied)).into_iter().map(|(name, format)| format!("{name} {format:?}")).collect()
}

#[test]
fn linear_layers_and_experts_are_quantised_and_nothing_else() {
    let layers = ["l.expert0.weight", "l.expert1.weight", "l.linear.weight"];
    let expected = layers.map(|name| format!("{name} {LAYERS:?}"));
    for tied in [false, true] {
        assert_eq!(names(Recipe { layers: LAYERS, head: None }, tied), expected);
    }
}

#[test]
fn a_head_is_quantised_where_it_lies() {
    let recipe = Recipe { layers: LAYERS, head: Some(HEAD) };
    let head = |tied| {
        let names = names(recipe, tied);
        names.into_iter().filter(|name| name.ends_with(&format!("{HEAD:?}"))).collect::<Vec<_>>()
    };
    assert_eq!(head(false), [format!("lm_head.weight {HEAD:?}")]);
    assert_eq!(head(true), [format!("model.embed_tokens.weight {HEAD:?}")]);
}

#[test]
fn a_file_has_the_head_beside_the_embeddings() {
    let outputs = |tied, head| {
        let outputs = Recipe { layers: LAYERS, head }.outputs(&spec(tied));
        let ends = outputs.into_iter().filter(|output| !output.name.starts_with("l."));
        ends.map(|output| (output.name, output.source, output.format)).collect::<Vec<_>>()
    };
    let (table, head, norm) = ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight");
    let output = |name: &str, source: &str, format| (name.to_owned(), source.to_owned(), format);
    let dense = |name| output(name, name, None);
    assert_eq!(outputs(true, None), [dense(table), dense(norm)]);
    assert_eq!(outputs(true, Some(HEAD)), [dense(table), output(head, table, Some(HEAD)), dense(norm)]);
    assert_eq!(outputs(false, Some(HEAD)), [dense(table), dense(norm), output(head, head, Some(HEAD))]);
}

#[test]
fn what_stays_dense_is_named_for_others() {
    let modules = |tied, head| Recipe { layers: LAYERS, head }.dense_modules(&spec(tied));
    assert_eq!(modules(true, None), ["l.router", "lm_head"]);
    assert_eq!(modules(false, None), ["l.router", "lm_head"]);
    assert_eq!(modules(true, Some(HEAD)), ["l.router"]);
}
