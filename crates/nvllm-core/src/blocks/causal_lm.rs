//! What stands around the layers of a causal language model.

use crate::program::Recorder;
use crate::{AxisRole, ModelSpec, Result, SpecBuilder, ValueId};

/// The extents of a model's ends.
#[derive(Clone, Copy, Debug)]
pub struct CausalLmShape {
    /// Rows of the vocabulary.
    pub vocab: usize,
    /// Columns of the residual stream.
    pub hidden: usize,
    /// Layers.
    pub num_layers: usize,
    /// Epsilon of the last norm.
    pub eps: f32,
    /// Whether the head is the embedding table; the checkpoint may hold a copy as `lm_head.weight`.
    pub tied: bool,
    /// Positions that the model was made for.
    pub max_positions: usize,
}

/// Declares and records embeddings, layers, the last norm and the head as the program `generate`,
/// and the same without the head as the [optional](ModelSpec::optional) program
/// [`hidden`](ModelSpec::HIDDEN); its state has been declared in `b`.
///
/// `declare` declares layer `i`; `record` takes the residual stream through a layer. Labelled
/// values: `hidden.0` (embeddings), `hidden.l` (after layer `l`, the last one after the last norm)
/// and `logits`.
///
/// Errors if what is recorded cannot be.
pub fn causal_lm<L>(
    name: &str,
    shape: &CausalLmShape,
    mut b: SpecBuilder,
    mut declare: impl FnMut(&mut SpecBuilder, usize) -> L,
    record: impl Fn(&L, &mut Recorder, ValueId) -> ValueId,
) -> Result<ModelSpec> {
    let table = |b: &mut SpecBuilder, weight: &str, tensor: &str| {
        let part = (tensor.into(), shape.vocab, AxisRole::Vocab);
        b.matrix(weight, shape.hidden, AxisRole::Replicated, [part])
    };
    let embed_tokens = table(&mut b, "embed_tokens", "model.embed_tokens.weight");
    let layers: Vec<_> = (0..shape.num_layers).map(|i| declare(&mut b, i)).collect();
    let norm = b.vector("norm", "model.norm.weight", shape.hidden);
    let lm_head = if shape.tied { embed_tokens } else { table(&mut b, "lm_head", "lm_head.weight") };

    // Rows of hidden states after the last norm. Both programs write the same keys and values.
    let rows = |p: &mut Recorder| {
        let mut h = p.embed(embed_tokens);
        p.label(h, "hidden.0");
        for (i, layer) in layers.iter().enumerate() {
            h = record(layer, p, h);
            if i + 1 < layers.len() {
                p.label(h, format!("hidden.{}", i + 1));
            }
        }
        h = p.rms_norm(h, norm, shape.eps);
        p.label(h, format!("hidden.{}", layers.len()));
        p.gather_rows(h)
    };
    let mut generate = b.program("generate");
    let outputs = rows(&mut generate);
    let logits = generate.linear_f32(outputs, lm_head);
    generate.label(logits, "logits");
    generate.output_logits(logits);
    let generate = generate.finish()?;
    let mut hidden = b.program(ModelSpec::HIDDEN);
    let outputs = rows(&mut hidden);
    hidden.output_hidden(outputs);
    let hidden = hidden.finish()?;

    let mut spec = b.finish(name, vec![generate], shape.vocab, shape.max_positions);
    spec.optional.push(hidden);
    if shape.tied {
        spec.unused_tensors.push("lm_head.weight".into());
    }
    Ok(spec)
}
