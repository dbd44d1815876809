//! Connections whose protocol changes: bytes in both directions, until a side closes.

use std::io;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};

use crate::http::proxy::exchange::Exchange;

/// How many bytes are read at a time.
const BUFFER: usize = 16 << 10;

/// Passes bytes on when both connections have changed their protocol. Ends with the exchange.
pub(super) async fn tunnel(client: OnUpgrade, upstream: OnUpgrade, exchange: &Exchange) {
    let passing = async {
        let (client, upstream) = tokio::try_join!(client, upstream).map_err(io::Error::other)?;
        let (from_client, to_client) = split(TokioIo::new(client));
        let (from_upstream, to_upstream) = split(TokioIo::new(upstream));
        tokio::try_join!(pass(from_client, to_upstream, exchange), pass(from_upstream, to_client, exchange),)?;
        io::Result::Ok(())
    };
    let ended = tokio::select! {
        ended = passing => ended,
        () = exchange.stop().cancelled() => Err(io::Error::other("the exchange has ended")),
    };
    if let Err(error) = ended {
        tracing::debug!("an upgraded connection ended: {error}");
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    exchange: &Exchange,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        exchange.note_progress();
        let Some(bytes @ [_, ..]) = buffer.get(..read) else {
            return to.shutdown().await;
        };
        to.write_all(bytes).await?;
        to.flush().await?;
        exchange.note_progress();
    }
}
