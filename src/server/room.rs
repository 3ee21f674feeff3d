//! Room for request bodies: what the large ones together may hold in memory, from their first byte
//! until what they ask for is stored, whether or not their caller waits for it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, Code};

/// Bodies up to this size are read without asking: 10,000 connections hold at most 160 MiB so.
const FREE_BYTES: usize = 16 << 10;

/// What all larger bodies together may hold, in KiB: eight batches of the largest size.
const ALL_KIB: usize = 128 << 10;

/// The room that there is.
pub(super) struct Rooms(Arc<Semaphore>);

impl Rooms {
    /// All of it is free.
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(ALL_KIB)))
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

/// How many KiB more than `held_kib` a body of so many bytes needs; a small one needs none.
fn missing_kib(held_kib: usize, bytes: usize) -> u32 {
    let needed = if bytes <= FREE_BYTES { 0 } else { bytes.div_ceil(1024).min(ALL_KIB) };
    u32::try_from(needed.saturating_sub(held_kib)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
