//! From a model's name to an engine that runs it, with progress on the terminal and notices in any
//! case.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use nvllm_engine::hub::{self, HubEvent, HubId, ModelFiles};
use nvllm_engine::{Engine, EngineError, LoadOptions, LoadProgress, Model};

use crate::flags::{LoadArgs, ModelArgs, QuantizeArgs, SamplingArgs};
use crate::output::note;
use crate::progress::Progress;
use crate::words::printable;
use crate::{backends, built_in, environment, human};

/// Opens the named model, fetching it first if need be; the embedded one if none is named.
pub(crate) fn open(name: Option<&str>) -> Result<Model> {
    Ok(open_served(name)?.0)
}

/// As [`open`]; with the name under which clients know a model of a hub.
pub(crate) fn open_served(name: Option<&str>) -> Result<(Model, Option<String>)> {
    let (model, hub_name) = match name {
        Some(name) if !is_built_in(name) => {
            let files = find(name)?;
            (Model::open(&files)?, files.hub.map(|origin| hub_name(name, origin.id)))
        }
        _ => (built_in::open()?, None),
    };
    for remark in &model.remarks {
        note!("{}: {}", printable(&model.name), printable(remark));
    }
    Ok((model, hub_name))
}

/// `org/name`, or `org/name:TYPE` where a type of GGUF was asked for. Of an address, what it is the
/// address of.
fn hub_name(given: &str, found: HubId) -> String {
    let id = HubId::parse(given).unwrap_or(found);
    let variant = id.variant().map_or_else(String::new, |variant| format!(":{variant}"));
    id.repo() + &variant
}

/// Whether the name is the embedded model's. A directory of that name is `./nvllm-tiny`.
pub(crate) fn is_built_in(name: &str) -> bool {
    name == built_in::NAME && (built_in::HAS_MODEL || !Path::new(name).is_dir())
}

/// The files of the named model, fetched if they are not here.
pub(crate) fn find(name: &str) -> Result<ModelFiles> {
    let name = &environment::expand_home(name);
    let mut fetching = Fetching::new();
    let files = hub::resolve(name, &environment::hub_options()?, &mut |event| fetching.show(event));
    fetching.progress.end();
    files.map_err(|e| match e {
        EngineError::ModelName { .. } if is_nearly_built_in(name) => {
            anyhow!("`{name}` is not a model; did you mean {}, the demo in this program?", built_in::NAME)
        }
        other => other.into(),
    })
}

fn is_nearly_built_in(name: &str) -> bool {
    let names = [built_in::NAME.to_owned()].into_iter();
    built_in::HAS_MODEL && hub::most_similar(name.trim_end_matches('/'), names).is_some()
}

/// Shows what happens while files are fetched: one bar over all of them, and a line for each thing
/// worth knowing.
struct Fetching {
    progress: Progress,
    /// Bytes of all files that are to come, of those that are complete, and of the one that comes
    /// now.
    total: u64,
    complete: u64,
    current: u64,
}

impl Fetching {
    fn new() -> Self {
        Self { progress: Progress::new("fetching"), total: 0, complete: 0, current: 0 }
    }

    fn show(&mut self, event: HubEvent<'_>) {
        let progress = &self.progress;
        match event {
            HubEvent::Planned { total, .. } => self.total = total,
            HubEvent::Progress { file, done, .. } => {
                self.current = done;
                progress.name(file);
            }
            HubEvent::Fetched { file, total } => {
                self.complete += total;
                self.current = 0;
                progress.aside(|| note!("fetched {file} ({})", human::bytes(total)));
            }
            HubEvent::Retrying { what, reason, delay } => {
                let delay = human::seconds(delay.as_secs_f64());
                progress.aside(|| note!("{what}: {reason}; trying again in {delay}"));
            }
            HubEvent::Waiting { file } => {
                progress.aside(|| note!("waiting for another process that fetches {file}"));
            }
            HubEvent::UsingCache { reason } => {
                progress.aside(|| note!("the hub cannot be reached ({reason}): using the cached files"));
            }
            _ => {}
        }
        self.progress.set(self.complete + self.current, self.total);
    }
}

/// Opens the model and loads it for so many of `num_requests` at once as `max_num_seqs` or the
/// backend's default says. What `sampling` says of tokens that the model does not have is refused
/// before its weights are read.
pub(crate) fn start(
    args: &ModelArgs,
    sampling: &SamplingArgs,
    max_num_seqs: Option<usize>,
    num_requests: usize,
) -> Result<(Engine, Arc<Model>)> {
    let options = backends::load_options(&args.load, max_num_seqs);
    let options = LoadOptions { expected_requests: Some(num_requests), ..options };
    load(args, options, |model| Ok(sampling.check_tokens(model)?))
}

/// As [`start`], without sampling and with options of the caller's making.
pub(crate) fn start_with(args: &ModelArgs, options: LoadOptions) -> Result<(Engine, Arc<Model>)> {
    load(args, options, |_| Ok(()))
}

/// Opens the model, has it checked, and loads its weights.
fn load(
    args: &ModelArgs,
    options: LoadOptions,
    check: impl FnOnce(&Model) -> Result<()>,
) -> Result<(Engine, Arc<Model>)> {
    let model = open(args.model.as_deref())?;
    check(&model)?;
    let model = Arc::new(prepare(model, &args.load)?);
    let bar = Progress::new("loading");
    let shown = bar.clone();
    let asked = options.max_model_len;
    let progress = move |LoadProgress { done, total }: LoadProgress| shown.set(done as u64, total as u64);
    let engine = Engine::builder(Arc::clone(&model), backends::factory(&args.load.device))
        .options(options)
        .progress(progress)
        .start();
    bar.end();
    let engine = engine?;
    note_context(&model, asked, engine.info()?.limits.context);
    Ok((engine, model))
}

/// Says that a context is less than the model's, if nobody asked for that.
pub(crate) fn note_context(model: &Model, asked: Option<usize>, context: usize) {
    if asked.is_none() && context < model.spec.max_positions {
        let all = human::count(model.spec.max_positions, "token");
        note!("a context of {all} does not fit in memory: it is lowered to {context} (--max-model-len)");
    }
}

/// Applies `--quantize` and `--expand`.
pub(crate) fn prepare(model: Model, args: &LoadArgs) -> Result<Model> {
    let mut model = quantize(model, &args.quantize)?;
    for stem in &args.expand {
        if !model.spec.expand(stem)? {
            anyhow::bail!(
                "--expand {stem}: this model has no fused op of that name; fused ops are {}",
                nvllm_core::Op::FUSED.join(", ")
            );
        }
    }
    Ok(model)
}

/// Applies `--quantize`.
pub(crate) fn quantize(model: Model, args: &QuantizeArgs) -> Result<Model> {
    match args.recipe() {
        Some(recipe) => Ok(model.quantize(&recipe)?),
        None => Ok(model),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_a_hub_is_called_as_it_was_asked_for() {
        let found = || HubId::parse("org/name:Q4_K_M@main").unwrap();
        for (given, name) in [
            ("org/name", "org/name"),
            ("org/name@v1", "org/name"),
            ("org/name:Q8_0@v1", "org/name:Q8_0"),
            ("https://huggingface.co/org/name/blob/main/q4_k_m.gguf", "org/name:Q4_K_M"),
        ] {
            assert_eq!(hub_name(given, found()), name, "{given}");
        }
    }
}
