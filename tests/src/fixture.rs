//! Golden fixtures: tiny checkpoints with the logits and hidden states that Hugging Face's
//! transformers computes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nvllm_core::weight::{DenseSource, Safetensors};
use nvllm_core::{HfConfig, ModelSpec, TokenId};
use nvllm_engine::registry;
use safetensors::SafeTensors;
use serde::Deserialize;

/// The repository's folder of golden files.
pub fn golden_dir() -> PathBuf {
    in_repository("tests/golden")
}

/// The demo model's folder.
pub fn model_dir() -> PathBuf {
    in_repository("models/nvllm-tiny")
}

/// A path of the repository that this was built from; where that is gone, of the current directory
/// (a bundle).
pub fn in_repository(path: &str) -> PathBuf {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if built_from.exists() { built_from } else { path.into() }
}

/// The model that a config.json describes.
pub fn spec_of(config: &Path) -> ModelSpec {
    let text = std::fs::read(config).unwrap_or_else(|e| panic!("{}: {e}", config.display()));
    let config = HfConfig::parse(&text).expect("config.json");
    (registry::family(&config).expect("a known family").build)(&config).expect("a model")
}

/// One sequence of a fixture and what is expected of it.
#[derive(Debug, Deserialize)]
pub struct Sequence {
    /// Its number.
    pub seq: usize,
    /// Prompt.
    pub input_ids: Vec<TokenId>,
    /// Position of each prompt token.
    pub position_ids: Vec<u32>,
    /// The likeliest next token at each row.
    pub argmax: Vec<TokenId>,
    /// 24 greedy tokens after the prompt, where recorded.
    #[serde(default)]
    pub greedy_24: Vec<TokenId>,
    /// Expected logits `[T, vocab]`, f32.
    #[serde(skip)]
    pub logits: Vec<f32>,
}

/// One checkpoint with its expectations.
#[derive(Debug, Deserialize)]
pub struct Fixture {
    /// Its folder's name.
    pub name: String,
    /// Its sequences.
    pub sequences: Vec<Sequence>,
    /// Expected hidden states of sequence 0 by layer `[T, hidden]`, the last after the final norm.
    #[serde(skip)]
    pub hidden: Vec<Vec<f32>>,
}

impl Fixture {
    /// Reads the fixture called `name`.
    pub fn load(name: &str) -> Self {
        let dir = golden_dir().join(name);
        let read =
            |file: &str| std::fs::read(dir.join(file)).unwrap_or_else(|e| panic!("{name}/{file}: {e}"));
        let mut fixture: Self = serde_json::from_slice(&read("expected.json")).expect("expected.json");
        let bytes = read("expected.safetensors");
        let mut tensors: HashMap<_, _> =
            SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().collect();
        let mut take = |name: &str| {
            let view = tensors.remove(name)?;
            Some(
                view.data()
                    .chunks(4)
                    .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                    .collect::<Vec<f32>>(),
            )
        };
        for sequence in &mut fixture.sequences {
            sequence.logits = take(&format!("seq{}.logits", sequence.seq)).expect("expected logits");
        }
        fixture.hidden = (0..).map_while(|l| take(&format!("seq0.hidden.{l}"))).collect();
        fixture
    }

    /// The model, from one of the fixture's config files.
    pub fn spec(&self, config: &str) -> ModelSpec {
        spec_of(&golden_dir().join(&self.name).join(config))
    }

    /// The checkpoint.
    pub fn source(&self) -> DenseSource {
        let files = Safetensors::open(&golden_dir().join(&self.name));
        DenseSource::new(files.unwrap_or_else(|e| panic!("{}: {e}", self.name)))
    }
}
