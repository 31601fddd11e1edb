//! `nvllm bench`: what a model does on this machine, and how near that is to what the hardware
//! allows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum as _};
use nvllm_bench::server::{self, RequestSettings, ServerSession, ServerSettings, ServerWorkload, Url};
use nvllm_bench::workload::{self, Workload};
use nvllm_bench::{
    BenchError, Binary, Display, Gate, Session, Settings, Sizes, Subject, files, record, table,
};
use nvllm_core::Activations;
use nvllm_engine::Model;

use super::serve;
use crate::flags::{BackendName, DeviceArgs, Dtype, KvCacheDtype, Promise, QuantizeArgs, RepositoryArgs};
use crate::output::{note, outln};
use crate::words::BadArgument;
use crate::{backends, built_in, models};

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm bench --quick
  nvllm bench decode prefill --batch 1,8 --context 128 --prompt-len 512,1024
  nvllm bench serve --url http://127.0.0.1:8000    a server
  nvllm bench serve                                the engine alone with the same requests")]
pub(crate) struct Bench {
    /// Workloads (see --list); all that need no server if none is named.
    #[arg(value_name = "WORKLOAD", value_parser = workload_name)]
    pub workloads: Vec<&'static str>,
    /// List the workloads with their definitions.
    #[arg(long)]
    pub list: bool,
    /// A directory, a GGUF file or a hub id; the embedded demo model if not given.
    #[arg(short, long)]
    pub model: Option<String>,
    /// Fewer sizes and rounds: a look, not a measurement to quote.
    #[arg(long)]
    pub quick: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub quantize: QuantizeArgs,
    /// Dtype of values between ops; bf16 for models saved in bf16 or quantised, else f32, if not
    /// given.
    #[arg(long, value_enum)]
    pub activations: Option<Dtype>,
    /// How keys and values are stored.
    #[arg(long, value_enum, default_value = "auto")]
    pub kv_cache_dtype: KvCacheDtype,
    /// What is promised about the order of sums.
    #[arg(long, value_enum, default_value = "invariant")]
    pub numerics: Promise,
    /// Find tokens through a copy of the head in 8 bits, on a CPU; decode says how many logits were
    /// computed again.
    #[arg(long, conflicts_with = "quantize_head")]
    pub exact_head: bool,
    /// Tokens in one step: longer prompts are cut into chunks; 512 on a CPU and 8192 on a GPU if
    /// not given.
    #[arg(long)]
    pub max_num_batched_tokens: Option<usize>,
    /// Sequences at once in decode and prefill, as in 1,8; each workload's own sizes if none is
    /// given.
    #[arg(long, visible_alias = "batch-size", value_name = "N,..", value_delimiter = ',', value_parser = size)]
    pub batch: Vec<usize>,
    /// Tokens that each sequence holds before a decode step, as in 128,1024.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = size)]
    pub context: Vec<usize>,
    /// Tokens of each prompt in prefill, as in 512,1024.
    #[arg(short, long, visible_alias = "input-len", value_name = "N,..", value_delimiter = ',', value_parser = size)]
    pub prompt_len: Vec<usize>,
    /// Share of the nano set's requests and lengths, above 0 to 1; as much as fits the time if not
    /// given.
    #[arg(long, value_parser = share)]
    pub scale: Option<f64>,
    /// Seconds that one case may take: larger ones are skipped, with a line that says so.
    #[arg(long, default_value_t = 60.0, value_parser = seconds)]
    pub case_seconds: f64,
    /// Also write a trace of every op of a prompt and some decoded tokens (Perfetto opens it).
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Measure a server, ours or any other that speaks OpenAI's completions, instead of a model:
    /// http://HOST:PORT.
    #[arg(long, value_name = "URL", help_heading = "Over HTTP", conflicts_with_all = ["profile", "scale", "batch", "context"])]
    pub url: Option<Url>,
    /// The key that the server asks for.
    #[arg(
        long,
        value_name = "KEY",
        requires = "url",
        help_heading = "Over HTTP",
        env = "OPENAI_API_KEY",
        hide_env_values = true
    )]
    pub api_key: Option<String>,
    /// Requests at once in serve, as in 1,16.
    #[arg(long, value_name = "N,..", help_heading = "Requests", value_delimiter = ',', value_parser = size)]
    pub concurrency: Vec<usize>,
    /// Tokens of prompt and answer in serve, as in 1024,1024.
    #[arg(long, value_name = "IN,OUT", help_heading = "Requests", value_parser = lengths)]
    pub lengths: Option<(usize, usize)>,
    /// The file that the records are appended to.
    #[arg(long, default_value = "nvllm-bench.jsonl")]
    pub records: PathBuf,
    #[command(flatten)]
    pub repository: RepositoryArgs,
}

