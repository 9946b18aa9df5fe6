//! `/metrics`, `/healthz`, `/readyz`. No secret passes here; still it listens on the loopback unless told otherwise.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lifeboat_engine::Result;
use lifeboat_engine::error::{Class, Context};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the endpoint asks the daemon.
pub(crate) trait Health: Send + Sync + 'static {
    /// The metrics page.
    fn metrics(&self) -> Result<String>;
    /// Why the process is not healthy: its loop stands still.
    fn unhealthy(&self) -> Option<String>;
    /// Why a backup could not succeed now.
    fn unready(&self) -> Option<String>;
}

/// Binds the endpoint.
///
/// # Errors
/// [`Class::Configuration`]: the address is taken or not ours.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .context(Class::Configuration, || format!("cannot listen on {address}"))
        .map_err(|error| error.hint("another program uses the port: correct `listen`"))
}

/// Answers until `stop` fires.
pub(crate) async fn serve(listener: TcpListener, health: Arc<dyn Health>, stop: CancellationToken) {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|State(health): State<Arc<dyn Health>>| async move { verdict(health.unhealthy()) }))
        .route("/readyz", get(|State(health): State<Arc<dyn Health>>| async move { verdict(health.unready()) }))
        .with_state(health);
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the endpoint has ended");
    }
}

async fn metrics(State(health): State<Arc<dyn Health>>) -> Response {
    match health.metrics() {
        Ok(page) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.chain()).into_response(),
    }
}

fn verdict(problem: Option<String>) -> Response {
    match problem {
        None => (StatusCode::OK, "ok\n".to_owned()).into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Sick;

    impl Health for Sick {
        fn metrics(&self) -> Result<String> {
            Ok("lifeboat_build_info 1\n".to_owned())
        }
        fn unhealthy(&self) -> Option<String> {
            None
        }
        fn unready(&self) -> Option<String> {
            Some("1 of 2 replicas answer".to_owned())
        }
    }

    #[tokio::test]
    async fn answers_each_path_with_its_verdict() {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Arc::new(Sick), stop.clone()));
        for (path, code, said) in [
            ("/metrics", "200", "lifeboat_build_info 1"),
            ("/healthz", "200", "ok"),
            ("/readyz", "503", "1 of 2 replicas"),
            ("/etc/passwd", "404", ""),
        ] {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {code}")) && answer.contains(said), "{path}: {answer}");
        }
        stop.cancel();
        server.await.unwrap();
    }
}
