//! Moments of a history at which the power may be cut, and what is under way then.

use rand::RngExt;
use rand::rngs::StdRng;

use super::recording::{Event, History};

/// For how many events the log counts as just begun.
const JUST_BEGUN: usize = 50;

/// The bytes of the log before its first page, and those of a page with its header.
const LOG_HEADER_BYTES: u64 = 32;
const LOG_PAGE_BYTES: u64 = 4_096 + 24;

/// The log's pages from which the store has its thread copy them: 4 MiB.
const LONG_LOG_PAGES: u64 = (4 << 20) / LOG_PAGE_BYTES;

/// What is under way at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stage {
    /// The log is copied: there are writes to the database that are not synced.
    pub is_copying: bool,
    /// The log, which held something before, has just begun anew.
    pub has_begun_anew: bool,
    /// And nothing was cut off it, so that the old pages lie behind the new ones.
    pub has_overwritten: bool,
}

impl History {
    /// Moments at which the power may be cut, as numbers of events that have happened: before,
    /// after and between syncs, in order. Each sync has its turn.
    pub fn moments(&self, number: usize, random: &mut StdRng) -> Vec<usize> {
        let is_sync = |(_, event): &(usize, &Event)| {
            matches!(event, Event::Synced { .. } | Event::Deleted { durably: true, .. })
        };
        let events = self.events.iter().enumerate();
        let mut syncs: Vec<usize> = events.filter(is_sync).map(|(index, _)| index).collect();
        syncs.push(self.events.len());
        let number = number.max(syncs.len());
        let mut moments: Vec<usize> = (0..number)
            .map(|turn| {
                let index = turn * syncs.len() / number;
                let last = if index == 0 { 0 } else { syncs[index - 1] + 1 };
                let is_first = turn == 0 || (turn - 1) * syncs.len() / number < index;
                match random.random_range(0..10) {
                    _ if is_first => syncs[index],
                    0..=3 => syncs[index],
                    4 | 5 => last,
                    _ => random.random_range(last..=syncs[index]),
                }
            })
            .collect();
        moments.sort_unstable();
        moments
    }

    /// Moments at which the log is copied into the database, and as many at which it has just begun
    /// anew, if it has; in order.
    pub fn moments_of_copying(&self, number: usize, random: &mut StdRng) -> Vec<usize> {
        let stages = self.stages();
        let of_stage = |is_in: fn(&Stage) -> bool| -> Vec<usize> {
            (0..stages.len()).filter(|moment| is_in(&stages[*moment])).collect()
        };
        let copying = of_stage(|stage| stage.is_copying);
        let anew = of_stage(|stage| stage.has_begun_anew);
        let draw = |turn| {
            let from = if turn % 2 == 0 || anew.is_empty() { &copying } else { &anew };
            from[random.random_range(0..from.len())]
        };
        let mut moments: Vec<usize> = (0..number).map(draw).collect();
        moments.sort_unstable();
        moments
    }

    /// What is under way after so many events, from none to all.
    pub fn stages(&self) -> Vec<Stage> {
        let (databases, logs) = (self.numbers_of("t.db"), self.numbers_of("t.db-wal"));
        let is_left =
            |(name, content): &(String, Vec<u8>)| name == "t.db-wal" && !content.is_empty();
        let mut log = Log { is_used: self.files.iter().any(is_left), ..Log::default() };
        let mut is_copying = false;
        let mut stages = vec![Stage::default()];
        for (index, event) in self.events.iter().enumerate() {
            match event {
                Event::Wrote { file, .. } if databases.contains(file) => is_copying |= log.is_used,
                Event::Synced { file, .. } if databases.contains(file) => is_copying = false,
                Event::Wrote { file, offset: 0, .. } if logs.contains(file) => log.begin(index),
                Event::Truncated { file, bytes: 0 } if logs.contains(file) => log.is_cut = true,
                Event::Created { name } if name == "t.db-wal" => log = Log::default(),
                _ => {}
            }
            let has_begun_anew = log.anew_at.is_some_and(|at| index < at + JUST_BEGUN);
            let has_overwritten = has_begun_anew && log.has_overwritten;
            stages.push(Stage { is_copying, has_begun_anew, has_overwritten });
        }
        stages
    }

    /// Where the log begins at its start, the first time and again.
    pub fn begins_of_log(&self) -> Vec<usize> {
        let logs = self.numbers_of("t.db-wal");
        let is_begin = |(_, event): &(usize, &Event)| match event {
            Event::Wrote { file, offset, .. } => *offset == 0 && logs.contains(file),
            _ => false,
        };
        self.events.iter().enumerate().filter(is_begin).map(|(index, _)| index).collect()
    }

