//! The body of a request: so large, in so much time, with so much memory.

use super::problem::Problem;
use crate::receive::hold::{Depot, Hold};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

/// What a body may take.
pub(super) struct Bounds<'a> {
    /// Bytes.
    pub(super) size: usize,
    /// From its first byte to its last.
    pub(super) time: Duration,
    /// What all who receive share.
    pub(super) depot: &'a Arc<Depot>,
    /// Bytes of memory that are needed for each of the body's.
    pub(super) factor: usize,
    /// And for a body that was put on disk besides.
    pub(super) more: usize,
}

/// A body, and the memory that it holds as long as it is worked on.
pub(super) struct Read {
    pub(super) bytes: Vec<u8>,
    pub(super) memory: Option<OwnedSemaphorePermit>,
    /// Of that, there are [`Bounds::more`] bytes.
    pub(super) has_more: bool,
}

/// Reads all of a body.
pub(super) async fn read(body: Incoming, bounds: &Bounds<'_>) -> Result<Read, Problem> {
    let mut hold = Hold::new(bounds.depot, bounds.factor);
    let read = timeout(bounds.time, read_all(body, &mut hold, bounds.size)).await;
    let (put, rest) = read.unwrap_or_else(|_| {
        let detail = format!("the request did not come in {} s", bounds.time.as_secs());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
    })?;
    let whole = hold.whole(put, rest, bounds.more).await;
    let (bytes, memory) = whole.map_err(|refusal| Problem::from(&refusal))?;
    Ok(Read { bytes, memory, has_more: put > 0 })
}

/// Reads to the end. Gives how many bytes were put aside, and the rest.
async fn read_all(
    mut body: Incoming,
    hold: &mut Hold,
    most: usize,
) -> Result<(usize, Vec<u8>), Problem> {
    let too_large = || {
        let detail = format!("the request is larger than {most} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
            .remedy("send less; [limits] message_size of the node says how much it takes")
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let (mut put, mut bytes) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("the request broke off: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if put + bytes.len() + data.len() > most {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
        if !hold.fits(put, bytes.len()) {
            let part = std::mem::take(&mut bytes);
            let before = put;
            put += part.len();
            hold.put(before, part).await.map_err(|refusal| Problem::from(&refusal))?;
        }
    }
    Ok((put, bytes))
}
