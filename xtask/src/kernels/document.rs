//! docs/kernels.md: what every kernel takes of a multiprocessor of Hopper.

use std::path::Path;

use anyhow::{Context, Result};
use nvllm_cuda::compile::{Entry, Resources, Source, Target, USUAL_THREADS};
use nvllm_cuda::{LISTED_COLS, dynamic_shared};

use super::occupancy::blocks;

const PATH: &str = "docs/kernels.md";

/// The architecture that is listed.
pub(super) const LISTED: Target = Target::Cubin(90);

/// A kernel as it was compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    file: String,
    kernel: String,
    /// Of a block; none if it takes any number.
    threads: Option<u32>,
    registers: u32,
    static_shared: u32,
}

impl Line {
    pub(super) fn new(source: &Source, of: &Resources, entries: &[Entry]) -> Self {
        let threads = entries.iter().find(|entry| entry.name == of.kernel).and_then(|entry| entry.threads);
        let (file, kernel) = (source.path.into(), of.kernel.clone());
        Self { file, kernel, threads, registers: of.registers, static_shared: of.shared }
    }

    /// As a line of the table, of so much dynamic shared memory.
    fn text(&self, dynamic: u32) -> String {
        let Self { file, kernel, threads, registers, static_shared } = self;
        let at_once = blocks(threads.unwrap_or(USUAL_THREADS), *registers, static_shared + dynamic);
        let threads = threads.map_or("any".into(), |threads| threads.to_string());
        format!("| {file} | {kernel} | {threads} | {registers} | {static_shared} | {dynamic} | {at_once} |\n")
    }

    /// The line and its dynamic shared memory, of a line of the table.
    #[cfg(test)]
    fn read(text: &str) -> Option<(Self, u32)> {
        let cells: Vec<&str> = text.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let &[file, kernel, threads, registers, static_shared, dynamic, _] = &cells[..] else { return None };
        let line = Self {
            file: file.into(),
            kernel: kernel.into(),
            threads: threads.parse().ok(),
            registers: registers.parse().ok()?,
            static_shared: static_shared.parse().ok()?,
        };
        Some((line, dynamic.parse().ok()?))
    }
}

/// The whole text.
fn document(lines: &[Line]) -> String {
    let [cols, more] = LISTED_COLS;
    let mut text = format!(
        "# Kernels

What each CUDA kernel takes of a multiprocessor of an H100 or H200 (sm_90a). `cargo xtask kernels --write` writes this file, and without
`--write`, as in CI, holds the kernels to it. Threads are those of a block; `any`: the launch decides, and blocks are counted for
{USUAL_THREADS}. Shared memory is in bytes of a block. Dynamic shared memory depends on the shape: here a linear layer has K = {cols} (a kernel
for longer rows K = {more}) and as many rows as its kernel takes, a coded weight is in the public format that takes most, and a decode pass
is without its list of weights. The last column is how many blocks run on a multiprocessor at once, 0 where a block of that shape does not
fit: then another kernel runs. How a launch comes by these numbers: `crates/nvllm-cuda/kernels/README.md`.

| file | kernel | threads | registers | static shared | dynamic shared | blocks |
|---|---|---|---|---|---|---|
"
    );
    let (mut lines, dynamic) = (lines.to_vec(), dynamic_shared());
    lines.sort_by(|a, b| (&a.file, &a.kernel).cmp(&(&b.file, &b.kernel)));
    for line in lines {
        let bytes = dynamic.iter().find(|(name, _)| *name == line.kernel).map_or(0, |(_, bytes)| *bytes);
        text += &line.text(bytes);
    }
    text
}

/// What the host launches and no file has.
pub(super) fn missing(lines: &[Line]) -> Vec<String> {
    let known = |name: &String| lines.iter().any(|line| line.kernel == *name);
    let names = dynamic_shared().into_iter().map(|(name, _)| name).filter(|name| !known(name));
    names.map(|name| format!("the host launches {name}, which no file of kernels has")).collect()
}

