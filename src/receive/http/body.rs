//! The body of a request: so large, in so much time, with so much memory.

use super::problem::Problem;
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// A body of this size needs no room of its own: the limit on connections bounds such ones.
const SMALL: usize = 64 << 10;
/// Room that a growing body asks for at a time, in KiB.
const GROWTH_KIB: usize = 512;
/// How long it waits for room.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a body may take.
pub(super) struct Bounds<'a> {
    /// Bytes.
    pub(super) size: usize,
    /// From its first byte to its last.
    pub(super) time: Duration,
    /// Memory for all that is received, in KiB.
    pub(super) room: &'a Arc<Semaphore>,
    /// All of it.
    pub(super) room_kib: usize,
    /// Bytes of memory that are needed for each of the body's.
    pub(super) factor: usize,
}

/// A body, and the memory that it holds as long as it is worked on.
pub(super) struct Read {
    pub(super) bytes: Vec<u8>,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// Reads all of a body.
pub(super) async fn read(body: Incoming, bounds: &Bounds<'_>) -> Result<Read, Problem> {
    let read = timeout(bounds.time, read_all(body, bounds)).await;
    read.unwrap_or_else(|_| {
        let detail = format!("the request did not come in {} s", bounds.time.as_secs());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
    })
}

async fn read_all(mut body: Incoming, bounds: &Bounds<'_>) -> Result<Read, Problem> {
    let too_large = || {
        let detail = format!("the request is larger than {} bytes", bounds.size);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
            .remedy("send less; [limits] message_size of the node says how much it takes")
    };
    let size = bounds.size as u64;
    if body.size_hint().lower() > size {
        return Err(too_large());
    }
    let mut read = Read { bytes: Vec::new(), room: None };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("the request broke off: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if read.bytes.len() + data.len() > bounds.size {
            return Err(too_large());
        }
        make_room(&mut read, data.len(), bounds).await?;
        read.bytes.extend_from_slice(&data);
    }
    Ok(read)
}

/// Sees to it that the memory for `more` bytes is there.
async fn make_room(read: &mut Read, more: usize, bounds: &Bounds<'_>) -> Result<(), Problem> {
    let size = read.bytes.len() + more;
    if size <= SMALL {
        return Ok(());
    }
    let held = read.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    // A request that is allowed is not to wait for more than there is.
    let need = (size.saturating_mul(bounds.factor) / 1_024 + 1).min(bounds.room_kib);
    if need <= held {
        return Ok(());
    }
    grow(&mut read.room, (need - held).max(GROWTH_KIB), bounds).await
}

/// Takes so many KiB more of the memory, or what there is besides what is held.
pub(super) async fn grow(
    room: &mut Option<OwnedSemaphorePermit>,
    want: usize,
    bounds: &Bounds<'_>,
) -> Result<(), Problem> {
    let held = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let want = u32::try_from(want.min(bounds.room_kib.saturating_sub(held))).unwrap_or(u32::MAX);
    let more = timeout(PATIENCE, Arc::clone(bounds.room).acquire_many_owned(want)).await;
    match (more, &mut *room) {
        (Ok(Ok(more)), Some(room)) => room.merge(more),
        (Ok(Ok(more)), room) => *room = Some(more),
        _ => {
            let detail = "too many large messages at once";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
        }
    }
    Ok(())
}
