//! The listening socket and the life of a server: it answers from its first moment, takes requests
//! once it has a model, drains, and ends.

mod connection;
mod options;
mod phase;
mod timed;
mod tls;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Version, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use socket2::{Domain, Socket, Type};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use crate::gate::Gate;
use crate::generator::Generator as _;
use crate::in_flight::InFlight;
use crate::limits::BodyLimits;
use crate::routes::messages::errors_in_own_form;
use crate::traces::Traces;
use crate::{auth, observe};

pub(crate) use connection::Busy;
pub use options::ServerOptions;
use phase::{FINAL_WRITE_TIMEOUT, Phase, reached};
pub use tls::TlsFiles;

/// Connections that wait to be accepted at most: more than a burst of clients opens at once.
const BACKLOG: i32 = 4096;

/// Listens on an address.
///
/// Errors if that cannot be had, as when another server listens there.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A server that was ended may be started again at once.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A server that runs. Dropping it ends it in the middle of whatever it does.
#[derive(Debug)]
pub struct Server {
    gate: Arc<Gate>,
    phase: watch::Sender<Phase>,
    address: SocketAddr,
    traces: Option<Arc<Traces>>,
    accepting: tokio::task::JoinHandle<()>,
    runtime: Runtime,
}

/// What all of a server's connections share.
#[derive(Debug)]
struct Shared {
    gate: Arc<Gate>,
    options: Arc<ServerOptions>,
    body_limits: BodyLimits,
    phase: watch::Receiver<Phase>,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were ended before their answer was complete.
    pub aborted: usize,
}

impl Server {
    /// Serves on `listener`, on threads of its own. Until [`open`](Self::open) is called every
    /// answer says that the model is being loaded.
    ///
    /// Errors if the threads cannot be started, or the options name files or origins that cannot
    /// be used.
    pub fn start(listener: TcpListener, options: ServerOptions) -> io::Result<Self> {
        let cors = cors(&options.allowed_origins)?;
        let tls = options.tls.as_ref().map(TlsFiles::acceptor).transpose()?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("nvllm-http").build()?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _in_runtime = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (phase, watched) = watch::channel(Phase::Serving);
        let gate = Arc::new(Gate::default());
        let traces = options.traces.clone();
        let shared = Arc::new(Shared {
            gate: Arc::clone(&gate),
            body_limits: BodyLimits::new(&options),
            options: Arc::new(options),
            phase: watched,
        });
        let acceptor = connection::Acceptor {
            router: router(&shared, cors),
            tls,
            header_timeout: shared.options.header_timeout,
            write_timeout: shared.options.write_timeout,
            phase: shared.phase.clone(),
        };
        let accepting = runtime.spawn(accept(listener, acceptor));
        Ok(Self { gate, phase, address, traces, accepting, runtime })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves these routes from now on; the first call counts.
    pub fn open(&self, router: Router) {
        self.gate.open(router);
    }

    /// Ends the server, and waits for that. Requests that run have `timeout` for their end; what
    /// then still runs is aborted and told. Meanwhile new requests are refused, with the advice to
    /// try elsewhere.
    pub fn shut_down(self, in_flight: &InFlight, timeout: Duration) -> Drained {
        in_flight.drain();
        self.phase.send_replace(Phase::Draining);
        let Self { phase, accepting, traces, runtime, .. } = self;
        let aborted = runtime.block_on(async {
            let begun = tokio::time::Instant::now();
            let idle = tokio::time::timeout(timeout, in_flight.wait_until_idle()).await;
            let aborted = if idle.is_ok() { 0 } else { in_flight.abort_all() };
            phase.send_replace(Phase::Closing);
            let left = timeout.saturating_sub(begun.elapsed()).max(FINAL_WRITE_TIMEOUT);
            let _ = tokio::time::timeout(left, accepting).await;
            aborted
        });
        runtime.shutdown_timeout(Duration::from_millis(100));
        if let Some(traces) = traces {
            traces.finish();
        }
        Drained { aborted }
    }
}

/// What every request goes through, whatever it asks for: from the outermost layer on, its name and
/// log line, the rules for web pages, its API key, its body.
fn router(shared: &Arc<Shared>, cors: CorsLayer) -> Router {
    let keys = Arc::clone(&shared.options.api_keys);
    Router::new()
        .fallback(answer)
        .with_state(Arc::clone(shared))
        .layer(from_fn_with_state(keys, auth::check))
        // Around the routes' own: it is the outermost that sees all errors, see there.
        .layer(from_fn(errors_in_own_form))
        .layer(cors)
        .layer(from_fn_with_state(Arc::clone(&shared.options), observe::observe))
        .layer(from_fn_with_state(shared.phase.clone(), end_connection))
}

async fn answer(State(shared): State<Arc<Shared>>, mut request: Request) -> Response {
    request.extensions_mut().insert(shared.body_limits.clone());
    shared.gate.answer(request).await
}

/// Once the server drains, each answer is the last on its connection. HTTP/2 says so otherwise.
async fn end_connection(
    State(phase): State<watch::Receiver<Phase>>,
    request: Request,
    next: Next,
) -> Response {
    let is_http1 = request.version() < Version::HTTP_2;
    let mut response = next.run(request).await;
    if is_http1 && *phase.borrow() >= Phase::Draining {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Takes connections until the server closes, then waits for the last to end.
async fn accept(listener: tokio::net::TcpListener, acceptor: connection::Acceptor) {
    let acceptor = Arc::new(acceptor);
    let closing = reached(acceptor.phase.clone(), Phase::Closing);
    tokio::pin!(closing);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut closing => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection::serve(stream, peer, Arc::clone(&acceptor)));
                }
                // Of one connection, or there are too many: neither gets better by haste.
                Err(error) => {
                    tracing::warn!("a connection cannot be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// What web pages of these origins may do: all but to send cookies.
fn cors(origins: &[String]) -> io::Result<CorsLayer> {
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let parse = |origin: &String| {
            HeaderValue::from_str(origin).map_err(|_| {
                let problem =
                    format!("--allowed-origins has {origin:?}; give origins as in https://example.org");
                io::Error::new(io::ErrorKind::InvalidInput, problem)
            })
        };
        AllowOrigin::list(origins.iter().map(parse).collect::<io::Result<Vec<_>>>()?)
    };
    Ok(CorsLayer::new()
        .allow_origin(origin)
        .allow_methods(AllowMethods::any())
        // Not `*`, which does not cover `Authorization`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([observe::REQUEST_ID, header::RETRY_AFTER]))
}