/// Writes the file, or says that it is not what `lines` are.
pub(super) fn hold(root: &Path, lines: &[Line], write: bool) -> Result<Option<String>> {
    let (path, text) = (root.join(PATH), document(lines));
    if write {
        std::fs::write(&path, text).with_context(|| format!("cannot write {PATH}"))?;
        return Ok(None);
    }
    let is_right = std::fs::read_to_string(&path).is_ok_and(|known| known == text);
    Ok((!is_right).then(|| format!("{PATH} is not what the kernels take: `cargo xtask kernels --write`")))
}

#[cfg(test)]
mod tests {
    use nvllm_cuda::compile::{sources, static_limit};

    use super::*;

    const COMMITTED: &str = include_str!("../../../docs/kernels.md");

    /// The kernels of a text.
    fn lines(text: &str) -> Vec<Line> {
        text.lines().filter_map(Line::read).map(|(line, _)| line).collect()
    }

    /// What is wrong with the text, as far as it shows without a compiler.
    fn faults(text: &str) -> Vec<String> {
        let lines = lines(text);
        let mut faults = missing(&lines);
        if document(&lines) != text {
            faults.push("launches take other shared memory".into());
        }
        for source in sources().iter().filter(|source| (source.takes)(LISTED)) {
            let of_file: Vec<_> = lines.iter().filter(|line| line.file == source.path).collect();
            if of_file.is_empty() {
                faults.push(format!("{} is not there", source.path));
            }
            let limit = static_limit(source).unwrap_or(usize::MAX);
            let above = of_file.into_iter().filter(|line| line.static_shared as usize > limit);
            faults.extend(above.map(|line| format!("{} is beyond its limit", line.kernel)));
        }
        faults
    }

    #[test]
    fn the_committed_table_is_what_launches_take() {
        assert_eq!(faults(COMMITTED), [""; 0], "run `cargo xtask kernels --write`");
    }

    /// Of each, as if the kernels' files said so and the table had not been written again.
    #[test]
    fn a_table_that_differs_from_the_launches_is_found() {
        let line = |kernel: &str| {
            let all = COMMITTED.lines();
            all.filter(|text| text.contains(&format!("| {kernel} |"))).collect::<Vec<_>>().concat()
        };
        let planted = |kernel: &str, changed: &str| {
            let text = COMMITTED.replace(&line(kernel), changed);
            assert!(text != COMMITTED, "{kernel}");
            faults(&text)
        };
        let dense = line("linear_tensor_core_t64");
        let changed = planted("linear_tensor_core_t64", &dense.replace("| 133120 |", "| 133121 |"));
        assert_eq!(changed, ["launches take other shared memory"]);
        let renamed = planted("linear_tensor_core_t64", &dense.replace("core_t64", "core_t65"));
        assert!(renamed[0].contains("the host launches linear_tensor_core_t64"), "{renamed:?}");
        let few = line("linear_coded_few_i8_r1_t8");
        let (of_few, dynamic) = Line::read(&few).unwrap();
        let large = Line { static_shared: 385, ..of_few };
        let beyond = planted("linear_coded_few_i8_r1_t8", large.text(dynamic).trim_end());
        assert_eq!(beyond, ["linear_coded_few_i8_r1_t8 is beyond its limit"]);
        assert!(
            faults(&COMMITTED.replace("linear/mid_m.cu", "linear/mid.cu"))
                .contains(&"linear/mid_m.cu is not there".into())
        );
    }

    #[test]
    fn lines_are_sorted_and_read_as_they_are_written() {
        let line = |kernel: &str, threads| Line {
            file: "a/b.cu".into(),
            kernel: kernel.into(),
            threads,
            registers: 40,
            static_shared: 16,
        };
        let two = [line("z", None), line("y", Some(128))];
        let text = document(&two);
        assert!(
            text.ends_with(
                "| a/b.cu | y | 128 | 40 | 16 | 0 | 12 |\n| a/b.cu | z | any | 40 | 16 | 0 | 6 |\n"
            ),
            "{text}"
        );
        assert_eq!(lines(&text), [two[1].clone(), two[0].clone()]);
        assert!(!missing(&two).is_empty());
    }
}
