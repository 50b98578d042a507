//! Clients of the control socket: one task each, bounded in number, in request size and in
//! patience.

use super::api::{Api, Gone, Sink};
use super::protocol::{REQUEST_MAX, Request, Response};
use crate::base::text::printable;
use crate::net::unix::UnixSocket;
use crate::observe::node as tell;
use crate::store::Store;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Most clients at once; others wait in the system's accept queue.
pub const CLIENTS_MAX: usize = 32;
/// How long a client may be silent between requests, and how long it may leave an answer unread.
const PATIENCE: Duration = Duration::from_secs(300);
/// Wait after a failed accept (out of file descriptors, say), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves clients until `shutdown` comes; then answers under way are cut off.
pub async fn serve<S: Store>(socket: UnixSocket, api: Api<S>, shutdown: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut clients = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        while clients.try_join_next().is_some() {}
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (socket.listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = &mut shutdown => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let api = api.clone();
                let user = stream.peer_cred().ok().map(|peer| peer.uid());
                clients.spawn(async move {
                    let _place = place;
                    serve_one(stream, user, &api, PATIENCE).await;
                });
            }
            Err(error) => {
                tell::accept_failed("control", &error);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one client's requests, one after the other, until it leaves or tries `patience`. `user`:
/// the id of its user, where that is known.
pub async fn serve_one<S: Store>(
    stream: impl AsyncRead + AsyncWrite + Send,
    user: Option<u32>,
    api: &Api<S>,
    patience: Duration,
) {
    let (reader, writer) = tokio::io::split(stream);
    let mut reader = BufReader::new(reader);
    let mut lines = Lines { writer: BufWriter::new(writer), patience };
    while let Ok(Some(line)) = timeout(patience, read_line(&mut reader)).await {
        let answered = match serde_json::from_slice(&line) {
            Ok(request) => answer(api, request, user, &mut lines).await,
            Err(error) => {
                let sentence =
                    format!("not a request: {}", printable(error.to_string().as_bytes(), 300));
                lines.send(&Response::Error(sentence)).await
            }
        };
        if answered.is_err() || lines.flush().await.is_err() || line.len() >= REQUEST_MAX {
            return;
        }
    }
}

async fn answer<S: Store>(
    api: &Api<S>,
    request: Request,
    user: Option<u32>,
    lines: &mut Lines<impl AsyncWrite + Unpin + Send>,
) -> Result<(), Gone> {
    if request.is_change() {
        tell::requested(&serde_json::to_string(&request).unwrap_or_default());
    }
    api.answer(request, user, lines).await
}

/// One line, or the first [`REQUEST_MAX`] bytes of a longer one; `None` at the end.
async fn read_line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let read = reader.take(REQUEST_MAX as u64).read_until(b'\n', &mut line).await;
    read.is_ok_and(|n| n > 0).then_some(line)
}

/// Responses as lines of JSON.
struct Lines<W> {
    writer: BufWriter<W>,
    patience: Duration,
}

impl<W: AsyncWrite + Unpin + Send> Lines<W> {
    async fn flush(&mut self) -> Result<(), Gone> {
        match timeout(self.patience, self.writer.flush()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}

impl<W: AsyncWrite + Unpin + Send> Sink for Lines<W> {
    async fn send(&mut self, response: &Response) -> Result<(), Gone> {
        let mut line = serde_json::to_vec(response).map_err(|_| Gone)?;
        line.push(b'\n');
        match timeout(self.patience, self.writer.write_all(&line)).await {
            Ok(Ok(())) if matches!(response, Response::Progress(_)) => self.flush().await,
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}
