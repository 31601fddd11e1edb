//! `nvllm serve`: an HTTP server that clients of `OpenAI`, Anthropic and vLLM can use.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use nvllm_engine::{Engine, LoadOptions};
use nvllm_serve::{Alias, Generator, ServedOptions};

use crate::flags::{ModelArgs, number};
use crate::output::note;
use crate::{backends, models};

#[derive(Args)]
pub(crate) struct Serve {
    /// The address to listen on; 0.0.0.0 for all.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// The port to listen on; 0 for any that is free.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Names that requests may call the model by; answers carry the first [default: the model's].
    #[arg(long, value_name = "NAME", num_args = 1..)]
    served_model_name: Vec<String>,
    /// Sequences that run at once [default: as many as suit the backend].
    #[arg(long, value_name = "N", value_parser = number::positive)]
    max_num_seqs: Option<usize>,
    /// Serve every metric under the name that it has in vLLM as well.
    #[arg(long, value_name = "NAME", value_parser = ["vllm"])]
    metrics_alias: Option<String>,
    /// Serve /v1/embeddings too: the hidden state of a text's last token.
    #[arg(long)]
    embeddings: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub(super) fn run(args: &Serve) -> Result<()> {
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}; give another --port or --host"))?;
    let model = Arc::new(models::open(args.model.model.as_deref())?);
    let options = backends::load_options(&args.model.load, args.max_num_seqs);
    let options = LoadOptions { embeddings: args.embeddings, ..options };
    let engine = Engine::builder(Arc::clone(&model), backends::factory(&args.model.load.device))
        .options(options)
        .spawn()?;
    let engine: Arc<dyn Generator> = Arc::new(engine);
    let served = ServedOptions {
        names: args.served_model_name.clone(),
        metrics_alias: args.metrics_alias.as_ref().map_or(Alias::Nothing, |_| Alias::Vllm),
        embeddings: args.embeddings,
        ..ServedOptions::default()
    };
    let router = nvllm_serve::router(&model, served, engine)?;
    note!("serving {} on http://{}", model.name, listener.local_addr()?);
    nvllm_serve::serve(router, listener, std::future::pending()).context("the server has stopped")
}
