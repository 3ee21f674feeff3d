//! What breaks, broken on purpose: the process, the power, the disk, the clock, the workers.
//!
//! One oracle judges what is left of a store against what its clients were told. `README.md` says
//! what is broken where, and how to repeat it for hours.

#![allow(clippy::unwrap_used, unreachable_pub)]

/// Shared with `tests/it`, which uses the rest of it.
#[allow(dead_code)]
#[path = "../it/bed.rs"]
mod bed;
#[allow(dead_code)]
#[path = "../it/fixture.rs"]
mod fixture;
#[allow(dead_code)]
#[path = "../it/mount.rs"]
mod mount;
#[allow(dead_code)]
#[path = "../it/processes.rs"]
mod processes;
#[allow(dead_code)]
#[path = "../it/receiver.rs"]
mod receiver;
#[allow(dead_code)]
#[path = "../it/stored.rs"]
mod stored;
#[path = "../it/strace.rs"]
mod strace;

mod breakages;
mod clock;
mod commands;
mod crash;
mod faults;
mod first_start;
mod hot_spots;
mod journal;
mod kills;
mod oracle;
mod power_cut;
mod recovery;
mod restart;
mod scrape;
mod zombies;
