//! The power is cut at any moment: what was acknowledged is there when the store opens again.
//!
//! ```text
//! callers ─> store ─> SQLite ─> recording VFS ─> history: writes, cuts, syncs, deletes,
//!    └───── what they are told ─────────────────>         and what was told, in one order
//!
//! history ─> disk after N events ─> image, drawn by lot ─> Store::open ─> oracle
//! ```
//!
//! # What a power cut leaves
//!
//! * Of a file: all that was written and cut before its last sync, and of the later changes any,
//!   in their order. A write may be torn at 512 bytes: any of the sectors that it touches are on
//!   disk. A file may be as long as a lost write made it, and holds zeros or noise there.
//! * Of a name: what it was when the directory was last synced, or after any later change of it, in
//!   their order. So a new file may be missing, and a deleted one may be back with all its content.
//!   SQLite syncs the directory behind the first sync of a log or journal that it has made.
//! * Of the index of the log: nothing. The lock and the reserve stay; what they hold says nothing.
//!
//! That is what POSIX allows, but for what SQLite takes for granted in its usual build: a write that
//! is torn does no harm to bytes beside it (`SQLITE_IOCAP_POWERSAFE_OVERWRITE`). It is stricter than
//! a real disk, where a sector holds all or nothing of what the page cache had for it.
//!
//! # What the recorder does not see
//!
//! The store syncs some files itself, beside SQLite: the database in the checkpoint thread, its
//! directory when it is made, copies before a migration and in a backup. Here the first two did not
//! happen. That is stricter again, and right: by SQLite's own rules the log begins anew only after
//! a sync of the database by the checkpoint that copied the last of it, and the name of the database
//! is durable with that of the first journal. The thread's syncs make commits wait less; nothing
//! may depend on them. Copies are not recorded.

mod clients;
mod control;
mod disk;
mod histories;
mod judge;
mod recording;
mod vfs;

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tallyd::config::Config;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use self::disk::{Disk, Honest, Image, Loss};
use self::histories::{Before, Load};
use self::recording::History;
use crate::bed;
use crate::crash::seed;
use crate::fixture::scaled;

/// Images of one history, at least: each of its syncs has one.
const IMAGES: usize = 200;

/// Images of one history in which much is logged: they take longer.
const COPYING_IMAGES: usize = 30;

/// Within how many images a control must find something wrong.
const CONTROL_IMAGES: usize = 100;

/// A usual history; its log is copied at the next start, and when it is closed.
const USUAL: Load = Load { rounds: 8, error_bytes: 100, log_begins: 1 };

/// One whose log is copied by the thread as well.
const LONG: Load = Load { rounds: 8, error_bytes: 250_000, log_begins: 1 };

/// One whose log is copied by the writer in the end, and begins anew.
const LONGEST: Load = Load { rounds: 8, error_bytes: 1_200_000, log_begins: 2 };

/// An image that the oracle does not accept.
struct Violation {
    text: String,
    image: Image,
    told: String,
}

impl Violation {
    /// Keeps the image, with what callers had been told, and says where.
    fn keep(&self, seed: u64) -> PathBuf {
        let kept = std::env::temp_dir().join(format!("tallyd-power-cut-{seed}"));
        fs::create_dir_all(&kept).unwrap();
        disk::write(&self.image, &kept);
        fs::write(kept.join("told"), &self.told).unwrap();
        kept
    }
}

/// The numbers of the next images, as long as there shall be more.
struct Images {
    next: AtomicUsize,
    end: usize,
}

impl Images {
    fn until(end: usize) -> Self {
        Self { next: AtomicUsize::new(0), end }
    }

    fn next(&self) -> Option<usize> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.end).then_some(number)
    }

    fn are_over(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.end
    }

    /// After this no more are judged.
    fn stop(&self) {
        self.next.store(self.end, Ordering::Relaxed);
    }
}

/// Where histories are recorded, and images opened.
struct Place<'t> {
    config: Config,
    runtime: Runtime,
    directory: TempDir,
    seed: u64,
    honest: Honest,
    images: &'t Images,
}

impl<'t> Place<'t> {
    fn new(seed: u64, honest: Honest, images: &'t Images) -> Self {
        let directory = bed::directory();
        let path = directory.path().canonicalize().unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { config: histories::config(&path), runtime, directory, seed, honest, images }
    }

