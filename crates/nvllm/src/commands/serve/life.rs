//! A server from its socket to its exit code.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context as _, Result};
use nvllm_engine::{Engine, LoadOptions, LoadProgress, Model};
use nvllm_serve::{ApiKeys, Generator, InFlight, Server};

use super::args::Serve;
use super::notify::{self, State};
use crate::flags::LoadArgs;
use crate::interrupt::{Interrupted, Listener};
use crate::output::note;
use crate::progress::Progress;
use crate::words::printable;
use crate::{backends, human, models};

/// What happens while a server lives.
enum ServerEvent {
    /// The model is known, and its weights are being read.
    Opened { model: Arc<Model>, name: Option<String>, in_flight: Arc<InFlight> },
    /// Requests are taken.
    Loaded { model: Arc<Model> },
    /// There will be no model.
    Failed(anyhow::Error),
    /// Somebody wants the server to end.
    ShutdownRequested { by_ctrl_c: bool },
}

pub(crate) fn run(args: &Serve) -> Result<()> {
    // What can be wrong without a model is said before one is fetched.
    let served = args.served_options()?;
    let options = args.server_options()?;
    let keys = Arc::clone(&options.api_keys);
    let address = address(&args.address.host, args.address.port)?;
    let listener = nvllm_serve::bind(address)
        .with_context(|| format!("cannot listen on {address}; give another --port or --host"))?;
    allow_many_connections();
    let server = Server::start(listener, options)?;
    let url = format!("{}://{}", args.scheme(), reachable(server.address()));
    let (sender, events) = channel();
    let _listener = Listener::start();
    watch_signals(&sender)?;
    notify::notify(&[State::Status("loading the model")]);
    note!("listening on {url}, loading the model");
    let loading = Loading {
        model: args.model_name().map(str::to_owned),
        args: args.model.load.clone(),
        options: args.load_options(&keys.names()),
    };
    std::thread::Builder::new()
        .name("nvllm-load".into())
        .spawn(move || loading.run(&sender))
        .context("a thread cannot be started")?;
    let mut served = Some(served);
    let mut requests = None;
    loop {
        match events.recv().context("the thread that loads the model has failed")? {
            ServerEvent::Opened { model, name, in_flight } => {
                let generator: Arc<dyn Generator> = Arc::clone(&in_flight) as _;
                let mut served = served.take().unwrap_or_default();
                if served.names.is_empty() {
                    served.names.extend(name);
                }
                server.open(nvllm_serve::router(&model, served, generator)?);
                share_by_names(args, &keys, &in_flight);
                requests = Some(in_flight);
            }
            ServerEvent::Loaded { model } => {
                welcome(&model, &url);
                let status = format!("serving {} on {url}", model.name);
                notify::notify(&[State::Ready, State::Status(&status)]);
            }
            ServerEvent::Failed(error) => return Err(error),
            ServerEvent::ShutdownRequested { by_ctrl_c } => {
                notify::notify(&[State::Stopping, State::Status("waiting for requests to end")]);
                let Some(in_flight) = requests else {
                    // Nothing was promised to anybody.
                    return if by_ctrl_c { Err(Interrupted.into()) } else { Ok(()) };
                };
                end(args, server, &in_flight);
                return Ok(());
            }
        }
    }
}

/// Divides the queue between the tenants that are given and those whose keys there are, now and
/// whenever the file of keys has changed.
fn share_by_names(args: &Serve, keys: &ApiKeys, in_flight: &Arc<InFlight>) {
    let given = args.given_tenants();
    // The keys outlive the engine.
    let in_flight = Arc::downgrade(in_flight);
    keys.on_change(move |names| {
        if let Some(in_flight) = in_flight.upgrade() {
            in_flight.retain_tenants(&[&given[..], names].concat());
        }
    });
}

/// Ends the server, and says what became of its requests.
fn end(args: &Serve, server: Server, in_flight: &InFlight) {
    match in_flight.num_requests() {
        0 => note!("ending"),
        running => {
            let running = human::count(running, "request");
            note!("ending: {running} may run to the end, Ctrl-C ends at once");
        }
    }
    let drained = server.shut_down(in_flight, args.address.shutdown_timeout);
    if drained.aborted > 0 {
        let cut = human::count(drained.aborted, "request");
        note!("{cut} did not end in time (--shutdown-timeout) and had to be cut off");
    }
}

