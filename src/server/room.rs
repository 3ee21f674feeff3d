//! Room for what is large: how much all large requests, and all large answers, may hold in memory.
//!
//! A request holds room from its first byte until what it asks for is stored, whether or not its caller
//! waits for it, and then until the answer is taken. An answer that nothing was changed for is refused
//! if there is no room for it; one that tells of a change must not be, and has its room before.

use std::sync::Arc;

use axum::body::HttpBody;
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, Code};
use super::held::Held;

/// Bodies up to this size need no room: 10,000 connections hold at most 160 MiB so.
const FREE_BYTES: usize = 16 << 10;

/// What all larger requests together may hold, and all larger answers, in KiB: eight batches of the
/// largest size.
const ALL_KIB: usize = 128 << 10;

/// With less room than that, nothing is begun whose answer may be large: a job with its payload.
const LEAST_KIB: usize = 1 << 10;

/// The room that there is.
pub(super) struct Rooms(Arc<Semaphore>);

impl Rooms {
    /// All of it is free.
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(ALL_KIB)))
    }

    /// Refuses when there is hardly any: what would be begun could not be answered.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        if self.0.available_permits() < LEAST_KIB { Err(too_busy()) } else { Ok(()) }
    }

    /// Room for one body, which holds as much of it as has come.
    pub(super) fn enter(&self) -> Room {
        Room { all: self.0.clone(), held: None }
    }
}

/// The room of one body, given back when it is dropped.
pub(super) struct Room {
    all: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Room for what has come so far. Refused if there is none: bodies that wait for each other
    /// half way would all wait until they are too late, and one that reserved what it only says
    /// it has could hold all room without sending anything.
    pub(super) fn cover(&mut self, bytes: usize) -> Result<(), ApiError> {
        let kib = missing_kib(self.held_kib(), bytes);
        if kib == 0 {
            return Ok(());
        }
        let more = self.all.clone().try_acquire_many_owned(kib).map_err(|_| too_busy())?;
        self.take(more);
        Ok(())
    }

    /// The same for an answer that nothing was changed for, which then holds it until it is taken.
    pub(super) fn cover_answer(mut self, answer: Response) -> Result<Response, ApiError> {
        self.cover(length(&answer))?;
        Ok(self.around(answer))
    }

    /// Has an answer hold it until it is taken, and what room there is if it needs more.
    pub(super) fn around(mut self, answer: Response) -> Response {
        let bytes = length(&answer);
        if bytes <= FREE_BYTES {
            return answer;
        }
        // It tells of a change, and is as long as its request or a few times that.
        drop(self.cover(bytes));
        self.shrink(bytes);
        answer.map(|body| Held::around(body, self, drop))
    }

    /// Gives back what is not needed for so many bytes.
    fn shrink(&mut self, bytes: usize) {
        let spare = self.held_kib().saturating_sub(bytes.div_ceil(1024));
        drop(self.held.as_mut().and_then(|held| held.split(spare)));
    }

    /// Whether it holds nothing: its body is a small one.
    pub(super) fn is_free(&self) -> bool {
        self.held.is_none()
    }

    fn held_kib(&self) -> usize {
        self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    fn take(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
    }
}

fn too_busy() -> ApiError {
    ApiError::new(Code::ServerBusy, "too many large bodies at once; send it again later")
}

/// The bytes of an answer's body: they are all in memory.
fn length(answer: &Response) -> usize {
    let bytes = answer.body().size_hint().exact().unwrap_or_default();
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// How many KiB more than `held_kib` a body of so many bytes needs; a small one needs none.
fn missing_kib(held_kib: usize, bytes: usize) -> u32 {
    let needed = if bytes <= FREE_BYTES { 0 } else { bytes.div_ceil(1024).min(ALL_KIB) };
    u32::try_from(needed.saturating_sub(held_kib)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http_body_util::BodyExt;

    const MIB: usize = 1 << 20;

    #[test]
    fn small_bodies_need_no_room_and_large_ones_give_theirs_back() {
        let rooms = Rooms::new();
        let (mut all, mut small) = (rooms.enter(), rooms.enter());
        assert_eq!(all.cover(128 * MIB), Ok(()));
        assert_eq!(small.cover(FREE_BYTES), Ok(()));
        assert_eq!(small.cover(FREE_BYTES + 1).map_err(|e| e.code), Err(Code::ServerBusy));
        drop(all);
        assert_eq!(small.cover(FREE_BYTES + 1), Ok(()));
        assert_eq!(small.held_kib(), 17);
    }

    #[test]
    fn a_body_holds_what_has_come() {
        let rooms = Rooms::new();
        let mut room = rooms.enter();
        for bytes in [100, MIB, MIB + 1, 3 * MIB] {
            assert_eq!(room.cover(bytes), Ok(()));
        }
        assert_eq!(room.held_kib(), 3 << 10);
        assert_eq!(rooms.0.available_permits(), ALL_KIB - (3 << 10));
    }

    fn answer(bytes: usize) -> Response {
        Response::new(Body::from(vec![b'x'; bytes]))
    }

    #[tokio::test]
    async fn an_answer_holds_what_it_needs_until_it_is_taken() {
        let rooms = Rooms::new();
        let free = || rooms.0.available_permits();
        let mut before = rooms.enter();
        before.cover(2 * MIB).expect("all is free");
        let told = before.around(answer(MIB));
        assert_eq!(free(), ALL_KIB - (1 << 10), "as much as it needs");
        let read = rooms.enter().cover_answer(answer(MIB)).expect("there is room");
        assert_eq!(free(), ALL_KIB - (2 << 10));
        told.into_body().collect().await.expect("it is whole");
        drop(read);
        assert_eq!(free(), ALL_KIB);
    }

    #[test]
    fn what_tells_of_a_change_is_answered_without_room_and_nothing_else() {
        let rooms = Rooms::new();
        let mut all = rooms.enter();
        all.cover(128 * MIB).expect("all is free");
        assert_eq!(rooms.check().map_err(|refused| refused.code), Err(Code::ServerBusy));
        let refused = rooms.enter().cover_answer(answer(MIB)).expect_err("there is none");
        assert_eq!(refused.code, Code::ServerBusy);
        assert!(rooms.enter().cover_answer(answer(FREE_BYTES)).is_ok(), "a small one");
        assert_eq!(length(&rooms.enter().around(answer(MIB))), MIB);
        drop(all);
        assert_eq!(rooms.check(), Ok(()));
    }
}