    /// Records a history and cuts it, and then one that goes on after one of its cuts.
    fn cut_history(&self, number: u64) -> Result<(), Violation> {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_add(number));
        disk::write(&Image::new(), self.directory.path());
        match number % 100 {
            1 => return self.cut_copying(LONGEST, &mut random),
            last if last % 10 == 2 => return self.cut_copying(LONG, &mut random),
            _ => {}
        }
        let first = self.record(Before::default(), USUAL, &mut random);
        let moments = first.moments(IMAGES, &mut random);
        self.cut(&first, &moments, &mut random)?;
        let moment = random.random_range(0..=first.events.len());
        let image = self.disk(&first, moment).image(Loss::draw(&mut random), &mut random);
        disk::write(&image, self.directory.path());
        let second = self.record(first.before(moment), USUAL, &mut random);
        let moments = second.moments(IMAGES, &mut random);
        self.cut(&second, &moments, &mut random)
    }

    /// Records a history in which much is logged, and cuts it where the log is copied.
    fn cut_copying(&self, load: Load, random: &mut StdRng) -> Result<(), Violation> {
        let history = self.record(Before::default(), load, random);
        let moments = history.moments_of_copying(COPYING_IMAGES, random);
        self.cut(&history, &moments, random)
    }

    fn record(&self, before: Before<'_>, load: Load, random: &mut StdRng) -> History {
        histories::record(&self.config, before, load, &self.runtime, random)
    }

    fn disk<'h>(&self, history: &'h History, moment: usize) -> Disk<'h> {
        let mut disk = Disk::new(&history.files, self.honest);
        history.events[..moment].iter().for_each(|event| disk.take_in(event));
        disk
    }

    /// Judges an image of each of these moments, as long as there shall be more.
    fn cut(
        &self,
        history: &History,
        moments: &[usize],
        random: &mut StdRng,
    ) -> Result<(), Violation> {
        let mut disk = self.disk(history, 0);
        let mut happened = 0;
        for &moment in moments {
            let Some(number) = self.images.next() else { return Ok(()) };
            history.events[happened..moment].iter().for_each(|event| disk.take_in(event));
            happened = moment;
            let loss = Loss::draw(random);
            let image = disk.image(loss, random);
            disk::write(&image, self.directory.path());
            let before = history.before(moment);
            let wrong = judge::wrong(&self.config, before, &self.runtime);
            if !wrong.is_empty() {
                let events = history.events.len();
                let place = format!("image {number}, after {moment} of {events} events, {loss:?}");
                let text = format!("{place}:\n{}", wrong.join("\n"));
                let told = before.entries.iter().map(|entry| format!("{entry:?}\n")).collect();
                return Err(Violation { text, image, told });
            }
        }
        Ok(())
    }
}

/// F8: the first start is cut too. F19: who was not answered asks again, and nothing is there
/// twice.
#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut() {
    let (seed, begun) = (seed(), Instant::now());
    let images = Images::until(scaled(20_000) as usize);
    let (histories, found) = (AtomicU64::new(0), Mutex::new(None));
    let work = || {
        let place = Place::new(seed, |_| true, &images);
        while !images.are_over() {
            let number = histories.fetch_add(1, Ordering::Relaxed);
            if let Err(violation) = place.cut_history(number) {
                found.lock().unwrap().get_or_insert(violation);
                images.stop();
            }
        }
    };
    thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(2, usize::from);
        (0..workers).for_each(|_| drop(scope.spawn(work)));
    });
    if let Some(violation) = found.into_inner().unwrap() {
        let kept = violation.keep(seed).display().to_string();
        panic!("TALLYD_TEST_SEED={seed}, kept in {kept}: {}", violation.text);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (end, histories) = (images.end, histories.into_inner());
    eprintln!("{end} images of {histories} histories in {seconds:.0} s");
}

/// Cuts until something is wrong; fails if nothing is.
fn assert_found(honest: Honest) {
    let images = Images::until(CONTROL_IMAGES);
    let place = Place::new(seed(), honest, &images);
    for number in 0.. {
        if let Err(violation) = place.cut_history(number) {
            eprintln!("{}", violation.text);
            return;
        }
        assert!(!images.are_over(), "nothing is found");
    }
}

/// As with `synchronous=OFF`, under which SQLite makes the same writes and no sync.
#[test]
fn without_syncs_the_oracle_finds_a_loss() {
    assert_found(|_| false);
}

#[test]
fn without_syncs_of_the_log_the_oracle_finds_a_loss() {
    assert_found(|name| !name.ends_with("-wal"));
}

#[test]
fn without_syncs_of_the_database_the_oracle_finds_a_loss() {
    assert_found(|name| name != "t.db");
}
