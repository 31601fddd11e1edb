//! Safetensors checkpoints: one file, or shards with an index. Files are mapped, not read.
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use safetensors::{Dtype, SafeTensors};

use super::{CanonicalTensor, TensorInfo, WeightSource};
use crate::{CoreError, DType, Result};

/// A checkpoint in safetensors files.
pub struct SafetensorsSource {
    place: String,
    tensors: BTreeMap<String, CanonicalTensor>,
}

impl SafetensorsSource {
    /// Opens `dir/model.safetensors`, or every shard that `dir/model.safetensors.index.json` names.
    pub fn open(dir: &Path) -> Result<Self> {
        let single = dir.join("model.safetensors");
        if single.exists() {
            return Self::open_files(dir, &[single]);
        }
        let index = dir.join("model.safetensors.index.json");
        if !index.exists() {
            let cause = std::io::Error::other(
                "neither it nor model.safetensors.index.json exists; give a model directory",
            );
            return Err(CoreError::Io { path: single, cause });
        }
        let (files, map) = read_index(dir, &index)?;
        let source = Self::open_files(dir, &files)?;
        if let Some(name) = map.keys().find(|name| !source.tensors.contains_key(*name)) {
            let problem = format!("lists tensor `{name}`, which {} does not hold", map[name]);
            return Err(CoreError::BadCheckpoint { path: index, problem });
        }
        Ok(source)
    }

    /// A checkpoint that lies in memory (an embedded model).
    pub fn from_bytes(place: &str, bytes: &Bytes) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        read_header(Path::new(place), bytes, &mut tensors)?;
        Ok(Self { place: place.into(), tensors })
    }

    fn find(&self, name: &str) -> Result<&CanonicalTensor> {
        let missing = || CoreError::MissingTensor { name: name.into(), place: self.place.clone() };
        self.tensors.get(name).ok_or_else(missing)
    }

    fn open_files(dir: &Path, files: &[PathBuf]) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for path in files {
            read_header(path, &map_file(path)?, &mut tensors)?;
        }
        Ok(Self { place: dir.display().to_string(), tensors })
    }
}

impl WeightSource for SafetensorsSource {
    fn describe(&self) -> String {
        self.place.clone()
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        self.find(name).map(CanonicalTensor::info)
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        self.find(name).cloned()
    }
}

/// The shard files, in order of name, and the map from tensor to shard.
fn read_index(dir: &Path, index: &Path) -> Result<(Vec<PathBuf>, BTreeMap<String, String>)> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read(index).map_err(|cause| CoreError::Io { path: index.into(), cause })?;
    let bad = |problem: String| CoreError::BadCheckpoint { path: index.into(), problem };
    let parsed: Index =
        serde_json::from_slice(&text).map_err(|e| bad(format!("is not a shard index: {e}")))?;
    let mut files: Vec<_> = parsed.weight_map.values().cloned().collect();
    files.sort();
    files.dedup();
    if let Some(file) = files.iter().find(|f| Path::new(f).components().count() != 1) {
        return Err(bad(format!("names the shard `{file}`, which is not a plain file name")));
    }
    Ok((files.iter().map(|file| dir.join(file)).collect(), parsed.weight_map))
}

fn map_file(path: &Path) -> Result<Bytes> {
    let io = |cause| CoreError::Io { path: path.into(), cause };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the mapping is private and read-only. Truncation of the file by another process while it is mapped
    // would fault on access; model files are not modified in place, and every engine that maps weights accepts this.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file) }.map_err(io)?;
    Ok(Bytes::from_owner(map))
}

fn read_header(path: &Path, bytes: &Bytes, tensors: &mut BTreeMap<String, CanonicalTensor>) -> Result<()> {
    let bad = |problem: String| CoreError::BadCheckpoint { path: path.into(), problem };
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| bad(format!("is not a complete safetensors file ({e}, {} bytes)", bytes.len())))?;
    for (name, view) in file.tensors() {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            Dtype::I32 => DType::I32,
            Dtype::U8 => DType::U8,
            other => {
                let problem = format!("has dtype {other:?}; f32, f16, bf16, i32 and u8 can be read");
                return Err(CoreError::BadTensor { name, problem });
            }
        };
        let tensor = CanonicalTensor::dense(dtype, view.shape(), bytes.slice_ref(view.data()));
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(bad(format!("repeats tensor `{name}`, which another shard holds too")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: usize) -> Vec<u8> {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":[2,2],"data_offsets":[0,{len}]}}}}"#);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend((0..len).map(|i| i as u8));
        bytes
    }

    #[test]
    fn reads_a_whole_file_and_names_a_missing_tensor() {
        let source = SafetensorsSource::from_bytes("mem", &Bytes::from(file(16))).unwrap();
        assert_eq!(source.tensor("a").unwrap().shape, [2, 2]);
        let message = source.tensor("b").unwrap_err().to_string();
        assert!(message.contains("`b`") && message.contains("mem"), "{message}");
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = file(16);
        for len in 0..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..len]);
            let error =
                SafetensorsSource::from_bytes("cut.safetensors", &cut).err().expect("a cut file is refused");
            assert!(error.to_string().contains("cut.safetensors"), "{error}");
        }
    }

    #[test]
    fn an_index_that_promises_too_much_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("s1.safetensors"), file(16)).unwrap();
        let index = dir.path().join("model.safetensors.index.json");
        std::fs::write(&index, r#"{"weight_map":{"a":"s1.safetensors","z":"s1.safetensors"}}"#).unwrap();
        let message = SafetensorsSource::open(dir.path()).err().unwrap().to_string();
        assert!(message.contains("`z`"), "{message}");
        std::fs::write(&index, r#"{"weight_map":{"a":"../s1.safetensors"}}"#).unwrap();
        assert!(SafetensorsSource::open(dir.path()).err().unwrap().to_string().contains("plain file name"));
    }
}