/// Most sequences, and most tokens of one.
const MAX_SIZE: usize = 1 << 20;

fn size(text: &str) -> Result<usize, String> {
    let size = text.parse().ok().filter(|size| (1..=MAX_SIZE).contains(size));
    size.ok_or_else(|| format!("use whole numbers from 1 to {MAX_SIZE}, as in 1,8"))
}

fn lengths(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once(',').map(|(input, output)| Ok::<_, String>((size(input)?, size(output)?)));
    parsed.unwrap_or_else(|| Err("use two numbers, as in 1024,1024".into()))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|&share: &f64| share > 0.0 && share <= 1.0);
    share.ok_or_else(|| "use a number above 0 and up to 1, as in 0.05".into())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|&seconds: &f64| seconds > 0.0 && seconds.is_finite());
    seconds.ok_or_else(|| "use a number of seconds above 0, as in 60".into())
}

/// A workload of either kind; which kinds go with which flags is said later.
fn workload_name(text: &str) -> Result<&'static str, String> {
    let over_http = server::find(text).map(ServerWorkload::name);
    over_http.or_else(|_| workload::find(text).map(Workload::name)).map_err(|e| e.to_string())
}

/// Whether the file that a flag names can be written, before anything is measured for it. A file
/// made for the try is removed.
fn check_writable(flag: &str, path: &Path) -> Result<()> {
    let is_new = !path.exists();
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .with_context(|| format!("{flag} {}: cannot write there", path.display()))?;
    if is_new {
        std::fs::remove_file(path)
            .with_context(|| format!("{flag} {}: cannot write there", path.display()))?;
    }
    Ok(())
}

/// Refuses sizes of requests where no workload sends requests of given sizes.
fn check_requests(args: &Bench) -> Result<()> {
    let all = args.url.is_some() && args.workloads.is_empty();
    let flag = match args {
        _ if all || args.workloads.contains(&"serve") => return Ok(()),
        Bench { concurrency, .. } if !concurrency.is_empty() => "--concurrency",
        Bench { lengths: Some(_), .. } => "--lengths",
        _ => return Ok(()),
    };
    Err(BadArgument(format!(
        "{flag} says what requests of the workload serve are like; name it, as in nvllm bench serve {flag} .."
    ))
    .into())
}

