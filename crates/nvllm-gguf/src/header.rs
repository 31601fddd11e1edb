//! The header of one file: metadata, and where each tensor lies.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use nvllm_core::{ByteCount, Result};

use crate::cursor::{Cursor, Fault};
use crate::ggml_type::GgmlType;
use crate::metadata::Metadata;
use crate::value::Value;

/// What one file holds.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: BTreeMap<String, Tensor>,
}

/// A tensor as its file has it.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) kind: &'static GgmlType,
    /// Extents, outermost first: the file's, reversed.
    pub(crate) shape: Vec<usize>,
    /// All of its bytes, in the mapped file.
    pub(crate) bytes: Bytes,
}

impl Tensor {
    /// Rows: every extent but the last, multiplied; a vector has one row an element.
    pub(crate) fn num_rows(&self) -> usize {
        let outer = if self.shape.len() < 2 { &self.shape[..] } else { &self.shape[..self.shape.len() - 1] };
        outer.iter().product()
    }
}

/// Counts of the file's first bytes.
struct Counts {
    tensors: u64,
    values: u64,
}

impl Header {
    /// Reads the header of the file at `path`, whose bytes these are.
    pub(crate) fn read(path: &Path, bytes: &Bytes) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        let counts = Counts::read(&mut cursor).map_err(|fault| fault.at(path, "its first bytes"))?;
        let values =
            read_values(counts.values, &mut cursor).map_err(|fault| fault.at(path, "its metadata"))?;
        let metadata = Metadata::new(path, values);
        let alignment = alignment(&metadata)?;
        let places = read_places(counts.tensors, &mut cursor)
            .map_err(|fault| fault.at(path, "its list of tensors"))?;
        let start = cursor.position().next_multiple_of(alignment);
        let data = Data { bytes, start, alignment };
        data.check_size(&places).map_err(|fault| fault.at(path, "its tensors"))?;
        let tensors = places.into_iter().map(|(name, place)| {
            let tensor = data.tensor(&name, place).map_err(|fault| fault.at(path, "its tensors"))?;
            Ok((name, tensor))
        });
        Ok(Self { tensors: tensors.collect::<Result<_>>()?, metadata })
    }
}

impl Counts {
    /// The magic bytes and the version, checked, and the counts.
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Fault> {
        if cursor.array()? != *b"GGUF" {
            return Err(Fault::Unsupported("is not a GGUF file: it does not begin with `GGUF`".into()));
        }
        let version = cursor.u32()?;
        match version {
            2 | 3 => {}
            _ if (1..=3).contains(&version.swap_bytes()) => {
                let problem = "is a big-endian GGUF file; convert the model for little-endian machines";
                return Err(Fault::Unsupported(problem.into()));
            }
            other => {
                let problem = format!("is GGUF version {other}; versions 2 and 3 are supported");
                return Err(Fault::Unsupported(problem));
            }
        }
        Ok(Self { tensors: cursor.u64()?, values: cursor.u64()? })
    }
}

/// Each value takes bytes of the file, so that a false count ends at the file's end. Nothing is
/// allocated for a count.
fn read_values(count: u64, cursor: &mut Cursor<'_>) -> Result<BTreeMap<String, Value>, Fault> {
    let mut values = BTreeMap::new();
    for _ in 0..count {
        let key = cursor.name("a metadata key")?;
        let value = Value::read(cursor).map_err(|fault| match fault {
            Fault::Damaged(problem) => Fault::Damaged(format!("metadata `{key}` {problem}")),
            other => other,
        })?;
        if values.contains_key(&key) {
            return Err(Fault::Damaged(format!("repeats metadata `{key}`")));
        }
        values.insert(key, value);
    }
    Ok(values)
}

/// The text under `key`, if it is whole in the first bytes of a file.
pub(crate) fn text_at_start(start: &Bytes, key: &str) -> Option<String> {
    let mut cursor = Cursor::new(start);
    let counts = Counts::read(&mut cursor).ok()?;
    for _ in 0..counts.values {
        let name = cursor.name("a metadata key").ok()?;
        let value = Value::read(&mut cursor).ok()?;
        if name == key {
            let Value::Text(text) = value else { return None };
            return std::str::from_utf8(&text).ok().map(str::to_owned);
        }
    }
    None
}

/// To a multiple of how many bytes tensors begin.
fn alignment(metadata: &Metadata) -> Result<usize> {
    const KEY: &str = "general.alignment";
    let given = metadata.u64_opt(KEY)?.unwrap_or(32);
    match u32::try_from(given) {
        Ok(alignment) if alignment.is_power_of_two() => Ok(alignment as usize),
        _ => Err(metadata.error(KEY, format!("is {given}; a power of two below 2^32 is needed"))),
    }
}

