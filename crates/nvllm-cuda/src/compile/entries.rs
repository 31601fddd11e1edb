//! The kernels in an image, and how many threads a block of theirs has.
//!
//! Both are read from what the compiler made, not asked of the driver, which a sanitizer would
//! take a wrong guess of a name as an error for, and which is not there where kernels are compiled
//! for a release.

use object::LittleEndian;
use object::elf::STT_FUNC;
use object::read::elf::{ElfFile64, Sym as _};
use object::{Object as _, ObjectSection as _};

use super::Target;

/// A kernel in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Threads of a block, if it has `__launch_bounds__`; else it takes any number.
    pub threads: Option<u32>,
}

/// Threads of a block where a kernel takes any number.
pub const USUAL_THREADS: u32 = 256;

/// The kernels in an image for `target`.
///
/// # Errors
/// If the image is damaged, or has no table of symbols.
pub fn entries(image: &[u8], target: Target) -> Result<Vec<Entry>, String> {
    match target {
        Target::Cubin(_) => of_cubin(image),
        Target::Ptx(_) => Ok(of_ptx(&String::from_utf8_lossy(image))),
    }
}

/// The entries of PTX. `.maxntid x` stands between the parameters of one and its body.
fn of_ptx(text: &str) -> Vec<Entry> {
    let one = |text: &str| {
        let (name, rest) = text.split_once('(')?;
        let bounds = rest.split('{').next().and_then(|head| head.split_once(".maxntid"));
        let number = |text: &str| text.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        Some(Entry { name: name.trim().to_owned(), threads: bounds.and_then(|(_, text)| number(text)) })
    };
    text.split(".entry ").skip(1).filter_map(one).collect()
}

/// `STO_CUDA_ENTRY`: the bit of a symbol's `st_other` that marks a `__global__` function.
const CUDA_ENTRY: u8 = 0x10;

/// The entries in the symbol table of an ELF file.
fn of_cubin(image: &[u8]) -> Result<Vec<Entry>, String> {
    let file = ElfFile64::<LittleEndian>::parse(image).map_err(|error| error.to_string())?;
    let symbols = file.elf_symbol_table();
    if symbols.is_empty() {
        return Err("it has no symbol table".into());
    }
    let kernels = symbols.iter().filter(|s| s.st_type() == STT_FUNC && s.st_other().0 & CUDA_ENTRY != 0);
    kernels
        .map(|symbol| {
            let name = symbol.name(LittleEndian, symbols.strings()).map_err(|error| error.to_string())?;
            let name = String::from_utf8_lossy(name).into_owned();
            let attributes = file.section_by_name(&format!(".nv.info.{name}"));
            let data = attributes.map_or(Ok(&[][..]), |section| section.data());
            let threads = max_threads(data.map_err(|error| error.to_string())?);
            Ok(Entry { name, threads })
        })
        .collect()
}

