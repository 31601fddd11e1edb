//! How tensors are made: each alone, or a layer at a time by what it sees of a text.

use std::collections::BTreeMap;

use nvllm_core::{Backend, CanonicalTensor, ModelSpec, Op, TokenId};
use nvllm_quant::make::{self, Format, GptqOptions, Output, Recipe};

use super::calibration::Calibration;
use super::layer;
use crate::text::EncodeOptions;
use crate::{EngineError, Model, Result};

/// How weights are rounded.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// To the nearest.
    Nearest,
    /// By GPTQ.
    Gptq(Text, GptqOptions),
    /// By AWQ.
    Awq(Text),
}

/// A text that stands for those that the model is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Tokens of it that are run, at most.
    pub max_tokens: usize,
}

impl Text {
    fn tokens(&self, model: &Model) -> Result<Vec<TokenId>> {
        let tokens = model.tokenizer()?.encode(&self.text, EncodeOptions::default())?;
        Ok(tokens.into_iter().take(self.max_tokens).map(TokenId).collect())
    }
}

/// Makes a model's tensors, in the order of its layers.
pub(super) struct Maker<'a> {
    model: &'a Model,
    method: &'a Method,
    calibration: Option<Calibration<'a>>,
    formats: BTreeMap<String, Format>,
    /// The layer of each tensor that is in one.
    layers: BTreeMap<String, usize>,
    /// The layer that was made last, and what is made of its tensors.
    made: Option<(usize, BTreeMap<String, CanonicalTensor>)>,
}

impl<'a> Maker<'a> {
    /// Errors if the model cannot be calibrated, or there is no backend for it.
    pub(super) fn new(
        model: &'a Model,
        recipe: &Recipe,
        method: &'a Method,
        backend: Option<&'a dyn Backend>,
    ) -> Result<Self> {
        let text = match method {
            Method::Nearest => None,
            Method::Gptq(text, _) | Method::Awq(text) => Some(text),
        };
        let layers = layers(&model.spec);
        let calibration = match (text, backend) {
            (None, _) => None,
            (Some(_), None) => {
                return Err(EngineError::Backend { reason: "none runs the calibration".into() });
            }
            (Some(_), _) if has_experts(&model.spec) => {
                let problem = "has to be rtn for models with experts, which a text chooses too seldom".into();
                return Err(EngineError::Option { option: "method", problem });
            }
            (Some(text), Some(backend)) => Some(Calibration::new(model, backend, &text.tokens(model)?)?),
        };
        Ok(Self { model, method, calibration, formats: recipe.formats(&model.spec), layers, made: None })
    }

    /// The tensor of an output.
    pub(super) fn make(&mut self, output: &Output) -> Result<CanonicalTensor> {
        let layer = self.layers.get(&output.source).copied();
        if let (Some(calibration), Some(layer)) = (&mut self.calibration, layer) {
            if self.made.as_ref().is_none_or(|(made, _)| *made != layer) {
                // The one before is dropped first: two are never in memory.
                self.made = None;
                let seen = calibration.advance(layer)?;
                let source = self.model.source.as_ref();
                let tensors = match self.method {
                    Method::Nearest => BTreeMap::new(),
                    Method::Gptq(_, options) => layer::by_gptq(source, &seen, &self.formats, *options)?,
                    Method::Awq(_) => layer::by_awq(source, &seen, &self.formats)?,
                };
                self.made = Some((layer, tensors));
            }
            if let Some(tensor) = self.made.as_ref().and_then(|(_, made)| made.get(&output.source)) {
                return Ok(tensor.clone());
            }
        }
        let tensor = self.model.source.tensor(&output.source)?;
        Ok(match output.format {
            Some(format) => make::quantize(&output.source, &tensor, format)?,
            None => tensor,
        })
    }
}

/// Whether a model has layers that are chosen by their input.
fn has_experts(spec: &ModelSpec) -> bool {
    spec.programs[0].nodes.iter().any(|node| matches!(node.op, Op::ExpertLinear { .. }))
}

/// The layer of each tensor that is in one: what stands between two labelled hidden states.
fn layers(spec: &ModelSpec) -> BTreeMap<String, usize> {
    let program = &spec.programs[0];
    let (mut layers, mut layer) = (BTreeMap::new(), None);
    for node in &program.nodes {
        if let Some(layer) = layer {
            let decls = node.op.weights().into_iter().map(|id| &spec.weights[id.index()]);
            layers.extend(decls.flat_map(|decl| &decl.parts).map(|part| (part.source.clone(), layer)));
        }
        let mut labels = node.outputs.iter().filter_map(|&id| program.value(id).label.as_deref());
        let reached = labels.find_map(|label| label.strip_prefix("hidden.")?.parse::<usize>().ok());
        if let Some(reached) = reached {
            let next = format!("hidden.{}", reached + 1);
            layer = program.labelled(&next).map(|_| reached);
        }
    }
    layers
}
