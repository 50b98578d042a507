//! Whom queue verbs talk to: the running node, or the queue on disk where none runs.
//!
//! Both speak the control protocol: without a node, this process serves it to itself over the store
//! opened read-only. So there is one way that questions are answered.

use super::Failure;
use super::args::Common;
use crate::base::time::Clock;
use crate::config::{Config, Engine};
use crate::control::api::no_sites;
use crate::control::client::{Client, ClientError};
use crate::control::outlook::Terms;
use crate::control::protocol::{Counts, Request, Response};
use crate::control::{Api, serve_one};
use crate::store::embedded::EmbeddedStore;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Longest wait for a line of an answer; work that takes longer shows progress in between.
const PATIENCE: Duration = Duration::from_secs(120);
const SILENT: &str = "the node did not answer for two minutes; look at its log";

/// Bytes between the two ends of the protocol within one process.
const PIPE_BYTES: usize = 64 * 1024;

/// A stream of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A conversation with a node, or with the queue on disk.
pub(super) struct Node(Client<Box<dyn Stream>>);

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// What a verb that talks to a node begins with.
pub(super) fn begin(common: &Common) -> Result<(Config, Runtime), Failure> {
    let config = common.load().map_err(|errors| Failure::Usage(errors.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |error| Failure::Trouble(format!("cannot start: {error}"));
    runtime.map(|runtime| (config, runtime)).map_err(failed)
}

/// The node that runs on this configuration.
pub(super) async fn connect(config: &Config) -> Result<Node, Failure> {
    match dial(config).await? {
        Some(node) => Ok(node),
        None => Err(Failure::Usage(format!(
            "no node runs (nobody answers on {}); this needs one: start it with `bulkhead serve`",
            config.control.socket.display()
        ))),
    }
}

/// Who can answer questions: the node, or the queue on disk where none runs.
pub(super) async fn reader(config: &Config, clock: &Clock) -> Result<Node, Failure> {
    match dial(config).await? {
        Some(node) => Ok(node),
        None => offline(config, clock),
    }
}

/// Serves the control protocol to ourselves, over the queue on disk.
fn offline(config: &Config, clock: &Clock) -> Result<Node, Failure> {
    let dir = &config.data_dir;
    if config.store.engine == Engine::Memory {
        let sentence = "no node runs, and its queue was in memory: there is nothing to read";
        return Err(Failure::Usage(sentence.to_string()));
    }
    let store = EmbeddedStore::open_read_only(dir, clock.clone())
        .map_err(|error| Failure::Usage(format!("no node runs; {error}")))?;
    writeln!(io::stderr(), "bulkhead: no node runs; reading the queue in {}", dir.display())?;
    let terms = Arc::new(Terms::from(config)).into();
    let (node, sites) = (String::new(), no_sites());
    let api = Api {
        store,
        clock: clock.clone(),
        node,
        sites,
        terms,
        desk: None,
        reception: None,
        reload: None,
    };
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    // It waits for us as long as we wait for a pager: nobody else is kept from anything.
    tokio::spawn(async move { serve_one(far, None, &api, Duration::MAX).await });
    Ok(Node::over(near))
}

/// `None` where no node runs.
pub(super) async fn dial(config: &Config) -> Result<Option<Node>, Failure> {
    let path = &config.control.socket;
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Some(Node::over(stream))),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Ok(None),
            ErrorKind::PermissionDenied => Err(Failure::Usage(format!(
                "cannot connect to {}: permission denied; run this as the node's user",
                path.display()
            ))),
            _ => Err(Failure::Usage(format!("cannot connect to {}: {error}", path.display()))),
        },
    }
}

impl Node {
    fn over(stream: impl Stream + 'static) -> Self {
        Self(Client::new(Box::new(stream)))
    }

    /// Asks, gives each line of the answer to `each`, and returns what `done` says.
    pub(super) async fn ask(
        &mut self,
        request: &Request,
        mut each: impl FnMut(Response) -> Result<(), Failure>,
    ) -> Result<Counts, Failure> {
        self.0.send(request).await?;
        loop {
            let next = timeout(PATIENCE, self.0.next()).await;
            let Ok(next) = next else { return Err(Failure::Usage(SILENT.to_string())) };
            match next? {
                Response::Done(counts) => return Ok(counts),
                Response::Error(sentence) => return Err(Failure::Trouble(sentence)),
                response => each(response)?,
            }
        }
    }
}