/// The model's way into the engine, on a thread of its own.
struct Loading {
    model: Option<String>,
    args: LoadArgs,
    options: LoadOptions,
}

impl Loading {
    /// Tells what happens. Nobody listens any more if that fails.
    fn run(self, events: &Sender<ServerEvent>) {
        if let Err(error) = self.load(events) {
            let _ = events.send(ServerEvent::Failed(error));
        }
    }

    fn load(self, events: &Sender<ServerEvent>) -> Result<()> {
        let (model, name) = models::open_served(self.model.as_deref())?;
        let model = Arc::new(models::prepare(model, &self.args)?);
        let bar = Progress::new("loading");
        let shown = bar.clone();
        let asked = self.options.max_model_len;
        let progress = move |LoadProgress { done, total }: LoadProgress| shown.set(done as u64, total as u64);
        let engine = Engine::builder(Arc::clone(&model), backends::factory(&self.args.device))
            .options(self.options)
            .progress(progress)
            .spawn()?;
        let engine = Arc::new(engine);
        let in_flight = Arc::new(InFlight::new(Arc::clone(&engine) as Arc<dyn Generator>));
        let _ = events.send(ServerEvent::Opened { model: Arc::clone(&model), name, in_flight });
        let loaded = engine.wait_until_loaded();
        bar.end();
        loaded?;
        models::note_context(&model, asked, engine.info()?.limits.context);
        let _ = events.send(ServerEvent::Loaded { model });
        Ok(())
    }
}

/// Says where the server is, and how to try it.
fn welcome(model: &Model, url: &str) {
    note!("serving {} on {url}", model.name);
    let (path, body) = if let Err(error) = model.tokenizer() {
        note!("text is refused, and token ids work: {}", printable(&error.to_string()));
        ("completions", r#"{"prompt": [1, 2, 3]}"#)
    } else if model.chat_template.is_some() {
        note!("open {url}/ in a browser to talk to it");
        ("chat/completions", r#"{"messages": [{"role": "user", "content": "Hello"}]}"#)
    } else {
        ("completions", r#"{"prompt": "Hello"}"#)
    };
    note!("try: curl {url}/v1/{path} -H 'content-type: application/json' -d '{body}'");
}

/// Takes as many open files as the process may have: each client is one, and shells give few.
pub(crate) fn allow_many_connections() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let all = rustix::process::Rlimit { current: limit.maximum, ..limit };
        if setrlimit(Resource::Nofile, all).is_err() {
            tracing::debug!("the limit of open files stays at {:?}", limit.current);
        }
    }
}

/// The first address of a host.
fn address(host: &str, port: u16) -> Result<SocketAddr> {
    let found = (host, port).to_socket_addrs().map(|mut addresses| addresses.next());
    found
        .with_context(|| format!("--host {host} has no address"))?
        .with_context(|| format!("--host {host} has no address; give one, as in 127.0.0.1 or 0.0.0.0"))
}

/// An address that clients of this machine can open.
fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        return format!("localhost:{}", address.port());
    }
    address.to_string()
}

/// Tells of Ctrl-C and SIGTERM.
#[cfg(unix)]
fn watch_signals(events: &Sender<ServerEvent>) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
    let events = events.clone();
    let watch = move || {
        for signal in signals.forever() {
            let _ = events.send(ServerEvent::ShutdownRequested { by_ctrl_c: signal == SIGINT });
        }
    };
    std::thread::Builder::new()
        .name("nvllm-signals".into())
        .spawn(watch)
        .context("a thread cannot be started")?;
    Ok(())
}

/// Tells of Ctrl-C.
#[cfg(not(unix))]
fn watch_signals(events: &Sender<ServerEvent>) -> Result<()> {
    let events = events.clone();
    let watch = move || {
        while !crate::interrupt::is_pressed() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let _ = events.send(ServerEvent::ShutdownRequested { by_ctrl_c: true });
    };
    std::thread::Builder::new()
        .name("nvllm-signals".into())
        .spawn(watch)
        .context("a thread cannot be started")?;
    Ok(())
}
