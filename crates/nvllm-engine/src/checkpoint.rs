//! What computes: config.json, the program made of it, and the weights that fit it.
//!
//! Where config.json and the tensors disagree, or it is silent, the tensors decide: they are what
//! was trained.

use std::path::Path;

use nvllm_core::weight::{Arranged, Safetensors};
use nvllm_core::{DType, HfConfig, ModelSpec, WeightSource as _};
use nvllm_quant::read::{self, Quantization};

use crate::hub::{ModelFiles, Weights};
use crate::{EngineError, Result, registry};

/// A checkpoint whose weights fit its config.json.
pub(crate) struct Checkpoint {
    pub(crate) config: HfConfig,
    pub(crate) spec: ModelSpec,
    pub(crate) source: Arranged,
    /// What was not taken as the files say it.
    pub(crate) remarks: Vec<String>,
}

/// The names that language models of Hugging Face's layout have for the two matrices that may be
/// one.
const TABLE: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
const TIED: &str = "tie_word_embeddings";

impl Checkpoint {
    /// Opens the files; of the weights the headers are read.
    pub(crate) fn open(files: &ModelFiles) -> Result<Self> {
        let located = |cause| EngineError::Model { dir: files.dir.clone(), cause };
        let (config, spec) = read_config(&files.config, &files.dir)?;
        let source = match &files.weights {
            Weights::Unindexed(paths) => Safetensors::open_files(&files.dir, paths),
            _ => Safetensors::open(&files.dir),
        };
        let source = read::weights(&config, source.map_err(located)?).map_err(located)?;
        Self::new(config, spec, source).map_err(|e| match e {
            EngineError::Core(cause) => located(cause),
            other => other,
        })
    }

    /// Brings config.json and tensors together, as far as their names tell.
    pub(crate) fn new(config: HfConfig, spec: ModelSpec, mut source: Arranged) -> Result<Self> {
        let mut remarks: Vec<_> = attn_factor(&config).into_iter().collect();
        source.adapt(&spec)?;
        if Quantization::of(&config)?.is_some() {
            drop_zero_biases(&spec, &mut source)?;
        }
        let tied = config.flag_or(TIED, false)?;
        if tied && !source.contains(TABLE) {
            source.rename(HEAD, TABLE);
        }
        let mut checkpoint = Self { config, spec, source, remarks: Vec::new() };
        if !tied && checkpoint.source.contains(TABLE) && !checkpoint.source.contains(HEAD) {
            checkpoint = checkpoint.tied(true)?;
            remarks.push(format!("there is no {HEAD}: the embeddings are used, as if {TIED} were true"));
        }
        checkpoint.spec.check_weights(&checkpoint.source)?;
        remarks.extend(ignored(&checkpoint.spec.extra_tensors(&checkpoint.source)));
        Ok(Self { remarks, ..checkpoint })
    }

    /// With a head that config.json calls tied and the file has of its own, if it is no copy of the
    /// embeddings.
    pub(crate) fn with_its_head(mut self) -> Result<Self> {
        if !self.config.flag_or(TIED, false)? {
            return Ok(self);
        }
        let (Ok(head), Ok(table)) = (self.source.tensor(HEAD), self.source.tensor(TABLE)) else {
            return Ok(self);
        };
        if head.format == table.format && head.codes == table.codes {
            return Ok(self);
        }
        self.remarks.push(format!("{HEAD} is not the embeddings: it is used, as if {TIED} were false"));
        self = self.tied(false)?;
        self.spec.check_weights(&self.source)?;
        Ok(self)
    }

    fn tied(self, tied: bool) -> Result<Self> {
        let config = self.config.with(TIED, tied);
        let spec = (registry::family(&config)?.build)(&config)?;
        Ok(Self { config, spec, ..self })
    }

    /// The dtype that config.json names, else that of most of the weights. Coded ones count as
    /// bf16: where they are expanded it takes the fewest bytes. Where there are any, f16 in
    /// config.json counts as bf16 too: it was the dtype of the kernels that the writer had in mind,
    /// and says nothing of values that are codes.
    pub(crate) fn dtype(&self) -> nvllm_core::Result<DType> {
        let mut sizes = [DType::F32, DType::F16, DType::Bf16].map(|dtype| (0, dtype));
        let mut coded = false;
        for part in self.spec.weights.iter().flat_map(|weight| &weight.parts) {
            let tensor = self.source.info(&part.source)?;
            coded |= tensor.format.plain().is_none();
            let of = |dtype| tensor.format.plain().unwrap_or(DType::Bf16) == dtype;
            if let Some((size, _)) = sizes.iter_mut().find(|(_, dtype)| of(*dtype)) {
                *size += tensor.bytes();
            }
        }
        match self.config.dtype()? {
            Some(DType::F16) if coded => Ok(DType::Bf16),
            Some(dtype) => Ok(dtype),
            None => {
                Ok(sizes.into_iter().max_by_key(|(size, _)| *size).map_or(DType::Bf16, |(_, dtype)| dtype))
            }
        }
    }
}

/// Drops biases of zeros that the model does not have: writers of GPTQ once gave every layer one.
fn drop_zero_biases(spec: &ModelSpec, source: &mut Arranged) -> nvllm_core::Result<()> {
    let is_bias = |name: &String| name.rsplit('.').next() == Some("bias");
    for name in spec.extra_tensors(source).into_iter().filter(is_bias) {
        if source.tensor(&name)?.codes.iter().all(|&byte| byte == 0) {
            source.remove(&name);
        }
    }
    Ok(())
}

/// A line on tensors that nothing reads.
fn ignored(names: &[String]) -> Option<String> {
    const SHOWN: usize = 3;
    let (first, rest) = (names.first()?, names.len().saturating_sub(SHOWN));
    let shown = names[1..names.len().min(SHOWN)].iter().fold(first.clone(), |text, name| text + ", " + name);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    Some(format!("nothing reads the tensors {shown}{more}: they are ignored"))
}

/// A line on a key that engines read differently.
fn attn_factor(config: &HfConfig) -> Option<String> {
    let has =
        |field: &&str| config.get(field).and_then(|map| map.get("attn_factor")).is_some_and(|v| !v.is_null());
    let field = ["rope_scaling", "rope_parameters"].into_iter().find(has)?;
    Some(format!("`{field}.attn_factor` is applied, as vLLM does; transformers ignores it"))
}

/// The file's bytes.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|cause| EngineError::ReadFile { path: path.to_path_buf(), cause })
}

/// Reads config.json and records the model that it describes. Errors name `dir`.
pub(crate) fn read_config(path: &Path, dir: &Path) -> Result<(HfConfig, ModelSpec)> {
    let located = |cause| EngineError::Model { dir: dir.to_path_buf(), cause };
    let config = HfConfig::parse(&read(path)?).map_err(located)?;
    let family = registry::family(&config).map_err(|e| match e {
        EngineError::Core(source) => located(source),
        other => other,
    })?;
    Quantization::of(&config).map_err(located)?;
    let spec = (family.build)(&config).map_err(located)?;
    Ok((config, spec))
}
