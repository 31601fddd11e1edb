//! A file's tensors as a model's weights: canonical, and under Hugging Face's names.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use nvllm_core::weight::{Arranged, Checkpoint as _, Place, TensorInfo};
use nvllm_core::{CanonicalTensor, CoreError, Result, WeightSource};

use crate::architecture::{Architecture, Keys};
use crate::blocks;
use crate::file::Gguf;
use crate::header::Tensor;
use crate::names::Role;

impl Gguf {
    /// The weights under the names that checkpoints of Hugging Face have, coded as the file has
    /// them: quantised types in the public format of their name (`q4_k`), whose values are ggml's.
    /// Each expert is a tensor of its own. No bytes are read.
    ///
    /// Errors with [`UnsupportedCheckpoint`](CoreError::UnsupportedCheckpoint) if the architecture
    /// is not read or has no tensor of a name that the file has (as far as its layers are known),
    /// and with [`BadTensor`](CoreError::BadTensor) if experts are not stacked as they should be. A
    /// tensor of a type that is not read is an error for who asks for it.
    pub fn weights(&self) -> Result<Arranged> {
        let keys = Keys::of(self)?;
        let mut places = BTreeMap::new();
        for name in self.names() {
            match Role::of(&name) {
                Some(Role::Tensor(other)) => drop(places.insert(other, Place { name, rows: None })),
                Some(Role::Experts { layer, projection }) => {
                    for (expert, rows) in experts(&keys, layer, &name)?.enumerate() {
                        let other = format!("model.layers.{layer}.mlp.experts.{expert}.{projection}");
                        places.insert(other, Place { name: name.clone(), rows: Some(rows) });
                    }
                }
                Some(Role::Frequencies) => {}
                None => return Err(foreign(&keys, &name)),
            }
        }
        Ok(Arranged::with_places(Tensors::new(self, &keys)?, places))
    }

    /// Errors, by the name that the file has, for the tensor that [`weights`](Self::weights) calls
    /// `name`: the model that the file describes does not read it.
    pub fn refuse_tensor(&self, name: &str) -> CoreError {
        let is = |own: &String| match Role::of(own) {
            Some(Role::Tensor(other)) => other == name,
            Some(Role::Experts { layer, projection }) => {
                name.starts_with(&format!("model.layers.{layer}.mlp.experts.")) && name.ends_with(projection)
            }
            _ => false,
        };
        let own = self.names().into_iter().find(is).unwrap_or_else(|| name.into());
        Keys::of(self).map_or_else(|error| error, |keys| foreign(&keys, &own))
    }
}

/// The error that the file has a tensor which its model has not.
fn foreign(keys: &Keys<'_>, name: &str) -> CoreError {
    let path = keys.gguf.metadata().path().to_path_buf();
    let architecture = keys.architecture.name();
    let problem = format!("holds tensor `{name}`, which is not part of {architecture} as it is supported");
    CoreError::UnsupportedCheckpoint { path, problem }
}

/// Rows of each expert in the tensor `name`, `[experts, n, k]`, of a layer. The file's metadata
/// have to know the layer and as many experts: else a few bytes would make thousands of tensors.
fn experts(keys: &Keys<'_>, layer: u32, name: &str) -> Result<impl Iterator<Item = Range<usize>> + use<>> {
    if keys.architecture != Architecture::Qwen3Moe || u64::from(layer) >= keys.extent("block_count")? {
        return Err(foreign(keys, name));
    }
    let (shape, expected) = (&keys.gguf.tensor(name)?.shape, keys.num_experts()?);
    match shape[..] {
        [count, n, _] if count as u64 == expected => Ok((0..count).map(move |e| e * n..(e + 1) * n)),
        _ => {
            let problem = format!("has shape {shape:?}; a stack of {expected} experts is needed");
            Err(CoreError::BadTensor { name: name.into(), problem })
        }
    }
}

