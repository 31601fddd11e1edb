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
    /// is not read or has no tensor of a name that the file has, and with
    /// [`BadTensor`](CoreError::BadTensor) if experts are not stacked as they should be. A tensor
    /// of a type that is not read is an error for who asks for it.
    pub fn weights(&self) -> Result<Arranged> {
        let keys = Keys::of(self)?;
        let mut places = BTreeMap::new();
        for name in self.names() {
            match Role::of(&name) {
                Some(Role::Tensor(other)) => drop(places.insert(other, Place { name, rows: None })),
                Some(Role::Experts { layer, projection }) => {
                    for (expert, rows) in experts(&name, self.tensor(&name)?)?.enumerate() {
                        let other = format!("{layer}.mlp.experts.{expert}.{projection}");
                        places.insert(other, Place { name: name.clone(), rows: Some(rows) });
                    }
                }
                Some(Role::Frequencies) => {}
                None => {
                    let path = self.metadata().path().to_path_buf();
                    let architecture = keys.architecture.name();
                    let problem = format!(
                        "holds tensor `{name}`, which is not part of {architecture} as it is supported"
                    );
                    return Err(CoreError::UnsupportedCheckpoint { path, problem });
                }
            }
        }
        Ok(Arranged::with_places(Tensors::new(self, &keys)?, places))
    }
}

/// Rows of each expert in a tensor `[experts, n, k]`.
fn experts(name: &str, tensor: &Tensor) -> Result<impl Iterator<Item = Range<usize>> + use<>> {
    /// More than any model has: bounds what a false shape costs.
    const MAX: usize = 4096;
    let [count @ ..=MAX, n, _] = tensor.shape[..] else {
        let problem = format!("has shape {:?}; up to {MAX} experts, stacked, are supported", tensor.shape);
        return Err(CoreError::BadTensor { name: name.into(), problem });
    };
    Ok((0..count).map(move |e| e * n..(e + 1) * n))
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
