//! Servers: what HTTP costs beside the engine alone, and what else was measured over HTTP.
//!
//! A file of records (`COMMIT-serve.jsonl`) is one build on one machine, whose runs with and
//! without HTTP took turns. Records of the same requests stand in one row.

use std::fmt::Write as _;

use super::section::{distinct, is_quick};
use crate::record::{OURS, Record, names};
use crate::server::OVER_HTTP;
use crate::{stats, workload};

/// Name of the block, and of the folder of its records.
pub(super) const NAME: &str = "server";
/// The workload whose requests are the same with and without HTTP.
const PAIRED: &str = "serve";

/// The records of one file, quick looks left out.
#[derive(Clone, Debug)]
pub(super) struct File {
    name: String,
    records: Vec<Record>,
}

impl File {
    pub(super) fn new(name: &str, records: Vec<Record>) -> Self {
        let known = |record: &Record| crate::server::find(&record.workload).is_ok() && !is_quick(record);
        Self { name: name.into(), records: records.into_iter().filter(known).collect() }
    }
}

/// All runs of the same requests by one engine, over HTTP or without it.
struct Runs<'a>(Vec<&'a Record>);

impl Runs<'_> {
    /// Output tokens a second, the median over runs.
    fn rate(&self) -> f64 {
        let sum = |record: &Record, name| record.series(name).iter().sum::<f64>();
        stats::median(self.0.iter().map(|run| sum(run, names::OUTPUT_TOKENS) / sum(run, names::RUN_SECONDS)))
    }

    /// A percentile of a series in milliseconds, over all runs.
    fn ms(&self, name: &str, percent: f64) -> f64 {
        1e3 * stats::percentile(self.0.iter().flat_map(|run| run.series(name)), percent)
    }

    /// The median of a value over runs that tell it.
    fn value(&self, name: &str) -> Option<f64> {
        let values: Vec<f64> = self.0.iter().filter_map(|run| run.values.get(name).copied()).collect();
        (!values.is_empty()).then(|| stats::median(values))
    }
}

/// Tables and conditions of every file.
pub(super) fn block(files: &[File]) -> String {
    let text =
        files.iter().filter(|file| !file.records.is_empty()).map(of_file).collect::<Vec<_>>().join("\n");
    if text.is_empty() {
        return "Nothing is on record yet: `nvllm bench --url` measures.\n".into();
    }
    text
}

fn of_file(file: &File) -> String {
    let first = &file.records[0];
    let mut text = format!(
        "**{}** on {} ({} processors), {}\n\n",
        first.model.name, first.host.cpu, first.host.num_cpus, file.name
    );
    let cases = distinct(file.records.iter().filter(|r| r.workload == PAIRED).map(|r| &r.case));
    if !cases.is_empty() {
        text += "| requests | | runs | tokens/s | TTFT p50 / p99, ms | ITL p50 / p99, ms | client CPU | server's memory |\n";
        text += "|---|---|---|---|---|---|---|---|\n";
    }
    for case in cases {
        let of_case = || file.records.iter().filter(|r| r.workload == PAIRED && r.case == *case);
        let runs = |engine: &str, over_http| {
            let is_run =
                |r: &&Record| r.engine.name == engine && (r.device.backend == OVER_HTTP) == over_http;
            Some(Runs(of_case().filter(is_run).collect())).filter(|runs| !runs.0.is_empty())
        };
        let share = |runs: &Runs, of: Option<&Runs>, what| {
            of.map_or_else(String::new, |of| format!(" ({:.1} %{what})", 100.0 * runs.rate() / of.rate()))
        };
        let (alone, ours) = (runs(OURS, false), runs(OURS, true));
        if let Some(alone) = &alone {
            let _ = writeln!(text, "| {case} | engine alone | {} |", figures(alone, ""));
        }
        if let Some(ours) = &ours {
            let figures = figures(ours, &share(ours, alone.as_ref(), ""));
            let _ = writeln!(text, "| {case} | over HTTP | {figures} |");
        }
        for engine in distinct(of_case().map(|r| r.engine.name.as_str())) {
            if let Some(theirs) = runs(engine, true).filter(|_| engine != OURS) {
                let figures = figures(&theirs, &share(&theirs, ours.as_ref(), " of ours"));
                let _ = writeln!(text, "| {case} | {engine} over HTTP | {figures} |");
            }
        }
    }
    text += &others(&file.records);
    let runs = distinct(file.records.iter().map(|record| record.run.as_str())).join(", ");
    let _ = write!(text, "\n```text\nnvllm {}, {}; runs {runs}\n```\n", first.engine.version, first.host.os);
    text
}

/// The cells of these runs.
fn figures(runs: &Runs, share: &str) -> String {
    let pair = |name| format!("{:.1} / {:.1}", runs.ms(name, 50.0), runs.ms(name, 99.0));
    let cpu =
        runs.value(names::CLIENT_CPU_SECONDS).map_or_else(|| "-".into(), |seconds| format!("{seconds:.2} s"));
    format!(
        "{} | {:.0}{share} | {} | {} | {cpu} | {}",
        runs.0.len(),
        runs.rate(),
        pair(names::TTFT_SECONDS),
        pair(names::ITL_SECONDS),
        memory(runs, [names::SERVER_REST_BYTES, names::SERVER_PEAK_BYTES]),
    )
}

