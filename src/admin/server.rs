//! Accepts connections, with limits that keep a slow or greedy client from holding the server: axum's own `serve` has none.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections at a time; more have to wait in the kernel.
const CONNECTIONS_MAX: usize = 128;
/// How long the head of a request may take, a request of somebody unknown as a whole, and how long a connection may be idle.
pub(super) const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
/// The largest head of a request.
const HEAD_MAX: usize = 16 << 10;
/// How long a connection may last: viewers of the page come again by themselves.
const CONNECTION_LIFETIME: Duration = Duration::from_hours(1);
/// After an accept that failed: too many open files pass.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// Serves until it is dropped, which ends the connections, too.
pub(super) async fn serve(listener: TcpListener, routes: Router) -> Infallible {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { continue };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection to the admin server was not accepted");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let routes = routes.clone();
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(CLIENT_PATIENCE)
                .max_buf_size(HEAD_MAX)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
            // A client that went away, or took too long, is nobody's trouble.
            drop(timeout(CONNECTION_LIFETIME, connection).await);
            drop(place);
        });
    }
}
