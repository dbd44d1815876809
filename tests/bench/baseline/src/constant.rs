//! The least that a server with axum does: one route with a constant answer.

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;

/// Serves `GET /api/v3/verify` with the threads that the server has by default.
pub(crate) fn serve(address: &str) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let listener = TcpListener::bind(address).await.unwrap();
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        let router = Router::new().route("/api/v3/verify", get(async || "ok"));
        axum::serve(listener, router).await.unwrap();
    });
}
