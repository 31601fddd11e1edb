//! One connection: its socket's options, the protocol that it speaks, and its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::phase::{FINAL_WRITE_TIMEOUT, Phase, reached};
use super::timed::Timed;

/// A peer that says nothing for so long is asked whether it is still there, this often and this
/// many times.
const KEEPALIVE_TIME: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;
/// Requests of one HTTP/2 connection that run at once: as many as a router sends.
const MAX_STREAMS: u32 = 4096;

/// What every connection is served with.
pub(super) struct Acceptor {
    pub(super) router: Router,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) header_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) phase: watch::Receiver<Phase>,
}

/// Serves one connection to its end. Whatever goes wrong on it is nobody else's business.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, acceptor: Arc<Acceptor>) {
    if let Err(error) = prepare(&stream, acceptor.write_timeout) {
        tracing::debug!("{peer}: its socket takes not all options: {error}");
    }
    let served = match &acceptor.tls {
        None => speak(stream, &acceptor).await,
        Some(tls) => match timeout(acceptor.header_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => speak(stream, &acceptor).await,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err("no TLS handshake came".into()),
        },
    };
    if let Err(error) = served {
        tracing::debug!("{peer}: {error}");
    }
}

/// Small chunks go at once; a peer that is gone without a word is noticed.
fn prepare(stream: &TcpStream, unsent: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    #[cfg(not(windows))]
    let keepalive = keepalive.with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(unsent))?;
    Ok(())
}

/// Held by each request of a connection until its answer is made.
#[derive(Clone, Default)]
pub(crate) struct Busy(Arc<()>);

impl Busy {
    /// Whether anybody holds it but the connection and its service.
    fn is_answering(&self) -> bool {
        Arc::strong_count(&self.0) > 2
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn speak<S>(stream: S, acceptor: &Acceptor) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stream = Timed::new(stream, acceptor.write_timeout);
    let at_least = |phase| reached(acceptor.phase.clone(), phase);
    let is_http2 = tokio::select! {
        looked = timeout(acceptor.header_timeout, stream.is_http2()) => match looked {
            Ok(Ok(is_http2)) => is_http2,
            // Connections that are opened ahead of need are closed in silence.
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err("no request came".into()),
        },
        () = at_least(Phase::Closing) => return Ok(()),
    };
    let io = TokioIo::new(stream);
    let busy = Busy::default();
    let (router, given) = (acceptor.router.clone(), busy.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(given.clone());
        router.clone().oneshot(request)
    });
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(Some(KEEPALIVE_TIME))
            .keep_alive_timeout(KEEPALIVE_INTERVAL);
        let connection = builder.serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            // Running requests go on, and the client knows that no other is taken here.
            () = at_least(Phase::Draining) => {}
        }
        connection.as_mut().graceful_shutdown();
        return Ok(connection.await?);
    }
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(acceptor.header_timeout);
    let connection = builder.serve_connection(io, service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        // Not before: a request that is on its way would be lost without an answer.
        () = at_least(Phase::Closing) => {}
    }
    connection.as_mut().graceful_shutdown();
    if busy.is_answering() {
        return Ok(connection.await?);
    }
    // Half a head may stand in its buffer, or the end of an answer.
    Ok(timeout(FINAL_WRITE_TIMEOUT, connection).await.unwrap_or(Ok(()))?)
}