pub(super) fn run(args: &Bench) -> Result<()> {
    if args.list {
        for workload in workload::REGISTRY {
            outln!("{:9} {:4} {}", workload.name(), workload.code(), workload.definition())?;
        }
        for workload in server::REGISTRY {
            outln!("{:9} {:4} {}", workload.name(), workload.code(), workload.definition())?;
        }
        return Ok(());
    }
    check_requests(args)?;
    check_writable("--records", &args.records)?;
    if let Some(url) = &args.url {
        return run_over_http(args, url);
    }
    if let Some(path) = &args.profile {
        check_writable("--profile", path)?;
    }
    let named = || args.workloads.iter();
    let (workloads, of_requests): (Vec<_>, Vec<_>) = match args.workloads.as_slice() {
        [] => (workload::REGISTRY.to_vec(), Vec::new()),
        _ => (
            named().filter_map(|name| workload::find(name).ok()).collect(),
            named().filter_map(|name| server::find(name).ok()).collect(),
        ),
    };
    let mut subject = quantized(subject(args.model.as_deref())?, &args.quantize);
    subject.seed = args.repository.weights_seed;
    let model = (subject.open)()?;
    let activations = activations(args, &model);
    drop(model);
    let factory = Arc::new(backends::factory(&args.device));
    let gate = gate(&args.repository);
    let display = Display::bar(workloads.len(), |line| note!("{line}"));
    let mut bench = Session::start(subject, factory, &gate, settings(args, activations)?, display).context(
        "a figure without a check of correctness is not printed; the check is made with the demo model",
    )?;
    bench.run(&workloads, &args.records)?;
    if let Some(path) = &args.profile {
        bench.profile(path)?;
    }
    if !of_requests.is_empty() {
        // Without a server it is the engine that answers.
        let display = Display::bar(of_requests.len(), |line| note!("{line}"));
        ServerSession::alone(&bench, requests(args), display)?.run(&of_requests, &args.records)?;
    }
    show(&args.records, bench.run_id())
}

/// Measures a server.
fn run_over_http(args: &Bench, url: &Url) -> Result<()> {
    let named = args.workloads.iter().map(|name| server::find(name)).collect::<Result<Vec<_>, _>>()?;
    let workloads = if named.is_empty() { server::REGISTRY.to_vec() } else { named };
    let settings = ServerSettings {
        url: url.clone(),
        api_key: args.api_key.clone(),
        model: args.model.clone(),
        // A key is nobody's business.
        flags: std::env::args().skip(1).filter(|flag| Some(flag) != args.api_key.as_ref()).collect(),
        source: args.repository.source(),
    };
    serve::allow_many_connections();
    let display = Display::bar(workloads.len(), |line| note!("{line}"));
    let mut bench = ServerSession::start(&settings, requests(args), display)?;
    bench.run(&workloads, &args.records)?;
    show(&args.records, bench.run_id())
}

/// What is asked of a server, or of the engine alone.
fn requests(args: &Bench) -> RequestSettings {
    RequestSettings {
        quick: args.quick,
        concurrency: args.concurrency.clone(),
        lengths: args.lengths,
        case_seconds: args.case_seconds,
    }
}

/// Prints a run's tables.
fn show(records: &Path, run: &str) -> Result<()> {
    let written = record::read_run(records, run)?;
    outln!("{}\n{}\n{}", table::conditions(&written), table::figures(&written), table::latencies(&written))?;
    outln!("records: {} (run {run})", records.display())?;
    Ok(())
}

/// The demo model's checks, and what was checked before.
fn gate(repository: &RepositoryArgs) -> Gate {
    let before = repository.checked.clone();
    let before = before.map(|detail| record::Correctness { passed: true, detail });
    match repository.gate_model.clone() {
        None => Gate { before, demo: Box::new(|| opened(built_in::open())) },
        Some(dir) => Gate { before, demo: Box::new(move || opened(models::open(dir.to_str()))) },
    }
}

/// The crate's error for one of this program's.
fn opened<T>(result: Result<T>) -> Result<T, BenchError> {
    result.map_err(|e| BenchError::Data { file: built_in::NAME.into(), problem: format!("{e:#}") })
}

/// The named model on disk, fetched first if need be, or the embedded one.
fn subject(name: Option<&str>) -> Result<Subject> {
    let Some(name) = name.filter(|name| !models::is_built_in(name)) else {
        return Ok(Subject {
            name: built_in::NAME.into(),
            sha256: files::sha256(built_in::weights()),
            dir: None,
            seed: None,
            open: Box::new(|| opened(built_in::open())),
        });
    };
    let model = models::open(Some(name))?;
    let path = PathBuf::from(&model.name);
    let weights = files::weight_files(&path)?;
    let again = name.to_owned();
    Ok(Subject {
        name: if Path::new(name).exists() { files::base_name(name) } else { name.into() },
        sha256: files::sha256_files(&weights)?,
        dir: Some(path),
        seed: None,
        open: Box::new(move || opened(models::open(Some(&again)))),
    })
}