/// Two of a server's values of memory, in megabytes.
fn memory(runs: &Runs, names: [&str; 2]) -> String {
    match names.map(|name| runs.value(name)) {
        [Some(from), Some(to)] => format!("{:.0} to {:.0} MB", from / 1e6, to / 1e6),
        _ => "-".into(),
    }
}

/// What was measured once only.
fn others(records: &[Record]) -> String {
    let others: Vec<&Record> = records.iter().filter(|record| record.workload != PAIRED).collect();
    if others.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n| workload | | tokens/s | what came of it | server's memory |\n|---|---|---|---|---|\n",
    );
    for record in others {
        let shown = workload::figures(record);
        let who = if record.device.backend == OVER_HTTP { "over HTTP" } else { "engine alone" };
        let rate = shown.rate.unwrap_or(f64::NAN);
        let runs = Runs(vec![record]);
        let rest = [names::SERVER_REST_BYTES, names::SERVER_PEAK_BYTES];
        let soak = [names::SERVER_FIRST_BYTES, names::SERVER_LAST_BYTES];
        let memory = memory(&runs, if record.values.contains_key(soak[0]) { soak } else { rest });
        let _ = writeln!(
            text,
            "| {}, {} | {who} | {rate:.0} | {} | {memory} |",
            record.workload, record.case, shown.headline
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Series;
    use crate::record::tests::sample;
    use crate::record::{Case, Engine};

    /// Two answers of ten tokens in `seconds`.
    fn run(backend: &str, concurrency: usize, seconds: f64) -> Record {
        let mut record = Record { workload: PAIRED.into(), cost: None, ..sample() };
        record.case = Case { concurrency: Some(concurrency), ..Case::default() };
        record.device.backend = backend.into();
        record.series = [
            (names::TTFT_SECONDS, Series::seconds([0.1, 0.3])),
            (names::ITL_SECONDS, Series::seconds_sorted([0.01, 0.02, 0.03])),
            (names::OUTPUT_TOKENS, Series::whole([10.0, 10.0])),
            (names::RUN_SECONDS, Series::seconds([seconds])),
        ]
        .map(|(name, series)| (name.to_owned(), series))
        .into();
        if backend == OVER_HTTP {
            let values = [
                (names::CLIENT_CPU_SECONDS, 0.5),
                (names::SERVER_REST_BYTES, 50e6),
                (names::SERVER_PEAK_BYTES, 80e6),
            ];
            record.values.extend(values.map(|(name, value)| (name.to_owned(), value)));
        }
        record
    }

    #[test]
    fn http_stands_beside_the_engine_alone() {
        let other = Engine { name: "other".into(), ..sample().engine };
        let records = vec![
            run("cpu", 1, 1.0),
            run(OVER_HTTP, 1, 1.25),
            run(OVER_HTTP, 1, 1.25),
            run("cpu", 1, 1.0),
            run(OVER_HTTP, 64, 2.0),
            Record { engine: other, ..run(OVER_HTTP, 64, 4.0) },
        ];
        let text = block(&[File::new("abc-serve", records)]);
        assert!(
            text.contains("| concurrency 1 | engine alone | 2 | 20 | 200.0 / 300.0 | 20.0 / 30.0 | - | - |"),
            "{text}"
        );
        let over_http = "| concurrency 1 | over HTTP | 2 | 16 (80.0 %) | 200.0 / 300.0 | 20.0 / 30.0 | 0.50 s | 50 to 80 MB |";
        assert!(text.contains(over_http), "{text}");
        assert!(
            text.contains("| concurrency 64 | over HTTP | 1 | 10 | "),
            "without a counterpart there is no share: {text}"
        );
        assert!(text.contains("| concurrency 64 | other over HTTP | 1 | 5 (50.0 % of ours) | "), "{text}");
    }

    #[test]
    fn what_was_measured_once_is_listed_and_a_quick_look_is_not() {
        let mut soak = run(OVER_HTTP, 256, 2.0);
        soak.workload = "soak".into();
        soak.values
            .extend([(names::SERVER_FIRST_BYTES.into(), 60e6), (names::SERVER_LAST_BYTES.into(), 61e6)]);
        let mut quick = run(OVER_HTTP, 7, 2.0);
        quick.flags.push("--quick".into());
        let text = block(&[File::new("abc-serve", vec![soak, quick, sample()])]);
        assert!(text.contains("| soak, concurrency 256 | over HTTP | 10 | "), "{text}");
        assert!(
            text.contains("60 to 61 MB") && !text.contains("concurrency 7") && !text.contains("decode"),
            "{text}"
        );
        assert!(block(&[]).starts_with("Nothing is on record"));
    }
}