/// Of a kernel's attributes, its threads at most: `EIATTR_MAX_THREADS`.
///
/// An attribute is a byte for its form, one for what it is, and its value: 16 bits that are it, or,
/// in the form `EIFMT_SVAL`, the length of what follows.
fn max_threads(mut attributes: &[u8]) -> Option<u32> {
    const SIZED: u8 = 4;
    const MAX_THREADS: u8 = 5;
    while let Some((&[form, what, low, high], rest)) = attributes.split_first_chunk() {
        let len = if form == SIZED { usize::from(u16::from_le_bytes([low, high])) } else { 0 };
        let (value, after) = rest.split_at_checked(len)?;
        if (form, what) == (SIZED, MAX_THREADS) {
            let sides = value.chunks_exact(4).map(|side| side.try_into().map_or(0, u32::from_le_bytes));
            return sides.reduce(u32::saturating_mul);
        }
        attributes = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with these symbols: name, `st_other` and threads of its launch bounds. Its
    /// sections are a symbol table, if there is a symbol, the names of symbols and sections, and
    /// attributes of each symbol with threads.
    fn elf(symbols: &[(&str, u8, Option<u32>)]) -> Vec<u8> {
        const HEADER: usize = 64;
        let mut strings = b"\0.symtab\0.strtab\0".to_vec();
        let mut table = vec![0; 24];
        let mut attributes = Vec::new();
        for (name, other, threads) in symbols {
            table.extend((strings.len() as u32).to_le_bytes());
            // STB_GLOBAL and STT_FUNC, section 1, no address, no size.
            table.extend([0x12, *other, 1, 0]);
            table.extend([0; 16]);
            strings.extend(name.bytes().chain([0]));
            if let Some(threads) = threads {
                attributes.push((strings.len() as u32, *threads));
                strings.extend(format!(".nv.info.{name}\0").bytes());
            }
        }
        // Two of other forms, then the threads.
        let info = |threads: u32| {
            let head = [0x03, 0x1b, 0xff, 0, 0x04, 0x1c, 4, 0, 9, 9, 9, 9, 0x04, 0x05, 12, 0];
            [&head[..], &[threads, 1, 1].map(u32::to_le_bytes).concat()].concat()
        };
        let strings_at = HEADER + table.len();
        let infos_at = strings_at + strings.len();
        let infos: Vec<_> = attributes.iter().map(|(_, threads)| info(*threads)).collect();
        let sections_at = infos_at + infos.concat().len();
        // Name, type, offset, size, link, entry size.
        let section = |name: u32, kind: u32, at: usize, len: usize, link: u32, entry: u64| {
            let mut section = [name, kind].map(u32::to_le_bytes).concat();
            section.extend([0, 0, at as u64, len as u64].map(u64::to_le_bytes).concat());
            section.extend([link, 1].map(u32::to_le_bytes).concat());
            section.extend([1, entry].map(u64::to_le_bytes).concat());
            section
        };
        let kind = if symbols.is_empty() { 1 } else { 2 };
        let mut sections = vec![
            vec![0; 64],
            section(1, kind, HEADER, table.len(), 2, 24),
            section(9, 3, strings_at, strings.len(), 0, 0),
        ];
        let of_kernel =
            |(at, (name, _)): (usize, &(u32, u32))| section(*name, 1, infos_at + 28 * at, 28, 0, 0);
        sections.extend(attributes.iter().enumerate().map(of_kernel));
        let mut image = b"\x7fELF\x02\x01\x01".to_vec();
        image.resize(16, 0);
        image.extend([2, 190].map(u16::to_le_bytes).concat());
        image.extend(1_u32.to_le_bytes());
        image.extend([0, 0, sections_at as u64].map(u64::to_le_bytes).concat());
        image.extend(0_u32.to_le_bytes());
        image.extend([64, 56, 0, 64, sections.len() as u16, 2].map(u16::to_le_bytes).concat());
        [image, table, strings, infos.concat(), sections.concat()].concat()
    }

    fn entry(name: &str, threads: impl Into<Option<u32>>) -> Entry {
        Entry { name: name.into(), threads: threads.into() }
    }

    #[test]
    fn kernels_are_the_entries_of_an_image() {
        let symbols = [("embed", CUDA_ENTRY, None), ("helper", 0, None), ("norm", CUDA_ENTRY | 3, Some(128))];
        let expected = [entry("embed", None), entry("norm", 128)];
        assert_eq!(entries(&elf(&symbols), Target::Cubin(90)).unwrap(), expected);
        let ptx = b".version 9.0\n.visible .entry embed(\n.param .u64 a)\n{ .maxntid }\n\
                    .visible .entry norm (.param .u64 a)\n.maxntid 128, 1, 1\n.minnctapersm 2\n{ }\n\0";
        assert_eq!(entries(ptx, Target::Ptx(80)).unwrap(), expected);
    }

    #[test]
    fn a_damaged_image_or_one_without_symbols_is_an_error() {
        let whole = elf(&[("embed", CUDA_ENTRY, Some(256))]);
        for len in 0..whole.len() {
            assert!(entries(&whole[..len], Target::Cubin(90)).is_err(), "{len} bytes");
        }
        let error = entries(&elf(&[]), Target::Cubin(90)).unwrap_err();
        assert!(error.contains("no symbol table"), "{error}");
    }
}
