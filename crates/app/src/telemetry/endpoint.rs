//! `/metrics`, `/live` and `/ready` over HTTP.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TextEncoder};

use super::health::Health;

#[derive(Debug, Clone)]
struct Served {
    registry: Registry,
    health: Health,
}

/// Serves until the process ends; returns the address that was bound (the port may have been 0).
pub(super) async fn start(listen: &str, registry: Registry, health: Health) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/live", get(async |State(served): State<Served>| probe(served.health.live())))
        .route("/ready", get(async |State(served): State<Served>| probe(served.health.ready())))
        .with_state(Served { registry, health });
    drop(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the telemetry endpoint stopped");
        }
    }));
    Ok(address)
}

async fn metrics(State(served): State<Served>) -> Response {
    match TextEncoder::new().encode_to_string(&served.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn probe((well, text): (bool, String)) -> Response {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, text).into_response()
}
