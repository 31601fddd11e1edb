//! What the check lets pass, and what it does not.

use super::*;

#[test]
fn the_repository_shows_what_its_records_give() {
    let root = crate::repo_root();
    let report = Report::read(&root.join(RECORDS)).unwrap();
    let found = violations(&Tree::read(&root).unwrap(), &report);
    let lines: Vec<_> = found.iter().map(Violation::to_string).collect();
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), lines.join("\n"));
}

/// Two steps of 50 ms beside a rate that allows 45.
const RECORD: &str = r#"{"schema":2,"workload":"decode","case":{"batch":1,"context":128},"run":"r1","time":"2026-01-01T00:00:00Z","engine":{"name":"nvllm","version":"0.1.0","detail":"avx2"},"source":{"commit":"abc","dirty":false},"host":{"cpu":"x","num_cpus":2,"memory_bytes":1,"os":"linux"},"device":{"backend":"cpu","name":"x, 2 threads","memory_bytes":1},"model":{"name":"m","num_parameters":1,"sha256":"00"},"dtypes":{"weights":"bf16","activations":"bf16","kv":"bf16"},"numerics":"invariant","threads":2,"seed":0,"flags":[],"cost":{"bytes":4.5e8,"flops":1.0},"series":{"step_seconds":[0.05,0.05],"read_bandwidth":[10000000000,10000000000],"matmul_rate":[10000000000,10000000000]},"correctness":{"passed":true,"detail":"all"}}"#;

/// A repository with that record, a text with its block, and a report.
struct Repository(tempfile::TempDir);

impl Repository {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in [RECORDS, "docs"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let repository = Self(dir);
        repository.put("bench/records/cpu.jsonl", &format!("{RECORD}\n"));
        repository.put("README.md", text);
        repository
    }

    /// With its blocks and charts written.
    fn shown(text: &str) -> Self {
        let repository = Self::new(text);
        assert_eq!(repository.run(false), ExitCode::SUCCESS, "{:?}", repository.found());
        repository
    }

    fn put(&self, path: &str, text: &str) {
        std::fs::write(self.0.path().join(path), text).unwrap();
    }

    fn get(&self, path: &str) -> String {
        std::fs::read_to_string(self.0.path().join(path)).unwrap()
    }

    /// Replaces text that must be there.
    fn edit(&self, path: &str, from: &str, to: &str) {
        let text = self.get(path);
        assert!(text.contains(from), "{text}");
        self.put(path, &text.replacen(from, to, 1));
    }

    fn run(&self, check: bool) -> ExitCode {
        command(self.0.path(), &Args { check }).unwrap()
    }

    fn found(&self) -> Vec<Violation> {
        let report = Report::read(&self.0.path().join(RECORDS)).unwrap();
        violations(&Tree::read(self.0.path()).unwrap(), &report)
    }
}

const TEXT: &str = "# a\n<!-- report:cpu -->\n<!-- /report -->\nb\n";

#[test]
fn blocks_and_charts_are_written_and_then_pass() {
    let repository = Repository::new(TEXT);
    repository.put("docs/a.md", &TEXT.replace("report:cpu", "report:everything"));
    assert_eq!(repository.run(true), ExitCode::FAILURE);
    assert_eq!(repository.run(false), ExitCode::SUCCESS);
    assert_eq!(repository.run(true), ExitCode::SUCCESS);
    let text = repository.get("README.md");
    assert!(
        text.starts_with("# a\n<!-- report:cpu -->\n![") && text.ends_with("<!-- /report -->\nb\n"),
        "{text}"
    );
    assert!(text.contains("| 50.00 ms a step | 20.0 | 90.0 % of 10.0 GB/s"), "{text}");
    assert!(text.contains("](docs/charts/cpu-roofline.svg)"), "{text}");
    assert!(repository.get("docs/a.md").contains("](charts/cpu-roofline.svg)"));
    assert!(repository.get("docs/charts/cpu-roofline.svg").starts_with("<svg "));
    repository.run(false);
    assert_eq!(repository.get("README.md"), text, "a second time changes nothing");
}

#[test]
fn an_edited_figure_is_named_with_its_line() {
    let repository = Repository::shown(TEXT);
    repository.edit("README.md", "| 20.0 |", "| 25.0 |");
    let line = repository.get("README.md").lines().position(|line| line.contains("25.0")).unwrap() + 1;
    let found = repository.found();
    assert_eq!(found.len(), 1, "{found:?}");
    let text = found[0].to_string();
    assert!(
        text.starts_with(&format!("README.md:{line}: block report:cpu: no record gives `25.0`, but `20.0`")),
        "{text}"
    );
    assert_eq!(repository.run(true), ExitCode::FAILURE);
}

