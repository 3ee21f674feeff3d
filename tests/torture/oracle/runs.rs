//! What the commands of an exec queue report themselves, line by line in one file.

use std::collections::BTreeMap;
use std::path::Path;

/// What a command reported, or the test wrote between the reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    Started {
        id: String,
        attempt: u64,
    },
    /// It is about to exit, and with 0 if it worked.
    Ended {
        id: String,
        attempt: u64,
        worked: bool,
    },
    /// The daemon was killed, and its commands with it.
    Killed,
}

impl Run {
    /// The line of a kill.
    pub const KILLED: &'static str = "killed\n";

    /// Reads what was reported.
    pub fn read(file: &Path) -> Vec<Self> {
        let text = std::fs::read_to_string(file).expect("commands have run");
        text.lines().map(Self::parse).collect()
    }

    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let &[step, id, attempt] = &words[..] else {
            assert_eq!(line, Self::KILLED.trim_end());
            return Self::Killed;
        };
        let (id, attempt) = (id.to_owned(), attempt.parse().expect("an attempt is a number"));
        match step {
            "started" => Self::Started { id, attempt },
            "worked" | "failed" => Self::Ended { id, attempt, worked: step == "worked" },
            _ => panic!("{line}"),
        }
    }
}

/// Attempts that started beside or after one that they must not.
pub fn overlaps(runs: &[Run]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut going: BTreeMap<&str, u64> = BTreeMap::new();
    for run in runs {
        match run {
            Run::Started { id, attempt } => {
                if let Some(earlier) = last.insert(id, *attempt).filter(|last| last >= attempt) {
                    wrong.push(format!("attempt {attempt} of {id} started after {earlier}"));
                }
                if let Some(other) = going.insert(id, *attempt) {
                    wrong.push(format!("attempt {attempt} of {id} started while {other} ran"));
                }
            }
            Run::Ended { id, attempt, .. } => {
                if going.get(&**id) == Some(attempt) {
                    going.remove(&**id);
                }
            }
            Run::Killed => going.clear(),
        }
    }
    wrong
}
