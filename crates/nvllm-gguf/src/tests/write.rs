//! The smallest writer of GGUF files: it writes what it is told, right or wrong.

use bytes::Bytes;

use crate::Gguf;

/// A file to be.
#[derive(Clone)]
pub(super) struct File {
    pub(super) version: u32,
    /// Key, type and value, as they will lie in the file.
    pub(super) values: Vec<Vec<u8>>,
    /// Their entries in the list of tensors.
    pub(super) tensors: Vec<Vec<u8>>,
    pub(super) data: Vec<u8>,
    pub(super) alignment: usize,
}

pub(super) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// An entry of metadata: `kind` is the format's number of the type.
pub(super) fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key), &kind.to_le_bytes()[..], value].concat()
}

/// The value of an array.
pub(super) fn array(kind: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), elements].concat()
}

/// An entry of the list of tensors; `dims` innermost first.
pub(super) fn place(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    [
        &text(name),
        &(dims.len() as u32).to_le_bytes()[..],
        &dims_bytes,
        &kind.to_le_bytes(),
        &offset.to_le_bytes(),
    ]
    .concat()
}

impl File {
    pub(super) fn new() -> Self {
        Self { version: 3, values: Vec::new(), tensors: Vec::new(), data: Vec::new(), alignment: 32 }
    }

    pub(super) fn with(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.values.push(entry(key, kind, value));
        self
    }

    pub(super) fn number(self, key: &str, value: u32) -> Self {
        self.with(key, 4, &value.to_le_bytes())
    }

    pub(super) fn float(self, key: &str, value: f32) -> Self {
        self.with(key, 6, &value.to_le_bytes())
    }

    pub(super) fn text(self, key: &str, value: &str) -> Self {
        self.with(key, 8, &text(value))
    }

    /// A tensor behind the others; `dims` innermost first.
    pub(super) fn tensor(mut self, name: &str, dims: &[u64], kind: u32, data: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(self.alignment), 0);
        self.tensors.push(place(name, dims, kind, self.data.len() as u64));
        self.data.extend_from_slice(data);
        self
    }

    /// A tensor of zeros in f32.
    pub(super) fn zeros(self, name: &str, dims: &[u64]) -> Self {
        let len = 4 * dims.iter().product::<u64>() as usize;
        self.tensor(name, dims, 0, &vec![0; len])
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensors.len() as u64, self.values.len() as u64];
        let mut bytes = [b"GGUF", &self.version.to_le_bytes()[..]].concat();
        counts.iter().for_each(|count| bytes.extend(count.to_le_bytes()));
        self.values.iter().chain(&self.tensors).for_each(|entry| bytes.extend(entry));
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend(&self.data);
        bytes
    }

    pub(super) fn open(&self) -> nvllm_core::Result<Gguf> {
        Gguf::from_bytes("mem.gguf", &Bytes::from(self.bytes()))
    }

    /// The message of the error that it must be.
    pub(super) fn refused(&self) -> String {
        self.open().expect_err("the file is refused").to_string()
    }
}