#[test]
fn a_block_or_chart_of_older_records_is_stale() {
    let repository = Repository::shown(TEXT);
    let newer = RECORD.replace("0.05,0.05", "0.1,0.1").replace("\"r1\"", "\"r2\"");
    repository.put("bench/records/cpu.jsonl", &format!("{RECORD}\n{newer}\n"));
    let found = repository.found();
    let of = |path: &str| found.iter().filter(|violation| violation.path == path).count();
    assert!(of("README.md") >= 2 && of("docs/charts/cpu-roofline.svg") == 1, "{found:?}");
    repository.run(false);
    assert_eq!(repository.found(), []);
    repository.put("bench/records/cpu.jsonl", "");
    repository.run(false);
    assert_eq!(repository.found(), []);
    assert!(repository.get("README.md").contains("Nothing is on record"));
    assert!(
        !repository.0.path().join("docs/charts/cpu-roofline.svg").exists(),
        "a chart without a record goes"
    );
}

#[test]
fn lines_added_to_or_taken_from_a_block_are_found() {
    for (from, to) in [
        ("| decode", "| more |\n| decode"),
        ("|---|---|---|---|---|---|\n", ""),
        ("<!-- /report", "more\n<!-- /report"),
    ] {
        let repository = Repository::shown(TEXT);
        repository.edit("README.md", from, to);
        assert_eq!(repository.found().len(), 1, "{from}: {:?}", repository.found());
    }
}

#[test]
fn a_chart_that_was_touched_added_or_lost_is_found() {
    let repository = Repository::shown(TEXT);
    repository.put("docs/charts/other.svg", "<svg/>\n");
    repository.edit("docs/charts/cpu-roofline.svg", "90 %", "95 %");
    let paths: Vec<_> = repository.found().into_iter().map(|violation| violation.path).collect();
    assert_eq!(paths, ["docs/charts/cpu-roofline.svg", "docs/charts/other.svg"]);
    std::fs::remove_file(repository.0.path().join("docs/charts/cpu-roofline.svg")).unwrap();
    assert!(repository.found()[0].message.contains("missing"));
}

/// Of a file that only its marker names.
const DECODE: &str = "# a\n<!-- report:decode x; ours = a/b -->\n<!-- /report -->\n";

fn with_decode() -> Repository {
    let repository = Repository::new(DECODE);
    std::fs::create_dir(repository.0.path().join("bench/records/a")).unwrap();
    repository.put("bench/records/a/b.jsonl", &format!("{RECORD}\n"));
    repository
}

#[test]
fn a_chart_of_records_that_a_marker_names_is_written_and_held() {
    let repository = with_decode();
    assert_eq!(repository.run(true), ExitCode::FAILURE);
    assert_eq!(repository.run(false), ExitCode::SUCCESS, "{:?}", repository.found());
    let text = repository.get("README.md");
    assert!(text.contains("](docs/charts/decode-x.svg)") && text.contains("| 1 | 20 | 22 |"), "{text}");
    let path = "docs/charts/decode-x.svg";
    let svg = repository.get(path);
    repository.run(false);
    assert_eq!(repository.get(path), svg, "a second time changes nothing");
    repository.put(path, &(svg.clone() + " "));
    assert_eq!(
        repository.found(),
        [Violation::new(path, 1, format!("is not what the records give; {}", blocks::REMEDY))]
    );
    repository.put(path, &svg);
    repository.put("README.md", "# a\n");
    assert!(repository.found()[0].message.contains("no record gives this chart"));
}

#[test]
fn a_marker_that_names_no_such_records_is_refused_and_its_chart_stays() {
    let repository = with_decode();
    repository.run(false);
    repository.put("bench/records/a/b.jsonl", &format!("{}\n", RECORD.replace("128", "1024")));
    for (from, to, word) in [
        ("a/b", "a/b", "a/b: no record of decode at context 128"),
        ("a/b", "a/c", "a/c.jsonl"),
        ("ours = a/c", "ours", "`ours` is not `LABEL = FILE`"),
    ] {
        repository.edit("README.md", from, to);
        let text = repository.get("README.md");
        assert_eq!(repository.run(false), ExitCode::FAILURE, "{word}");
        let found = repository.found();
        assert!(
            found[0].to_string().starts_with("README.md:2: ") && found[0].message.contains(word),
            "{found:?}"
        );
        assert_eq!(repository.get("README.md"), text);
        assert!(repository.get("docs/charts/decode-x.svg").starts_with("<svg "));
    }
}

