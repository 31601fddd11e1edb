//! From a model's name to an engine that runs it, with progress on the terminal.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use nvllm_engine::hub::{self, HubEvent};
use nvllm_engine::{Engine, LoadOptions, LoadProgress, Model};

use crate::flags::{LoadArgs, ModelArgs};
use crate::{backends, built_in, environment};

/// Opens the named model, fetching it first if need be; the embedded one if none is named.
pub(crate) fn open(name: Option<&str>) -> Result<Model> {
    let Some(name) = name else { return built_in::open() };
    let bar = bytes_bar();
    let mut showing = String::new();
    let files = hub::resolve(name, &environment::hub_options(), &mut |event| match event {
        HubEvent::Progress { file, done, total } => {
            if showing != file {
                showing = file.into();
                bar.set_message(showing.clone());
                bar.reset();
            }
            bar.set_length(total);
            bar.set_position(done);
        }
        HubEvent::Fetched { file, total } => bar.println(format!("fetched {file} ({total} bytes)")),
        HubEvent::Retrying { what, reason, delay } => {
            bar.println(format!("{what}: {reason}; trying again in {:.1} s", delay.as_secs_f64()));
        }
        HubEvent::Waiting { file } => bar.println(format!("waiting for another process that fetches {file}")),
        HubEvent::UsingCache { reason } => {
            bar.println(format!("the hub cannot be reached ({reason}): using the cached files"));
        }
        _ => {}
    });
    bar.finish_and_clear();
    Ok(Model::open(&files?)?)
}

/// Opens the model and loads it for `max_num_seqs` sequences.
pub(crate) fn start(args: &ModelArgs, max_num_seqs: usize) -> Result<(Engine, Arc<Model>)> {
    let options = backends::load_options(&args.load, max_num_seqs);
    start_with(args, options)
}

/// As [`start`], with options of the caller's making.
pub(crate) fn start_with(args: &ModelArgs, options: LoadOptions) -> Result<(Engine, Arc<Model>)> {
    let mut model = open(args.model.as_deref())?;
    expand(&mut model, &args.load)?;
    let model = Arc::new(model);
    let bar = bytes_bar();
    bar.set_message("loading");
    let shown = bar.clone();
    let progress = move |LoadProgress { done, total }: LoadProgress| {
        shown.set_length(total as u64);
        shown.set_position(done as u64);
    };
    let engine = Engine::start(backends::factory(&args.load.device), Arc::clone(&model), options, progress);
    bar.finish_and_clear();
    Ok((engine?, model))
}

/// Applies `--expand`.
pub(crate) fn expand(model: &mut Model, args: &LoadArgs) -> Result<()> {
    for stem in &args.expand {
        if !model.spec.expand(stem)? {
            anyhow::bail!(
                "--expand {stem}: this model has no fused op of that name; fused ops are {}",
                nvllm_core::Op::FUSED.join(", ")
            );
        }
    }
    Ok(())
}

/// A bar that appears only if the work takes long enough to be noticed.
fn bytes_bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    let template = "{msg} {bar:40} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