/// What the list of tensors says of one.
struct Place {
    kind: &'static GgmlType,
    shape: Vec<usize>,
    /// From where the tensors begin.
    offset: u64,
}

fn read_places(count: u64, cursor: &mut Cursor<'_>) -> Result<BTreeMap<String, Place>, Fault> {
    let mut places = BTreeMap::new();
    for _ in 0..count {
        let name = cursor.name("a tensor's name")?;
        let place = Place::read(&name, cursor)?;
        if places.contains_key(&name) {
            return Err(Fault::Damaged(format!("repeats tensor `{name}`")));
        }
        places.insert(name, place);
    }
    Ok(places)
}

impl Place {
    fn read(name: &str, cursor: &mut Cursor<'_>) -> Result<Self, Fault> {
        /// ggml's own bound.
        const MAX_DIMS: u32 = 4;
        let num_dims = cursor.u32()?;
        if num_dims > MAX_DIMS {
            let problem = format!("tensor `{name}` has {num_dims} dimensions; {MAX_DIMS} are the most");
            return Err(Fault::Damaged(problem));
        }
        let mut shape = Vec::new();
        for _ in 0..num_dims {
            match usize::try_from(cursor.u64()?) {
                Ok(extent) if extent > 0 => shape.insert(0, extent),
                _ => return Err(Fault::Damaged(format!("tensor `{name}` has an extent that cannot be"))),
            }
        }
        let kind = GgmlType::numbered(cursor.u32()?, name)?;
        Ok(Self { kind, shape, offset: cursor.u64()? })
    }

    /// Bytes of the tensor `name`.
    fn num_bytes(&self, name: &str) -> Result<usize, Fault> {
        let (cols, outer) = self.shape.split_last().map_or((1, &[][..]), |(cols, outer)| (*cols, outer));
        let GgmlType { name: kind, block_len, block_bytes, .. } = *self.kind;
        if !cols.is_multiple_of(block_len) {
            let problem =
                format!("tensor `{name}` has rows of {cols} elements; {kind} has blocks of {block_len}");
            return Err(Fault::Damaged(problem));
        }
        let row = (cols / block_len).checked_mul(block_bytes);
        let bytes = outer.iter().try_fold(row, |bytes, &extent| Some(bytes?.checked_mul(extent))).flatten();
        bytes.ok_or_else(|| {
            Fault::Damaged(format!("tensor `{name}` has extents that cannot be: {:?}", self.shape))
        })
    }
}

/// The tensors' bytes.
struct Data<'a> {
    bytes: &'a Bytes,
    start: usize,
    alignment: usize,
}

impl Data<'_> {
    /// Errors if the tensors have more bytes than the file, so that they share some: what is made
    /// of them would not be bounded by the file's length.
    fn check_size(&self, places: &BTreeMap<String, Place>) -> Result<(), Fault> {
        let (mut left, mut shared, mut end) = (Some(self.bytes.len()), None, 0);
        for (name, place) in places {
            let num_bytes = place.num_bytes(name)?;
            left = left.and_then(|left| left.checked_sub(num_bytes));
            if left.is_none() {
                shared = shared.or(Some(name));
            }
            end = end.max(place.offset.saturating_add(num_bytes as u64));
        }
        // A file that was cut off says so where its tensors are read.
        let cut = end.saturating_add(self.start as u64) > self.bytes.len() as u64;
        match shared.filter(|_| !cut) {
            Some(name) => Err(Fault::Damaged(format!("tensor `{name}` shares its bytes with others"))),
            None => Ok(()),
        }
    }

    fn tensor(&self, name: &str, place: Place) -> Result<Tensor, Fault> {
        let num_bytes = place.num_bytes(name)?;
        let offset = place.offset;
        if !offset.is_multiple_of(self.alignment as u64) {
            let alignment = self.alignment;
            let problem = format!("tensor `{name}` begins at {offset}, which is no multiple of {alignment}");
            return Err(Fault::Damaged(problem));
        }
        let start = usize::try_from(offset).ok().and_then(|offset| self.start.checked_add(offset));
        let range = start.and_then(|start| Some(start..start.checked_add(num_bytes)?));
        let Some(range) = range.filter(|range| range.end <= self.bytes.len()) else {
            let (len, size) = (ByteCount(self.bytes.len()), ByteCount(num_bytes));
            let problem = format!("the file ends, after {len}, before tensor `{name}` of {size} does");
            return Err(Fault::Damaged(problem));
        };
        Ok(Tensor { kind: place.kind, shape: place.shape, bytes: self.bytes.slice(range) })
    }
}
