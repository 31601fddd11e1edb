//! What a format is called.

use std::fmt;

use super::{Offset, PUBLIC, Scales, SecondScales, WHOLE, WeightFormat};

impl fmt::Display for WeightFormat {
    /// `bf16`, or the name among [`PUBLIC`] formats, with its groups if they are
    /// others than there; else every part of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(dtype) = self.plain() {
            return write!(f, "{dtype}");
        }
        let public = |format: &Self| PUBLIC.iter().find(|(_, public)| public == format);
        if let Some((name, _)) = public(self) {
            return f.write_str(name);
        }
        if let Some(([1, group], usual)) = self.in_groups_of_128() {
            if let Some((name, _)) = public(&usual) {
                return write!(f, "{name} in groups of {}", Extent(group));
            }
            if let Some((name, _)) = public(&Self { permuted: false, ..usual }) {
                return write!(f, "{name} in groups of {}, permuted columns", Extent(group));
            }
        }
        write!(f, "{:?} codes", self.code)?;
        if let Some(Scales { kind, block, second }) = self.scales {
            write!(f, ", {kind:?} scales of {}", Extents(block))?;
            if let Some(SecondScales { kind, block }) = second {
                write!(f, " under {kind:?} scales of {}", Extents(block))?;
            }
        }
        if self.offset != Offset::None {
            write!(f, ", {:?} offsets", self.offset)?;
        }
        if self.permuted {
            f.write_str(", permuted columns")?;
        }
        match self.act {
            Some(act) => write!(f, ", inputs {act}"),
            None => Ok(()),
        }
    }
}

/// `1 x 128`, `all x all`.
struct Extents([usize; 2]);

impl fmt::Display for Extents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", Extent(self.0[0]), Extent(self.0[1]))
    }
}

/// `128`, `all`.
struct Extent(usize);

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == WHOLE { f.write_str("all") } else { write!(f, "{}", self.0) }
    }
}
