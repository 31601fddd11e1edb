//! The report: tables in Markdown and charts in SVG, made from records and from nothing else.
//!
//! A file of records (`cpu.jsonl`) is one kind of machine, and grows. The report shows of each
//! device and model the newest run that measured a workload ([`Section`]); engines stand side by
//! side only if they took turns in that run. The same records give the same bytes, so that a text
//! which holds them can be checked by making it again.
//!
//! Deliberately absent: anything that a record does not hold, and any figure that is typed.

mod chart;
mod decode;
mod formats;
mod logits;
mod quality;
mod roofline;
mod section;
mod server;
mod text;
mod throughput;

use std::path::{Path, PathBuf};

pub use chart::Chart;
pub use section::Section;

use crate::record::{self, Record};
use crate::{BenchError, Result};

/// Name of the block that holds everything on record.
pub const EVERYTHING: &str = "everything";

/// What all files of records show.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The folder of records.
    dir: PathBuf,
    files: Vec<(String, Vec<Section>)>,
    formats: Vec<formats::File>,
    logits: Vec<Vec<logits::Row>>,
    quality: Vec<quality::Row>,
    servers: Vec<server::File>,
}

impl Report {
    /// Of all `*.jsonl` in `dir` and in its folders `formats`, `logits`, `quality` and `server`,
    /// each in the order of their names.
    ///
    /// Errors if a file cannot be read, or a line is no record or one that must be refused: without
    /// its correctness check, for one.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut report = Self { dir: dir.into(), ..Self::default() };
        for path in files(dir)? {
            report.add(&stem(&path), &record::read(&path)?)?;
        }
        for path in files_of(dir, formats::NAME)? {
            report.formats.push(formats::File::new(&stem(&path), record::read(&path)?));
        }
        for path in files_of(dir, server::NAME)? {
            report.servers.push(server::File::new(&stem(&path), record::read(&path)?));
        }
        for path in files_of(dir, quality::NAME)? {
            report.quality.extend(quality::read(&path)?);
        }
        for path in files_of(dir, logits::NAME)? {
            report.logits.push(logits::read(&path)?);
        }
        Ok(report)
    }

    /// Adds the records of a file, `stem` its name without extension, in the order written.
    ///
    /// Errors if one must be refused.
    pub fn add(&mut self, stem: &str, records: &[Record]) -> Result<()> {
        records.iter().try_for_each(Record::check)?;
        self.files.push((stem.into(), section::sections(stem, records)));
        Ok(())
    }

    /// Names of the blocks that there are: a summary of each file of records, everything, the speed
    /// of formats, the distances of logits, what quantised weights cost, and servers.
    pub fn blocks(&self) -> Vec<&str> {
        let stems = self.files.iter().map(|(stem, _)| stem.as_str());
        stems.chain([EVERYTHING, formats::NAME, logits::NAME, quality::NAME, server::NAME]).collect()
    }

    /// The Markdown of block `name`, for a text from which the charts are found at `charts`
    /// (`docs/charts`). A name that begins with `decode` also says which records are drawn.
    ///
    /// Errors if there is no such block, or the records that it names cannot be drawn.
    pub fn block(&self, name: &str, charts: &str) -> Result<String> {
        match name {
            EVERYTHING => Ok(text::everything(self.sections(), charts)),
            formats::NAME => Ok(formats::block(&self.formats)),
            logits::NAME => Ok(logits::block(&self.logits)),
            quality::NAME => Ok(quality::block(&self.quality)),
            server::NAME => Ok(server::block(&self.servers)),
            _ if decode::is_named(name) => decode::block(&self.dir, name, charts),
            _ => match self.files.iter().find(|(stem, _)| stem == name) {
                Some((_, sections)) => Ok(text::summary(sections.first(), charts)),
                None => Err(BenchError::Option {
                    option: "block",
                    problem: format!("`{name}` is unknown; there are {}", self.blocks().join(", ")),
                }),
            },
        }
    }

    /// The chart that block `name` shows beyond [`charts`](Self::charts), if it is of that kind.
    ///
    /// Errors as [`block`](Self::block).
    pub fn chart(&self, name: &str) -> Result<Option<Chart>> {
        if decode::is_named(name) { decode::chart(&self.dir, name) } else { Ok(None) }
    }

    /// Every chart of the files of records, whatever blocks there are.
    pub fn charts(&self) -> Vec<Chart> {
        self.sections().flat_map(Section::charts).collect()
    }

    fn sections(&self) -> impl Iterator<Item = &Section> {
        self.files.iter().flat_map(|(_, sections)| sections)
    }
}

/// The name of a file of records without its extension.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The files of records in the folder `name` of `dir`, if there is one.
fn files_of(dir: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let dir = dir.join(name);
    if dir.is_dir() { files(&dir) } else { Ok(Vec::new()) }
}

/// The files of records in `dir`.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(BenchError::io("list", dir))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    Ok(paths)
}

impl Section {
    /// Its charts, as far as its records hold what they show.
    fn charts(&self) -> Vec<Chart> {
        [roofline::chart(self), throughput::chart(self)].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests;
