//! Safetensors checkpoints: one file, or shards with an index. Files are mapped, not read.
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use safetensors::SafeTensors;

use super::{Checkpoint, RawTensor, map_file};
use crate::{CoreError, Result};

/// A checkpoint in safetensors files.
pub struct Safetensors {
    place: String,
    tensors: Tensors,
}

/// By name.
type Tensors = BTreeMap<String, RawTensor>;

impl Safetensors {
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
        let (files, map) = read_index(&index)?;
        let mut tensors = Tensors::new();
        for file in files {
            let path = dir.join(&file);
            // A tensor that lies in several shards counts where the index says.
            let counts = |name: &str| map.get(name).is_none_or(|place| *place == file);
            read_header(&path, &map_file(&path)?, &mut tensors, counts)?;
        }
        let source = Self { place: dir.display().to_string(), tensors };
        if let Some(name) = map.keys().find(|name| !source.tensors.contains_key(*name)) {
            let problem = format!("lists tensor `{name}`, which {} does not hold", map[name]);
            return Err(CoreError::BadCheckpoint { path: index, problem });
        }
        Ok(source)
    }

    /// A checkpoint that lies in memory (an embedded model).
    pub fn from_bytes(place: &str, bytes: &Bytes) -> Result<Self> {
        let mut tensors = Tensors::new();
        read_header(Path::new(place), bytes, &mut tensors, |_| true)?;
        Ok(Self { place: place.into(), tensors })
    }

    /// Opens the given files of `dir`, each tensor of which lies in one of them.
    pub fn open_files(dir: &Path, files: &[PathBuf]) -> Result<Self> {
        let mut tensors = Tensors::new();
        for path in files {
            read_header(path, &map_file(path)?, &mut tensors, |_| true)?;
        }
        Ok(Self { place: dir.display().to_string(), tensors })
    }
}

impl Checkpoint for Safetensors {
    fn describe(&self) -> String {
        self.place.clone()
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn raw(&self, name: &str) -> Result<RawTensor> {
        let missing = || CoreError::MissingTensor { name: name.into(), place: self.place.clone() };
        self.tensors.get(name).cloned().ok_or_else(missing)
    }
}

/// The names of the shard files, sorted, and the map from tensor to shard.
fn read_index(index: &Path) -> Result<(Vec<String>, BTreeMap<String, String>)> {
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
    Ok((files, parsed.weight_map))
}

/// Adds the file's tensors, as far as they count.
fn read_header(
    path: &Path,
    bytes: &Bytes,
    tensors: &mut Tensors,
    counts: impl Fn(&str) -> bool,
) -> Result<()> {
    let bad = |problem: String| CoreError::BadCheckpoint { path: path.into(), problem };
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| bad(format!("is not a complete safetensors file ({e}, {} bytes)", bytes.len())))?;
    for (name, view) in file.tensors().into_iter().filter(|(name, _)| counts(name)) {
        let tensor = RawTensor {
            dtype: view.dtype().to_string(),
            shape: view.shape().into(),
            bytes: bytes.slice_ref(view.data()),
        };
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(bad(format!("repeats tensor `{name}`, which another shard holds too")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;
    use crate::weight::{DenseSource, WeightSource as _};

    fn file(len: usize) -> Vec<u8> {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":[2,2],"data_offsets":[0,{len}]}}}}"#);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend((0..len).map(|i| i as u8));
        bytes
    }

    #[test]
    fn reads_a_whole_file_and_names_a_missing_tensor() {
        let source = Safetensors::from_bytes("mem", &Bytes::from(file(16))).unwrap();
        assert_eq!(source.raw("a").unwrap().shape, [2, 2]);
        let message = source.raw("b").unwrap_err().to_string();
        assert!(message.contains("`b`") && message.contains("mem"), "{message}");
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = file(16);
        for len in 0..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..len]);
            let error =
                Safetensors::from_bytes("cut.safetensors", &cut).err().expect("a cut file is refused");
            assert!(error.to_string().contains("cut.safetensors"), "{error}");
        }
    }