#[test]
fn a_record_without_its_correctness_check_is_refused() {
    let repository = Repository::shown(TEXT);
    for bad in [
        RECORD.replace("\"passed\":true", "\"passed\":false"),
        RECORD.replace(r#","correctness":{"passed":true,"detail":"all"}"#, ""),
    ] {
        assert_ne!(bad, RECORD);
        repository.put("bench/records/cpu.jsonl", &format!("{bad}\n"));
        for check in [false, true] {
            let error = command(repository.0.path(), &Args { check }).unwrap_err().to_string();
            assert!(error.contains("cpu.jsonl:1") && error.contains("refused"), "{error}");
        }
    }
}

#[test]
fn wrong_markers_are_found() {
    for (text, word) in [
        ("<!-- report:cpu -->\n", "does not end"),
        ("<!-- /report -->\n", "ends no block"),
        ("<!-- report:cpu -->\n<!-- report:cpu -->\n<!-- /report -->\n", "begins inside"),
        ("<!-- report:cuda -->\n<!-- /report -->\n", "`cuda` is unknown; there are cpu, everything"),
    ] {
        let repository = Repository::new(text);
        assert_eq!(repository.run(false), ExitCode::FAILURE, "{text}");
        assert_eq!(repository.get("README.md"), text);
        assert!(repository.found()[0].message.contains(word), "{text}: {:?}", repository.found());
    }
}

#[test]
fn a_figure_outside_of_a_block_is_named_with_its_line() {
    let figure = "It makes 2,300 tokens/s.";
    for (path, text) in [
        ("README.md", format!("a\n{figure}\n")),
        ("docs/a/b.md", format!("a\n{figure}\n")),
        ("bench/README.md", format!("a\n{figure}\n")),
        ("crates/a/src/lib.rs", format!("fn f() {{}}\n//! {figure}\n")),
        ("crates/a/src/b.rs", format!("fn f() {{}}\n    /// {figure}\n")),
        ("crates/a/kernels/b.cu", format!("int a;\n// {figure}\n")),
    ] {
        let found = figures::check(&Tree::of(&[(path, &text)]));
        assert_eq!(found.len(), 1, "{path}: {found:?}");
        assert!(found[0].to_string().starts_with(&format!("{path}:2: `2,300 tokens/s`")), "{found:?}");
    }
}

#[test]
fn goals_blocks_code_and_tests_are_exempt() {
    let figure = "2,300 tokens/s";
    for (path, text) in [
        ("bench/LOG.md", format!("{figure}\n")),
        ("README.md", format!("{figure} <!-- goal -->\n")),
        ("README.md", format!("<!-- report:cpu -->\n{figure}\n<!-- /report -->\n")),
        ("crates/a/src/lib.rs", format!("const A: &str = \"{figure}\";\n")),
        ("crates/a/tests/b.rs", format!("/// {figure}\nfn f() {{}}\n")),
        ("bench/records/cpu.jsonl", format!("{figure}\n")),
    ] {
        assert_eq!(figures::check(&Tree::of(&[(path, &text)])), [], "{path}");
    }
}

#[test]
fn figures_of_speed_are_known() {
    for text in [
        "17.1 tok/s",
        "2,300 tokens/s",
        "3.12 TB/s",
        "30 GB/s",
        "110 GFLOP/s",
        "700 TFLOPS",
        "4 req/s",
        "80 tokens a second",
        "133 output tokens per second",
        "58.58 ms",
        "0.6 us",
        "1 µs",
        "731ms",
        "4.37 s",
        "94 seconds",
        "2 minutes",
        "1.21x",
        "2×",
        "1.5 ×",
        "3 times faster",
        "twice as fast",
        "half the rate",
        "20 % slower",
        "88 % of the read bandwidth",
        "70 % of the peak",
        "69.9 % of its limit",
    ] {
        let line = format!("It is {text}, on one machine.");
        assert_eq!(figures::figure(&line), Some(text), "{line}");
    }
}

#[test]
fn other_numbers_are_no_figures() {
    for text in [
        "a 3x4 register tile",
        "128x128 blocks",
        "0x1f",
        "k x Tokens",
        "2 x Tokens",
        "1,192 MB",
        "114,688 bytes a token",
        "9 of 9 fixtures",
        "S0",
        "batch 1 to 256",
        "a scale error of 0.1 %",
        "four fifths of 5 %",
        "at most 256 KB a record",
        "Python 3's random",
        "p99",
        "3 times",
        "twice",
        "sm_90",
        "version 2",
        "60 % of the tests",
    ] {
        assert_eq!(figures::figure(&format!("It is {text} here.")), None, "{text}");
    }
}
