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
mod moments;
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
use self::moments::Stage;
use self::recording::{Event, History, Recording};
use crate::bed;
use crate::crash::seed;
use crate::fixture::scaled;

/// Images of one history, at least: each of its syncs has one.
const IMAGES: usize = 200;

/// Images of it where its log is copied or begins anew, as when it is opened and closed.
const MORE_IMAGES: usize = 25;

/// Images of one history in which much is logged: they take longer.
const COPYING_IMAGES: usize = 30;

/// Images of one whose log is copied while the callers wait.
const COPIED_IMAGES: usize = 40;

/// One image of so many must be cut while the log is copied, and one just after it began anew.
const ONE_COPYING_OF: usize = 10;
const ONE_ANEW_OF: usize = 50;

/// In so many images each sort of history has its turn, several times.
const IMAGES_OF_ALL_SORTS: usize = 20_000;

/// Within how many images a control must find something wrong.
const CONTROL_IMAGES: usize = 100;

/// A usual history; its log is copied at the next start, and when it is closed.
const USUAL: Load = Load { rounds: 8, error_bytes: 100, waits_for_copy: false, log_begins: 1 };

/// One whose log is copied by the thread as well, beside the callers.
const LONG: Load = Load { error_bytes: 250_000, ..USUAL };

/// One whose log is copied by the thread while the callers wait, and begins anew.
const COPIED: Load = Load { waits_for_copy: true, log_begins: 2, ..USUAL };

/// One whose log is copied by the writer in the end, and begins anew.
const LONGEST: Load = Load { error_bytes: 1_200_000, log_begins: 2, ..USUAL };

/// An image that the oracle does not accept.
#[derive(Debug)]
struct Violation {
    /// How many events had happened.
    moment: usize,
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

/// The numbers of the next images, as long as there shall be more, and of what sorts they were.
#[derive(Debug, Default)]
struct Images {
    next: AtomicUsize,
    end: usize,
    copying: AtomicUsize,
    anew: AtomicUsize,
    overwritten: AtomicUsize,
}

impl Images {
    fn until(end: usize) -> Self {
        Self { end, ..Self::default() }
    }

    fn next(&self) -> Option<usize> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.end).then_some(number)
    }

    fn are_over(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.end
    }

    /// Counts one that was cut at this stage.
    fn count(&self, stage: Stage) {
        let count = |is_in, of: &AtomicUsize| of.fetch_add(usize::from(is_in), Ordering::Relaxed);
        count(stage.is_copying, &self.copying);
        count(stage.has_begun_anew, &self.anew);
        count(stage.has_overwritten, &self.overwritten);
    }

    /// Says how many were cut where, and that it is often enough.
    fn assert_shares(&self) {
        let [copying, anew, overwritten] = [&self.copying, &self.anew, &self.overwritten]
            .map(|count| count.load(Ordering::Relaxed));
        eprintln!(
            "{copying} while the log was copied, {anew} just after it had begun anew, \
             {overwritten} of them over what it held"
        );
        if self.end >= IMAGES_OF_ALL_SORTS {
            assert!(copying >= self.end / ONE_COPYING_OF, "too few while the log was copied");
            assert!(anew >= self.end / ONE_ANEW_OF, "too few after the log had begun anew");
        }
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
    is_synchronous_off: bool,
    images: &'t Images,
}

impl<'t> Place<'t> {
    fn new(seed: u64, honest: Honest, images: &'t Images) -> Self {
        let directory = bed::directory();
        let path = directory.path().canonicalize().unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let config = histories::config(&path);
        Self { config, runtime, directory, seed, honest, is_synchronous_off: false, images }
    }

