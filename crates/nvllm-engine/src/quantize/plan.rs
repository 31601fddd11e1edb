//! Which tensors are written into which file, known before any of them is made.

use std::ops::Range;

use nvllm_core::{DType, TensorInfo};
use nvllm_quant::make::{Entry, Layout, Output, Recipe};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use crate::tensor_file::Slot;
use crate::{Model, Result};

/// All tensors, in the order in which they are made.
pub(super) struct Plan {
    pub outputs: Vec<Output>,
    /// What the file has of each output.
    entries: Vec<Vec<Entry>>,
    pub shards: Vec<Shard>,
}

/// A file of weights.
pub(super) struct Shard {
    /// Its name.
    pub file: String,
    pub outputs: Range<usize>,
    /// Bytes of its tensors.
    pub bytes: usize,
}

impl Plan {
    /// Errors if a tensor does not go into the layout.
    pub(super) fn new(model: &Model, recipe: &Recipe, layout: Layout, max_bytes: usize) -> Result<Self> {
        let outputs = recipe.outputs(&model.spec);
        let mut entries = Vec::new();
        for output in &outputs {
            let info = model.source.info(&output.source)?;
            let dtype = info.format.plain().unwrap_or(DType::F32);
            let format = output.format.map_or(info.format, |format| format.canonical(dtype));
            entries.push(layout.entries(&output.name, &TensorInfo { format, ..info })?);
        }
        let size = |at: usize| entries[at].iter().map(Entry::bytes).sum::<usize>();
        let mut shards: Vec<Shard> = Vec::new();
        for at in 0..outputs.len() {
            match shards.last_mut() {
                Some(shard) if shard.bytes + size(at) <= max_bytes => {
                    shard.outputs.end = at + 1;
                    shard.bytes += size(at);
                }
                _ => shards.push(Shard { file: String::new(), outputs: at..at + 1, bytes: size(at) }),
            }
        }
        let of = shards.len();
        shards.iter_mut().enumerate().for_each(|(at, shard)| shard.file = Shard::name(at, of));
        Ok(Self { outputs, entries, shards })
    }

    /// Bytes of all tensors.
    pub(super) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// The tensors of a file.
    pub(super) fn slots(&self, shard: &Shard) -> Vec<Slot> {
        let slot = |entry: &Entry| Slot {
            name: entry.name.clone(),
            dtype: dtype(entry.dtype),
            shape: entry.shape.clone(),
        };
        self.entries[shard.outputs.clone()].iter().flatten().map(slot).collect()
    }

    /// Which file holds which tensor.
    pub(super) fn index(&self) -> Value {
        let mut map = serde_json::Map::new();
        for shard in &self.shards {
            for slot in self.slots(shard) {
                map.insert(slot.name, shard.file.clone().into());
            }
        }
        json!({ "metadata": { "total_size": self.bytes() }, "weight_map": map })
    }
}

impl Shard {
    /// Its name among so many.
    fn name(at: usize, of: usize) -> String {
        if of == 1 {
            "model.safetensors".into()
        } else {
            format!("model-{:05}-of-{of:05}.safetensors", at + 1)
        }
    }
}

/// The type of that name.
fn dtype(name: &str) -> Dtype {
    match name {
        "I64" => Dtype::I64,
        "F32" => Dtype::F32,
        "I32" => Dtype::I32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::BF16,
        "I8" => Dtype::I8,
        "F8_E4M3" => Dtype::F8_E4M3,
        _ => Dtype::U8,
    }
}