/// The model with its weights quantised as the flags say, under a name that says so.
fn quantized(subject: Subject, args: &QuantizeArgs) -> Subject {
    let flags = args.flags();
    if flags.is_empty() {
        return subject;
    }
    let (args, open) = (args.clone(), subject.open);
    Subject {
        name: format!("{} {}", subject.name, flags.join(" ")),
        open: Box::new(move || opened(models::quantize(open()?, &args))),
        ..subject
    }
}

fn activations(args: &Bench, model: &Model) -> Activations {
    match args.activations {
        Some(Dtype::Bf16) => Activations::Bf16,
        None => model.activations(),
        Some(Dtype::F32) => Activations::F32,
    }
}

fn settings(args: &Bench, activations: Activations) -> Result<Settings> {
    let device = &args.device;
    let numerics = args.numerics.numerics();
    let kv_format = args.kv_cache_dtype.format().unwrap_or(activations.kv_format());
    let mut flags = vec!["--activations".to_owned(), activations.dtype().to_string()];
    let mut flag = |name: &str, value: Option<String>| {
        flags.extend(value.map(|value| [name.to_owned(), value]).into_iter().flatten());
    };
    flag("--backend", device.backend.to_possible_value().map(|value| value.get_name().to_owned()));
    flag("--numerics", Some(numerics.name().to_owned()));
    flag("--kv-cache-dtype", Some(kv_format.to_string()));
    flag("--gpu", device.gpu.map(|gpu| gpu.to_string()));
    flag("--adapter", device.adapter.clone());
    flag("--threads", device.threads.map(|threads| threads.to_string()));
    flags.extend(device.pin.then(|| "--pin".into()));
    flags.extend(args.exact_head.then(|| "--exact-head".into()));
    flags.extend(args.quantize.flags());
    let threads = match device.backend {
        BackendName::Reference | BackendName::Cuda | BackendName::Wgpu => 1,
        BackendName::Auto | BackendName::Cpu => device.threads.unwrap_or_else(nvllm_cpu::default_threads),
    };
    Ok(Settings {
        quick: args.quick,
        activations,
        kv_format,
        numerics,
        exact_head: args.exact_head,
        step_tokens: args.max_num_batched_tokens,
        threads,
        scale: args.scale,
        case_seconds: args.case_seconds,
        flags: args.repository.shown(std::env::args().skip(1)),
        source: args.repository.source(),
        version: env!("CARGO_PKG_VERSION").into(),
        binary: Some(Binary {
            path: std::env::current_exe().context("cannot find this program")?,
            args: flags,
        }),
        sizes: Sizes {
            batch: args.batch.clone(),
            context: args.context.clone(),
            prompt_len: args.prompt_len.clone(),
        },
        peers: args.repository.peers(args.quick),
        peer_device: match device.backend {
            BackendName::Cuda => format!("cuda:{}", device.gpu.unwrap_or(0)),
            // Which of its devices an adapter is, a peer does not know.
            BackendName::Auto | BackendName::Cpu | BackendName::Reference | BackendName::Wgpu => "cpu".into(),
        },
        scratch: args.repository.peer_scratch.clone().unwrap_or_else(std::env::temp_dir),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gguf_file_is_a_subject_under_its_name() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gguf/a_qwen3_tied_gqa.gguf");
        let subject = subject(path.to_str()).unwrap();
        assert_eq!(subject.name, "a_qwen3_tied_gqa.gguf");
        assert_eq!(subject.sha256, files::sha256(&std::fs::read(&path).unwrap()));
        assert!((subject.open)().is_ok());
    }
}