/// The tensors under ggml's names.
struct Tensors {
    gguf: Gguf,
    /// Heads of queries, and of keys, if their rows are interleaved.
    interleaved: Option<[u64; 2]>,
}

impl Tensors {
    fn new(gguf: &Gguf, keys: &Keys<'_>) -> Result<Self> {
        let interleaved = (keys.architecture == Architecture::Llama)
            .then(|| Ok::<_, CoreError>([keys.num_heads()?, keys.num_kv_heads()?]))
            .transpose()?;
        Ok(Self { gguf: gguf.clone(), interleaved })
    }

    /// The bytes of `rows`.
    fn bytes(&self, name: &str, tensor: &Tensor, rows: Range<usize>) -> Result<Bytes> {
        let row_bytes = tensor.bytes.len() / tensor.num_rows();
        let Some(order) = self.order(name, tensor)? else {
            return Ok(tensor.bytes.slice(rows.start * row_bytes..rows.end * row_bytes));
        };
        let mut bytes = Vec::with_capacity(rows.len() * row_bytes);
        for row in rows.map(|row| order.stored(row)) {
            bytes.extend_from_slice(&tensor.bytes[row * row_bytes..(row + 1) * row_bytes]);
        }
        Ok(bytes.into())
    }

    /// The order of the rows, if it is not the model's.
    fn order(&self, name: &str, tensor: &Tensor) -> Result<Option<Interleaved>> {
        let heads = match name.split('.').nth(2) {
            Some("attn_q") => self.interleaved.map(|[heads, _]| heads),
            Some("attn_k") => self.interleaved.map(|[_, heads]| heads),
            _ => None,
        };
        let Some(heads) = heads else { return Ok(None) };
        let num_rows = tensor.num_rows();
        // An extent of metadata, below 2^28.
        if !num_rows.is_multiple_of(2 * heads as usize) {
            let problem = format!("has {num_rows} rows, which do not fill {heads} heads of an even length");
            return Err(CoreError::BadTensor { name: name.into(), problem });
        }
        Ok(Some(Interleaved { head_dim: num_rows / heads as usize }))
    }
}

/// Rows of heads whose rotation pairs neighbours, where Hugging Face's pairs the halves of a head:
/// writers of `llama` files move row `i` of the first half to `2 i`, and of the second to
/// `2 i + 1` (llama.cpp, `convert_hf_to_gguf.py`).
#[derive(Clone, Copy)]
struct Interleaved {
    head_dim: usize,
}

impl Interleaved {
    /// Where the file has the model's row `row`.
    fn stored(self, row: usize) -> usize {
        let (head, at, half) = (row / self.head_dim, row % self.head_dim, self.head_dim / 2);
        head * self.head_dim + at % half * 2 + at / half
    }
}

impl WeightSource for Tensors {
    fn describe(&self) -> String {
        self.gguf.describe()
    }

    fn names(&self) -> Vec<String> {
        self.gguf.names()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        let tensor = self.gguf.tensor(name)?;
        self.order(name, tensor)?;
        blocks::info(name, tensor.kind, tensor.shape.clone())
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        let (tensor, info) = (self.gguf.tensor(name)?, self.info(name)?);
        let bytes = self.bytes(name, tensor, 0..tensor.num_rows())?;
        Ok(blocks::tensor(tensor.kind, info, &bytes))
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<CanonicalTensor> {
        let (tensor, info) = (self.gguf.tensor(name)?, self.info(name)?);
        if tensor.shape.len() < 2 || rows.start > rows.end || rows.end > tensor.num_rows() {
            return self.tensor(name)?.slice_rows(name, rows);
        }
        let shape = vec![rows.len(), tensor.shape[tensor.shape.len() - 1]];
        let bytes = self.bytes(name, tensor, rows)?;
        Ok(blocks::tensor(tensor.kind, TensorInfo { shape, ..info }, &bytes))
    }
}
