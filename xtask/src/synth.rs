//! `cargo xtask synth`: a model directory with random weights, for measurements that need a model's
//! shape and not its words.
//!
//! The safetensors file is written tensor by tensor, each at its place, by as many threads as there
//! are cores: at no time are more weights in memory than one tensor a thread.
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use nvllm_core::weight::SyntheticSource;
use nvllm_core::{DType, ModelSpec, WeightSource};
use serde_json::{Map, Value, json};

use crate::model;

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Shape of the model: a name from models/configs (qwen3-0.6b) or the path of a config.json
    #[arg(long)]
    config: String,
    /// Seed of the weights: the same seed gives the same bytes on every machine
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Directory to write; it is made if missing, files in it are replaced
    #[arg(long)]
    out: PathBuf,
    /// Element type of the weights
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
}

/// Element types of checkpoints.
#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    Bf16,
    F16,
    F32,
}

impl Dtype {
    const fn core(self) -> DType {
        match self {
            Self::Bf16 => DType::Bf16,
            Self::F16 => DType::F16,
            Self::F32 => DType::F32,
        }
    }

    /// Its names in safetensors and in config.json.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Bf16 => ("BF16", "bfloat16"),
            Self::F16 => ("F16", "float16"),
            Self::F32 => ("F32", "float32"),
        }
    }
}

