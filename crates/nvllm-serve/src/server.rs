//! The listening socket and the connections on it.

use std::future::Future;
use std::io;
use std::net::TcpListener;

use axum::Router;

/// Serves `router` on `listener` until `shutdown` is ready and the last answer is sent. Blocks.
///
/// Errors if the threads cannot be started or the listener fails.
pub fn serve(
    router: Router,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("nvllm-http").build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        axum::serve(listener, router).with_graceful_shutdown(shutdown).await
    })
}
