//! Values of metadata. Texts and arrays stay where the file has them.

use bytes::Bytes;

use crate::cursor::{Cursor, Fault};

/// A value's type, in the order of the format's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Bytes of a value, if all have as many.
    pub(crate) const fn size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::Array => None,
        }
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Fault> {
        let number = cursor.u32()?;
        let known = Self::ALL.get(number as usize).copied();
        known.ok_or_else(|| Fault::Damaged(format!("has a value of the unknown type {number}")))
    }
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    /// UTF-8, as far as the file keeps the format.
    Text(Bytes),
    Array(Array),
}

/// An array as it lies in the file.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    /// Its elements' type.
    pub(crate) kind: Kind,
    /// How many there are.
    pub(crate) len: u64,
    /// All of them.
    pub(crate) bytes: Bytes,
}

impl Value {
    /// Reads the type and the value.
    pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Fault> {
        let kind = Kind::read(cursor)?;
        Self::read_as(kind, cursor)
    }

    fn read_as(kind: Kind, cursor: &mut Cursor<'_>) -> Result<Self, Fault> {
        Ok(match kind {
            Kind::U8 => Self::Unsigned(cursor.array::<1>()?[0].into()),
            Kind::U16 => Self::Unsigned(u16::from_le_bytes(cursor.array()?).into()),
            Kind::U32 => Self::Unsigned(cursor.u32()?.into()),
            Kind::U64 => Self::Unsigned(cursor.u64()?),
            Kind::I8 => Self::Signed(i8::from_le_bytes(cursor.array()?).into()),
            Kind::I16 => Self::Signed(i16::from_le_bytes(cursor.array()?).into()),
            Kind::I32 => Self::Signed(i32::from_le_bytes(cursor.array()?).into()),
            Kind::I64 => Self::Signed(i64::from_le_bytes(cursor.array()?)),
            Kind::F32 => Self::Float(f32::from_le_bytes(cursor.array()?).into()),
            Kind::F64 => Self::Float(f64::from_le_bytes(cursor.array()?)),
            Kind::Bool => match cursor.array::<1>()?[0] {
                byte @ (0 | 1) => Self::Bool(byte == 1),
                byte => return Err(Fault::Damaged(format!("has a truth value {byte}; 0 and 1 are ones"))),
            },
            Kind::Text => {
                let len = cursor.u64()?;
                let start = cursor.position();
                cursor.take(len)?;
                Self::Text(cursor.since(start))
            }
            Kind::Array => {
                let (kind, len) = (Kind::read(cursor)?, cursor.u64()?);
                let start = cursor.position();
                skip(kind, len, cursor, 1)?;
                Self::Array(Array { kind, len, bytes: cursor.since(start) })
            }
        })
    }

    /// What it is, in words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Unsigned(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Text(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                let shown: String = text.chars().take(40).collect();
                if shown.len() < text.len() { format!("{shown:?}..") } else { format!("{shown:?}") }
            }
            Self::Array(array) => format!("an array of {}", array.len),
        }
    }
}

/// Passes `len` elements of an array. Each takes at least a byte of the file, so that a false
/// length is noticed at the file's end.
fn skip(kind: Kind, len: u64, cursor: &mut Cursor<'_>, depth: usize) -> Result<(), Fault> {
    /// Arrays in arrays in arrays: no model has more.
    const MAX_DEPTH: usize = 4;
    if depth > MAX_DEPTH {
        return Err(Fault::Damaged(format!("has arrays nested more than {MAX_DEPTH} deep")));
    }
    if let Some(size) = kind.size() {
        return cursor.take(len.checked_mul(size as u64).ok_or(Fault::Ends)?).map(drop);
    }
    for _ in 0..len {
        if kind == Kind::Text {
            cursor.string()?;
        } else {
            let (kind, len) = (Kind::read(cursor)?, cursor.u64()?);
            skip(kind, len, cursor, depth + 1)?;
        }
    }
    Ok(())
}

impl Array {
    /// Its elements, if they are texts: each as the file has it.
    pub(crate) fn texts(&self) -> Option<Vec<&[u8]>> {
        if self.kind != Kind::Text {
            return None;
        }
        let (mut rest, mut texts) = (&self.bytes[..], Vec::new());
        // The walk of `skip` has found every element whole.
        while let Some((len, tail)) = rest.split_first_chunk() {
            let (text, tail) = tail.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
            texts.push(text);
            rest = tail;
        }
        Some(texts)
    }

    /// Its elements, if they are integers.
    pub(crate) fn integers(&self) -> Option<impl Iterator<Item = i128>> {
        let size = self.kind.size()?;
        let signed = matches!(self.kind, Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64);
        let unsigned = matches!(self.kind, Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64);
        let read = move |item: &[u8]| {
            let mut word = if signed && item[size - 1] >= 0x80 { [0xff; 16] } else { [0; 16] };
            word[..size].copy_from_slice(item);
            i128::from_le_bytes(word)
        };
        (signed || unsigned).then(|| self.bytes.chunks_exact(size).map(read))
    }

    /// Its elements, if they are numbers with a fraction, as f32.
    pub(crate) fn floats(&self) -> Option<Vec<f32>> {
        match self.kind {
            Kind::F32 => {
                Some(self.bytes.as_chunks().0.iter().map(|item| f32::from_le_bytes(*item)).collect())
            }
            Kind::F64 => {
                Some(self.bytes.as_chunks().0.iter().map(|item| f64::from_le_bytes(*item) as f32).collect())
            }
            _ => None,
        }
    }
}