    /// Whether the log is so long that the store has its thread copy it.
    pub fn is_log_long(&self) -> bool {
        let logs = self.numbers_of("t.db-wal");
        let last = self.events.iter().rev().find_map(|event| match event {
            Event::Wrote { file, offset, content } if logs.contains(file) => {
                Some(offset + content.len() as u64)
            }
            _ => None,
        });
        last.is_some_and(|bytes| (bytes - LOG_HEADER_BYTES) / LOG_PAGE_BYTES >= LONG_LOG_PAGES)
    }

    /// Whether all of the log is in the database: that was synced behind the last write to the log.
    pub fn is_log_copied(&self) -> bool {
        let (databases, logs) = (self.numbers_of("t.db"), self.numbers_of("t.db-wal"));
        let last = self.events.iter().rev().find_map(|event| match event {
            Event::Synced { file, .. } if databases.contains(file) => Some(true),
            Event::Wrote { file, .. } if logs.contains(file) => Some(false),
            _ => None,
        });
        last == Some(true)
    }

    /// The files that ever had this name.
    fn numbers_of(&self, name: &str) -> Vec<usize> {
        let created = self.events.iter().filter_map(|event| match event {
            Event::Created { name } => Some(name),
            _ => None,
        });
        let names = self.files.iter().map(|(name, _)| name).chain(created);
        names.enumerate().filter(|(_, other)| *other == name).map(|(number, _)| number).collect()
    }
}

/// A log as it is followed through a history.
#[derive(Default)]
struct Log {
    /// It holds something, or did before it was cut.
    is_used: bool,
    /// It was cut, and nothing is in it.
    is_cut: bool,
    /// Where it began at its start again the last time, and whether over what it held.
    anew_at: Option<usize>,
    has_overwritten: bool,
}

impl Log {
    fn begin(&mut self, index: usize) {
        if self.is_used {
            self.anew_at = Some(index);
            self.has_overwritten = !self.is_cut;
        }
        (self.is_used, self.is_cut) = (true, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrote(file: usize, offset: u64) -> Event {
        Event::Wrote { file, offset, content: [0].into() }
    }

    fn synced(file: usize) -> Event {
        Event::Synced { file, and_directory: false }
    }

    /// The stages of a history of a database, file 0, and its log, file 1, that holds so much.
    fn stages(log: &[u8], events: Vec<Event>) -> Vec<Stage> {
        let files = [("t.db", &b"-"[..]), ("t.db-wal", log)];
        let files = files.map(|(name, content)| (name.to_owned(), content.to_owned())).into();
        History { files, events, ..History::default() }.stages()
    }

    fn moments(stages: &[Stage], is_in: fn(&Stage) -> bool) -> Vec<usize> {
        (0..stages.len()).filter(|moment| is_in(&stages[*moment])).collect()
    }

    #[test]
    fn a_log_is_copied_from_a_write_to_the_database_to_its_sync() {
        let first_start = vec![wrote(0, 0), wrote(1, 0)];
        assert_eq!(moments(&stages(b"", first_start), |stage| stage.is_copying), [0; 0]);
        let events = vec![wrote(1, 0), wrote(0, 9), synced(1), wrote(0, 0), synced(0), wrote(1, 9)];
        assert_eq!(moments(&stages(b"", events), |stage| stage.is_copying), [2, 3, 4]);
    }

    #[test]
    fn a_log_begins_anew_over_what_it_held_or_behind_a_cut_for_a_while() {
        let anew = |stages: &[Stage]| moments(stages, |stage| stage.has_begun_anew);
        let over = |stages: &[Stage]| moments(stages, |stage| stage.has_overwritten);
        let first = stages(b"", vec![wrote(1, 0), wrote(1, 9)]);
        assert_eq!(anew(&first), [0; 0], "it begins for the first time");
        let again = stages(b"", vec![wrote(1, 0), wrote(1, 9), wrote(1, 0), wrote(1, 9)]);
        assert_eq!((anew(&again), over(&again)), (vec![3, 4], vec![3, 4]));
        let cut = Event::Truncated { file: 1, bytes: 0 };
        let behind_cut = stages(b"left", vec![cut, wrote(1, 0)]);
        assert_eq!((anew(&behind_cut), over(&behind_cut)), (vec![2], vec![]));
        let long = (1..100).map(|page| wrote(1, page));
        let long = stages(b"left", [wrote(1, 0)].into_iter().chain(long).collect());
        assert_eq!(anew(&long), (1..=JUST_BEGUN).collect::<Vec<_>>());
    }
}
