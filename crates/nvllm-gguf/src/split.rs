//! Names of the files of a split model: `NAME-00001-of-00003.gguf`.

use std::path::{Path, PathBuf};

/// A file's name taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitName {
    /// Directory and name up to the numbers.
    stem: PathBuf,
    /// Files in all; at most 99,999.
    pub count: u64,
}

impl SplitName {
    /// The name of any file of a split model; none if it is not such a name.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, no) = rest.rsplit_once('-')?;
        let number = |digits: &str| {
            let plain = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse::<u64>().ok()).flatten()
        };
        let (no, count) = (number(no)?, number(count)?);
        (1..=count).contains(&no).then(|| Self { stem: path.with_file_name(stem), count })
    }

    /// Directory and name up to the numbers.
    pub fn stem(&self) -> &Path {
        &self.stem
    }

    /// The file of index `no`, from 0.
    pub fn part(&self, no: u64) -> PathBuf {
        let mut name = self.stem.clone().into_os_string();
        name.push(format!("-{:05}-of-{:05}.gguf", no + 1, self.count));
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_file_of_a_split_model_names_them_all() {
        let split = SplitName::of(Path::new("m/a-00002-of-00003.gguf")).unwrap();
        assert_eq!((split.count, split.stem()), (3, Path::new("m/a")));
        assert_eq!(split.part(0), Path::new("m/a-00001-of-00003.gguf"));
        assert_eq!(split.part(2), Path::new("m/a-00003-of-00003.gguf"));
    }

    #[test]
    fn other_names_are_no_parts() {
        for name in [
            "a.gguf",
            "a-1-of-3.gguf",
            "a-00000-of-00003.gguf",
            "a-00004-of-00003.gguf",
            "a-00001-of-00003.bin",
        ] {
            assert_eq!(SplitName::of(Path::new(name)), None, "{name}");
        }
        assert_eq!(SplitName::of(Path::new("..")), None);
    }
}