    /// Records a history and cuts it, and then one that goes on after one of its cuts.
    fn cut_history(&self, number: u64) -> Result<(), Violation> {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_add(number));
        disk::write(&Image::new(), self.directory.path());
        match number % 100 {
            1 => return self.cut_copying(LONGEST, COPYING_IMAGES, &mut random),
            last if last % 10 == 2 => return self.cut_copying(LONG, COPYING_IMAGES, &mut random),
            last if last % 5 == 3 => {
                return self.cut_copying(COPIED, COPIED_IMAGES, &mut random);
            }
            _ => {}
        }
        let first = self.record(Before::default(), USUAL, &mut random);
        self.cut_everywhere(&first, &mut random)?;
        let moment = random.random_range(0..=first.events.len());
        let image = self.disk(&first, moment).image(Loss::draw(&mut random), &mut random);
        disk::write(&image, self.directory.path());
        let second = self.record(first.before(moment), USUAL, &mut random);
        self.cut_everywhere(&second, &mut random)
    }

    /// Cuts a usual history.
    fn cut_everywhere(&self, history: &History, random: &mut StdRng) -> Result<(), Violation> {
        let mut moments = history.moments(IMAGES, random);
        moments.append(&mut history.moments_of_copying(MORE_IMAGES, random));
        moments.sort_unstable();
        self.cut(history, &moments, random)
    }

    /// Records a history in which much is logged, and cuts it where the log is copied or begins anew.
    fn cut_copying(&self, load: Load, images: usize, random: &mut StdRng) -> Result<(), Violation> {
        let history = self.record(Before::default(), load, random);
        let moments = history.moments_of_copying(images, random);
        self.cut(&history, &moments, random)
    }

    fn record(&self, before: Before<'_>, load: Load, random: &mut StdRng) -> History {
        let recording = Recording::begin_with(self.directory.path(), self.is_synchronous_off);
        histories::record(&recording, &self.config, before, load, &self.runtime, random)
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
        let stages = history.stages();
        let mut disk = self.disk(history, 0);
        let mut happened = 0;
        for &moment in moments {
            let Some(number) = self.images.next() else { return Ok(()) };
            history.events[happened..moment].iter().for_each(|event| disk.take_in(event));
            happened = moment;
            let loss = Loss::draw(random);
            let image = disk.image(loss, random);
            disk::write(&image, self.directory.path());
            self.images.count(stages[moment]);
            let before = history.before(moment);
            let wrong = judge::wrong(&self.config, before, &self.runtime);
            if !wrong.is_empty() {
                let events = history.events.len();
                let place = format!("image {number}, after {moment} of {events} events, {loss:?}");
                let text = format!("{place}:\n{}", wrong.join("\n"));
                let told = before.entries.iter().map(|entry| format!("{entry:?}\n")).collect();
                return Err(Violation { moment, text, image, told });
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
        // One more than there are processors: each often waits for the threads of its store.
        let workers = thread::available_parallelism().map_or(2, usize::from) + 1;
        (0..workers).for_each(|_| drop(scope.spawn(work)));
    });
    if let Some(violation) = found.into_inner().unwrap() {
        let kept = violation.keep(seed).display().to_string();
        panic!("TALLYD_TEST_SEED={seed}, kept in {kept}: {}", violation.text);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (end, histories) = (images.end, histories.into_inner());
    eprintln!("{end} images of {histories} histories in {seconds:.0} s");
    images.assert_shares();
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

#[test]
fn without_syncs_of_the_log_the_oracle_finds_a_loss() {
    assert_found(|name| !name.ends_with("-wal"));
}

#[test]
fn without_syncs_of_the_database_the_oracle_finds_a_loss() {
    assert_found(|name| name != "t.db");
}

/// What happens to a store that has lived before, was closed in order and is durable: nothing lost
/// of it is of the first start.
fn record_later(place: &Place<'_>, load: Load, random: &mut StdRng) -> History {
    let first = place.record(Before::default(), USUAL, random);
    place.record(first.before(first.events.len()), load, random)
}

/// SQLite itself runs with it, below the unchanged store.
#[test]
fn with_synchronous_off_the_oracle_finds_a_loss() {
    let (images, seed) = (Images::until(CONTROL_IMAGES), seed());
    let place = Place { is_synchronous_off: true, ..Place::new(seed, |_| true, &images) };
    let mut random = StdRng::seed_from_u64(seed);
    let history = record_later(&place, USUAL, &mut random);
    let is_sync = |event: &Event| matches!(event, Event::Synced { .. });
    assert!(!history.begins_of_log().is_empty(), "the log is written");
    assert!(!history.events.iter().any(is_sync), "and not synced, nor anything else");
    let moments = history.moments(CONTROL_IMAGES, &mut random);
    let found = place.cut(&history, &moments, &mut random).expect_err("something is found");
    eprintln!("{}", found.text);
}

/// As long as the log holds all that may be missing in the database, nothing is lost. The thread
/// has copied it in the first of these histories, the writer in the second.
#[test]
fn without_syncs_of_the_database_a_log_that_begins_anew_loses_what_it_held() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for load in [COPIED, LONGEST] {
        let images = Images::until(CONTROL_IMAGES);
        let place = Place::new(seed, |name| name != "t.db", &images);
        let history = record_later(&place, load, &mut random);
        let moments = history.moments_of_copying(COPYING_IMAGES, &mut random);
        let found = place.cut(&history, &moments, &mut random).expect_err("something is found");
        eprintln!("{}", found.text);
        assert!(found.moment > history.begins_of_log()[1], "found before the log began anew");
    }
}
