//! The other end: sends requests, reads responses, one at a time.

use super::protocol::{Request, Response};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf,
};

/// A connection to a node's control API.
pub struct Client<T> {
    reader: BufReader<ReadHalf<T>>,
    writer: WriteHalf<T>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed.
    #[error("lost the connection to the node: {0}")]
    Io(#[from] std::io::Error),
    /// It ended in the middle of an answer.
    #[error("the node closed the connection before its answer was complete")]
    Closed,
    /// Not what this build understands.
    #[error("the node's answer is not understood ({0}); is it of another version?")]
    Strange(String),
}

impl<T: AsyncRead + AsyncWrite> Client<T> {
    /// Speaks over `stream`.
    pub fn new(stream: T) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader: BufReader::new(reader), writer }
    }

    /// Sends a request; its answer is then read with [`Client::next`] up to `done` or `error`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line =
            serde_json::to_vec(request).map_err(|e| ClientError::Strange(e.to_string()))?;
        line.push(b'\n');
        Ok(self.writer.write_all(&line).await?)
    }

    /// The next line of the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next(&mut self) -> Result<Response, ClientError> {
        let mut line = Vec::new();
        if self.reader.read_until(b'\n', &mut line).await? == 0 {
            return Err(ClientError::Closed);
        }
        serde_json::from_slice(&line).map_err(|error| ClientError::Strange(error.to_string()))
    }
}
