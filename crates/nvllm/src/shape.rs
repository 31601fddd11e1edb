//! What a model is, read off its tape: layers, heads, experts, as Hugging Face's config.json calls
//! them.

use nvllm_core::program::{AttentionSpec, Op, RopeSpec};
use nvllm_core::{ModelSpec, RopeScaling};
use serde_json::{Value, json};

/// The extents that people know a model by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    /// Layers, by their attention.
    pub num_layers: usize,
    /// Columns of the stream between layers.
    pub hidden_size: usize,
    /// Attention of the first layer.
    pub attention: AttentionSpec,
    /// Layers that look back no farther than a window, and that window.
    pub sliding: Option<(usize, usize)>,
    /// The rotation.
    pub rope: RopeSpec,
    /// The routed feed-forward, if there is one.
    pub experts: Option<Experts>,
    /// Parameters that one token passes through.
    pub active_parameters: usize,
}

/// A routed feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the field's terms")]
pub(crate) struct Experts {
    /// Layers that have one.
    pub num_layers: usize,
    /// Experts of a layer.
    pub num_experts: usize,
    /// Experts that a token is sent to.
    pub per_token: usize,
}

impl Shape {
    /// `None` for a model that does not attend or embed.
    pub(crate) fn of(spec: &ModelSpec) -> Option<Self> {
        let program = spec.programs.first()?;
        let hidden_size = program.nodes.iter().find_map(|node| match node.op {
            Op::Embed { .. } => Some(program.value(*node.outputs.first()?).cols),
            _ => None,
        })?;
        let layers: Vec<_> = program
            .nodes
            .iter()
            .filter_map(|node| match &node.op {
                Op::Attention { spec, rope, .. } => Some((spec, rope)),
                _ => None,
            })
            .collect();
        let (attention, rope) = *layers.first()?;
        let windows: Vec<_> = layers.iter().filter_map(|(spec, _)| spec.window).collect();
        let mut shape = Self {
            num_layers: layers.len(),
            hidden_size,
            attention: attention.clone(),
            sliding: windows.first().map(|window| (windows.len(), *window)),
            rope: rope.clone(),
            experts: None,
            active_parameters: spec.num_parameters(),
        };
        let mut per_token = 0;
        for node in &program.nodes {
            match node.op {
                Op::TopK { k, .. } => {
                    per_token = k;
                    shape
                        .experts
                        .get_or_insert(Experts { num_layers: 0, num_experts: 0, per_token })
                        .num_layers += 1;
                }
                Op::ExpertLinear { weight } => {
                    let decl = &program.weights[weight.index()];
                    let num_experts = decl.shape[0];
                    let idle = num_experts.saturating_sub(per_token) * (decl.num_elements() / num_experts);
                    shape.active_parameters -= idle;
                    if let Some(experts) = &mut shape.experts {
                        experts.num_experts = num_experts;
                    }
                }
                _ => {}
            }
        }
        Some(shape)
    }

    /// The rotation as config.json has it (`rope_parameters` of transformers 5).
    pub(crate) fn rope_json(&self) -> Value {
        let theta = self.rope.theta;
        match self.rope.scaling {
            RopeScaling::None => json!({ "rope_type": "default", "rope_theta": theta }),
            RopeScaling::Linear { factor } => {
                json!({ "rope_type": "linear", "rope_theta": theta, "factor": factor })
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original_len, attention_factor, truncate } => {
                json!({
                    "rope_type": "yarn",
                    "rope_theta": theta,
                    "factor": factor,
                    "original_max_position_embeddings": original_len,
                    "beta_fast": beta_fast,
                    "beta_slow": beta_slow,
                    "attention_factor": attention_factor,
                    "truncate": truncate,
                })
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_len } => json!({
                "rope_type": "llama3",
                "rope_theta": theta,
                "factor": factor,
                "original_max_position_embeddings": original_len,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
            }),
        }
    }

    /// The rotation in words.
    pub(crate) fn rope_line(&self) -> String {
        let theta = self.rope.theta;
        let scaled = |kind: &str, factor: f64, original: Option<usize>| {
            let from = original.map_or(String::new(), |len| format!(" of {len} positions"));
            format!("theta {theta}, {kind} x {factor}{from}")
        };
        match self.rope.scaling {
            RopeScaling::None => format!("theta {theta}"),
            RopeScaling::Linear { factor } => scaled("linear", factor, None),
            RopeScaling::Yarn { factor, original_len, .. } => scaled("yarn", factor, Some(original_len)),
            RopeScaling::Llama3 { factor, original_len, .. } => scaled("llama3", factor, Some(original_len)),
        }
    }
}
