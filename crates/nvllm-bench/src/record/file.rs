//! Files of records: appended whole or not at all, read line by line.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::{MAX_BYTES, Record};
use crate::{BenchError, Result};

/// Appends `records` to the file at `path`, or refuses all of them.
///
/// Errors if one fails its [check](Record::check) or takes more than [`MAX_BYTES`], and if the file
/// cannot be written.
pub fn append(path: &Path, records: &[Record]) -> Result<()> {
    let mut text = String::new();
    for record in records {
        record.check()?;
        let refused = |reason| BenchError::Refused { what: record.title(), reason };
        let line = serde_json::to_string(record).map_err(|e| refused(e.to_string()))?;
        if line.len() > MAX_BYTES {
            return Err(refused(format!("it has {} bytes; {MAX_BYTES} are the most", line.len())));
        }
        text += &line;
        text.push('\n');
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(BenchError::io("make", dir))?;
    }
    let file = File::options().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(BenchError::io("write", path))
}

/// All records of the file at `path`, in the order written.
///
/// Errors if the file cannot be read, or a line is no record or one that must be refused.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = std::fs::read_to_string(path).map_err(BenchError::io("read", path))?;
    let record = |(line, text): (usize, &str)| {
        let bad = |problem: String| BenchError::BadLine { path: path.into(), line, problem };
        let record: Record = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        record.check().map_err(|e| bad(e.to_string()))?;
        Ok(record)
    };
    (1..).zip(text.lines()).map(record).collect()
}

/// The records of `run` in the file at `path`; errors as [`read`].
pub fn read_run(path: &Path, run: &str) -> Result<Vec<Record>> {
    Ok(read(path)?.into_iter().filter(|record| record.run == run).collect())
}

/// The run of the last record in the file at `path`, `None` if it holds none; errors as [`read`].
pub fn newest_run(path: &Path) -> Result<Option<String>> {
    Ok(read(path)?.pop().map(|record| record.run))
}