    /// A file of the tensors a and b, of four bytes each.
    fn two_tensors(a: u8, b: u8) -> Vec<u8> {
        let tensor = |at: usize| format!(r#"{{"dtype":"F32","shape":[1],"data_offsets":[{at},{}]}}"#, at + 4);
        let header = format!(r#"{{"a":{},"b":{}}}"#, tensor(0), tensor(4));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend([a, a, a, a, b, b, b, b]);
        bytes
    }

    /// A file of one tensor of four elements of `dtype`.
    fn of(dtype: Dtype) -> Vec<u8> {
        let data = vec![1; 4 * dtype.bitsize() / 8];
        let view = TensorView::new(dtype, vec![2, 2], &data).unwrap();
        safetensors::serialize([("a", view)], None).unwrap()
    }

    #[test]
    fn every_dtype_is_told_as_the_file_names_it_and_only_dense_ones_are_weights() {
        use Dtype::{BF16, BOOL, F8_E4M3, F8_E8M0, F16, F32, F64, I8, I32, I64, U8, U32};
        let dir = tempfile::tempdir().unwrap();
        for dtype in [BOOL, I8, U8, I32, I64, U32, F8_E4M3, F8_E8M0, F64, F16, BF16, F32] {
            let bytes = of(dtype);
            std::fs::write(dir.path().join("model.safetensors"), &bytes).unwrap();
            let mapped = Safetensors::open(dir.path()).unwrap();
            let held = Safetensors::from_bytes("mem", &Bytes::from(bytes)).unwrap();
            let raw = held.raw("a").unwrap();
            assert_eq!(mapped.raw("a").unwrap(), raw, "{dtype}");
            assert_eq!((raw.dtype.as_str(), &raw.shape[..]), (&*dtype.to_string(), &[2, 2][..]));
            assert_eq!(raw.bytes, vec![1; 4 * dtype.bitsize() / 8]);
            let source = DenseSource::new(held);
            assert_eq!(source.names(), ["a"]);
            let (info, tensor) = (source.info("a"), source.tensor("a"));
            if let (Ok(info), Ok(tensor)) = (&info, &tensor) {
                assert!([F16, BF16, F32].contains(&dtype), "{dtype} is taken for a weight");
                assert_eq!((info.bytes(), tensor.bytes()), (raw.bytes.len(), raw.bytes.len()));
                continue;
            }
            let message = tensor.unwrap_err().to_string();
            assert_eq!(message, info.unwrap_err().to_string());
            assert!(message.contains("`a`") && message.contains(&format!("has dtype {dtype}")), "{message}");
        }
    }

    #[test]
    fn the_index_says_which_of_two_shards_counts() {
        let dir = tempfile::tempdir().unwrap();
        for value in [1, 3] {
            let file = two_tensors(value, 10 + value);
            std::fs::write(dir.path().join(format!("s{value}.safetensors")), file).unwrap();
        }
        let index = dir.path().join("model.safetensors.index.json");
        let open = |map: &str| {
            std::fs::write(&index, format!(r#"{{"weight_map":{map}}}"#)).unwrap();
            Safetensors::open(dir.path())
        };
        // Both shards are read: each holds something that counts.
        for (a, b) in [(1, 3), (3, 1)] {
            let map = format!(r#"{{"a":"s{a}.safetensors","b":"s{b}.safetensors"}}"#);
            let source = open(&map).unwrap();
            assert_eq!((source.raw("a").unwrap().bytes[0], source.raw("b").unwrap().bytes[0]), (a, 10 + b));
        }
        let files = ["s1", "s3"].map(|file| dir.path().join(file).with_extension("safetensors"));
        let message = Safetensors::open_files(dir.path(), &files).err().unwrap().to_string();
        assert!(message.contains("repeats tensor `"), "{message}");
        assert!(Safetensors::open_files(dir.path(), &files[..1]).is_ok());
    }

    #[test]
    fn an_index_that_promises_too_much_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("s1.safetensors"), file(16)).unwrap();
        let index = dir.path().join("model.safetensors.index.json");
        std::fs::write(&index, r#"{"weight_map":{"a":"s1.safetensors","z":"s1.safetensors"}}"#).unwrap();
        let message = Safetensors::open(dir.path()).err().unwrap().to_string();
        assert!(message.contains("`z`"), "{message}");
        std::fs::write(&index, r#"{"weight_map":{"a":"../s1.safetensors"}}"#).unwrap();
        assert!(Safetensors::open(dir.path()).err().unwrap().to_string().contains("plain file name"));
    }
}
