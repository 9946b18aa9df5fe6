//! The HTTP endpoint: `/metrics`, `/healthz` (the loop turns), `/readyz` (a backup could succeed
//! now).
//!
//! It shows no secret and takes no input. Bind it to the loopback or a network that Prometheus
//! reaches; there, `listen_tls` keeps others out.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use lifeboat_engine::base::{Class, Context, Result};
use tokio_util::sync::CancellationToken;

use crate::live::Live;

/// Serves until `stop` fires.
///
/// # Errors
/// The listener fails.
pub(crate) async fn serve<L>(listener: L, live: Arc<Live>, stop: CancellationToken) -> Result<()>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(live);
    // Connections that are kept alive must not hold up the end.
    tokio::select! {
        served = async { axum::serve(listener, router).await } => served.context(Class::Failed, || "the metrics endpoint failed"),
        () = stop.cancelled() => Ok(()),
    }
}

async fn metrics(State(live): State<Arc<Live>>) -> Response {
    match live.metrics() {
        Ok(page) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", error.chain())).into_response(),
    }
}

async fn healthz(State(live): State<Arc<Live>>) -> (StatusCode, &'static str) {
    if live.is_healthy() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the scheduler hangs; restart lifeboatd\n")
    }
}

async fn readyz(State(live): State<Arc<Live>>) -> (StatusCode, String) {
    match live.unready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