/// Writes the directory and says what it holds.
pub(crate) fn command(root: &Path, args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    let (spec, bytes) = write(root, args)?;
    println!(
        "{}: {} parameters, {bytes} bytes of weights, seed {}, in {:.1} s",
        args.out.display(),
        spec.num_parameters(),
        args.seed,
        start.elapsed().as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}

/// Writes the model of shape `config` with bf16 weights of `seed` to `out`.
pub(crate) fn make(root: &Path, config: &str, seed: u64, out: &Path) -> Result<()> {
    let args = Args { config: config.into(), seed, out: out.into(), dtype: Dtype::Bf16 };
    write(root, &args).map(|_| ())
}

/// Writes the directory; returns what was recorded and the bytes of weights.
fn write(root: &Path, args: &Args) -> Result<(ModelSpec, u64)> {
    let file = model::config_file(root, &args.config)?;
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let spec = model::record(&text).with_context(|| file.display().to_string())?;
    let bytes = write_model(root, &text, &spec, args)?;
    Ok((spec, bytes))
}

/// Writes all files; returns the bytes of weights.
fn write_model(root: &Path, config: &[u8], spec: &ModelSpec, args: &Args) -> Result<u64> {
    let out = &args.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut config: Map<String, Value> = serde_json::from_slice(config)?;
    config.insert("torch_dtype".into(), args.dtype.names().1.into());
    write_file(&out.join("config.json"), format!("{:#}\n", Value::Object(config)).as_bytes())?;
    copy_tokenizer(root, spec, out)?;
    let source = SyntheticSource::new(&spec.weights, args.dtype.core(), args.seed);
    let layout = Layout::new(spec, args.dtype);
    // Under its name the file is always whole.
    let part = out.join("model.safetensors.part");
    write_tensors(&part, &layout, &source).with_context(|| format!("cannot write {}", part.display()))?;
    let whole = out.join("model.safetensors");
    std::fs::rename(&part, &whole).with_context(|| format!("cannot rename to {}", whole.display()))?;
    Ok(layout.len)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// The demo model's tokenizer, so that text encodes: its ids are valid for every larger vocabulary.
fn copy_tokenizer(root: &Path, spec: &ModelSpec, out: &Path) -> Result<()> {
    let demo = root.join("models/nvllm-tiny");
    let config: Value = serde_json::from_slice(&std::fs::read(demo.join("config.json"))?)?;
    let demo_vocab =
        config["vocab_size"].as_u64().context("the demo model's config.json has no vocab_size")?;
    if (spec.vocab_size as u64) < demo_vocab {
        eprintln!(
            "no tokenizer: the vocabulary of {} is smaller than the demo model's {demo_vocab}",
            spec.vocab_size
        );
        return Ok(());
    }
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let (from, to) = (demo.join(name), out.join(name));
        std::fs::copy(&from, &to)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// Where each tensor lies in the file.
struct Layout {
    /// Length of the header, then the header.
    head: Vec<u8>,
    /// Name and first byte after the head, in file order.
    tensors: Vec<(String, u64)>,
    /// Bytes after the head.
    len: u64,
}

impl Layout {
    /// Every part of every weight, in the order of the declarations.
    fn new(spec: &ModelSpec, dtype: Dtype) -> Self {
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({ "format": "pt" }));
        let (mut tensors, mut end) = (Vec::new(), 0_u64);
        for (decl, part) in
            spec.weights.iter().flat_map(|decl| decl.parts.iter().map(move |part| (decl, part)))
        {
            let is_vector = decl.shape.len() < 2;
            let shape = if is_vector { vec![part.num_rows] } else { vec![part.num_rows, decl.num_cols()] };
            let start = end;
            end += (shape.iter().product::<usize>() * dtype.core().size()) as u64;
            let entry = json!({ "dtype": dtype.names().0, "shape": shape, "data_offsets": [start, end] });
            header.insert(part.source.clone(), entry);
            tensors.push((part.source.clone(), start));
        }
        let mut text = Value::Object(header).to_string();
        // Padded to 8 bytes, as the format's own writer does.
        text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
        let mut head = (text.len() as u64).to_le_bytes().to_vec();
        head.extend_from_slice(text.as_bytes());
        Self { head, tensors, len: end }
    }
}

/// Draws and writes tensors, each thread taking the next one.
fn write_tensors(path: &Path, layout: &Layout, source: &SyntheticSource) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&layout.head)?;
    file.set_len(layout.head.len() as u64 + layout.len)?;
    drop(file);
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut file = File::options().write(true).open(path)?;
        while let Some((name, start)) = layout.tensors.get(next.fetch_add(1, Ordering::Relaxed)) {
            let tensor = source.tensor(name)?;
            file.seek(SeekFrom::Start(layout.head.len() as u64 + start))?;
            file.write_all(&tensor.codes)?;
        }
        Ok(())
    };
    let num_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..num_threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread that draws weights panicked"),
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvllm_core::weight::{DenseSource, Safetensors};

    /// Layer kinds and merged parts of a dense model with untied head and biases, in a few
    /// kilobytes.
    const CONFIG: &str = r#"{"architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu", "vocab_size": 40,
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8,
        "num_key_value_heads": 1, "max_position_embeddings": 64, "attention_bias": true, "rope_theta": 10000}"#;

    fn write(dir: &Path, seed: u64, dtype: Dtype) -> Vec<u8> {
        let args = Args { config: String::new(), seed, out: dir.into(), dtype };
        let spec = model::record(CONFIG.as_bytes()).unwrap();
        let bytes = write_model(&crate::repo_root(), CONFIG.as_bytes(), &spec, &args).unwrap();
        assert_eq!(bytes as usize, spec.num_parameters() * dtype.core().size());
        std::fs::read(dir.join("model.safetensors")).unwrap()
    }

    #[test]
    fn the_seed_decides_every_byte() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = [7, 7, 8].map(|seed| write(dir.path(), seed, Dtype::Bf16));
        assert!(a == b, "the same seed");
        assert!(a.len() == c.len() && a != c, "another seed");
    }

    #[test]
    fn the_directory_loads_as_the_model_that_was_asked_for() {
        for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), 3, dtype);
            let spec = model::record(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
            let source = DenseSource::new(Safetensors::open(dir.path()).unwrap());
            spec.check_names(&source).unwrap();
            let drawn = SyntheticSource::new(&spec.weights, dtype.core(), 3);
            for name in source.names() {
                let (read, drawn) = (source.tensor(&name).unwrap(), drawn.tensor(&name).unwrap());
                assert!(read.shape == drawn.shape && read.codes == drawn.codes, "{name}");
            }
            assert!(!dir.path().join("model.safetensors.part").exists());
        }
    }

    #[test]
    fn the_repository_shape_is_found_by_name_and_nonsense_is_refused() {
        let root = crate::repo_root();
        let text = std::fs::read(model::config_file(&root, "qwen3-0.6b").unwrap()).unwrap();
        assert_eq!(model::record(&text).unwrap().num_parameters(), 596_049_920);
        let message = model::config_file(&root, "qwen9").unwrap_err().to_string();
        assert!(message.contains("qwen9") && message.contains("qwen3-0.6b"), "{message}");
    }
}
