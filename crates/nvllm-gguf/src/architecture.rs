//! The architectures that are read, and what each has in Hugging Face's terms.

use std::path::Path;

use bytes::Bytes;
use nvllm_core::{CoreError, Result};

use crate::file::Gguf;
use crate::header;

const KEY: &str = "general.architecture";

/// What `general.architecture` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// Llama and what computes as it does; Mistral's models go by this name too.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3, dense.
    Qwen3,
    /// Qwen3, routed.
    Qwen3Moe,
}

impl Architecture {
    const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Qwen3Moe];

    /// That of `gguf`. Errors with
    /// [`UnsupportedCheckpoint`](CoreError::UnsupportedCheckpoint) if it is another.
    pub(crate) fn of(gguf: &Gguf) -> Result<Self> {
        let metadata = gguf.metadata();
        let Some(name) = metadata.str_opt(KEY)? else {
            return Err(metadata.error(KEY, "is missing; the file holds no language model"));
        };
        Self::named(name, metadata.path())
    }

    /// The one of this name, which the file at `path` gives.
    fn named(name: &str, path: &Path) -> Result<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            let problem = format!("holds a model of architecture {name:?}; supported in GGUF files: {known}");
            CoreError::UnsupportedCheckpoint { path: path.into(), problem }
        })
    }

    /// Its name in GGUF, before its keys too.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3moe",
        }
    }

    /// `model_type` of config.json.
    pub(crate) const fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3_moe",
        }
    }

    /// Its name among `architectures` of config.json.
    pub(crate) const fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Qwen3Moe => "Qwen3MoeForCausalLM",
        }
    }
}

/// Looks at the first bytes of a file that is not here as a whole: some kilobytes are enough, for
/// the architecture is what writers put first.
///
/// Errors with [`UnsupportedCheckpoint`](CoreError::UnsupportedCheckpoint) if they say that its
/// model's architecture is not supported. Whatever else is wrong with them shows when the file is
/// opened.
pub fn check_start(path: &Path, start: &Bytes) -> Result<()> {
    match header::text_at_start(start, KEY) {
        Some(name) => Architecture::named(&name, path).map(drop),
        None => Ok(()),
    }
}

/// Metadata under the architecture's name.
pub(crate) struct Keys<'a> {
    pub(crate) gguf: &'a Gguf,
    pub(crate) architecture: Architecture,
}

impl<'a> Keys<'a> {
    pub(crate) fn of(gguf: &'a Gguf) -> Result<Self> {
        Ok(Self { gguf, architecture: Architecture::of(gguf)? })
    }

    /// The whole key of `name`.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name())
    }

    pub(crate) fn error(&self, name: &str, problem: impl Into<String>) -> CoreError {
        self.gguf.metadata().error(&self.key(name), problem)
    }

    pub(crate) fn u64_opt(&self, name: &str) -> Result<Option<u64>> {
        self.gguf.metadata().u64_opt(&self.key(name))
    }

    pub(crate) fn f64_opt(&self, name: &str) -> Result<Option<f64>> {
        self.gguf.metadata().f64_opt(&self.key(name))
    }

    /// An extent, at least 1 and below 2^28 as in config.json.
    pub(crate) fn extent(&self, name: &str) -> Result<u64> {
        self.extent_opt(name)?.ok_or_else(|| self.error(name, "is missing"))
    }

    pub(crate) fn extent_opt(&self, name: &str) -> Result<Option<u64>> {
        const MAX: u64 = 1 << 28;
        match self.u64_opt(name)? {
            Some(n) if !(1..=MAX).contains(&n) => {
                Err(self.error(name, format!("is {n}; a number from 1 to {MAX} is needed")))
            }
            found => Ok(found),
        }
    }

    /// Query heads.
    pub(crate) fn num_heads(&self) -> Result<u64> {
        self.extent("attention.head_count")
    }

    /// Experts of a routed layer.
    pub(crate) fn num_experts(&self) -> Result<u64> {
        self.extent("expert_count")
    }

    /// Heads of keys and values.
    pub(crate) fn num_kv_heads(&self) -> Result<u64> {
        self.extent_opt("attention.head_count_kv")?.map_or_else(|| self.num_heads(), Ok)
    }
}
