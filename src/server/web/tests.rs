//! Files that are read at a connection and at a hangup at the same time.

use std::fs;
use std::path::PathBuf;

use tokio::time::timeout;

use super::*;

/// A file that says how many requests are answered at once.
struct File {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("web.yml");
        let file = Self { _directory: directory, path };
        file.put(1);
        file
    }

    fn put(&self, burst: u32) {
        let text = format!("rate_limit: {{interval: 1s, burst: {burst}}}\n");
        fs::write(&self.path, text).expect("it can be written");
    }

    fn read(&self) -> Arc<Web> {
        Arc::new(Web::load(&self.path).expect("it is right"))
    }
}

fn burst(live: &LiveWeb) -> u32 {
    live.current().web.rate_limit.expect("there is one").burst
}

#[tokio::test(start_paused = true)]
async fn what_a_hangup_read_too_early_does_not_stay_in_effect() {
    let file = File::new();
    let early = file.read();
    let live = Arc::new(LiveWeb::new(early.clone()));
    file.put(22);
    live.look().await;
    assert_eq!(burst(&live), 22);
    // The hangup came before the change, and its reading is put in effect after it.
    live.replace(early).await.expect("it takes no restart");
    assert_eq!(burst(&live), 1);
    live.look().await;
    assert_eq!(burst(&live), 22);
}

#[tokio::test(start_paused = true)]
async fn a_hangup_waits_for_who_looks_already() {
    let file = File::new();
    let live = Arc::new(LiveWeb::new(file.read()));
    file.put(22);
    let looking = live.looking.lock().await;
    assert!(timeout(LOOK, live.replace(file.read())).await.is_err(), "it overtakes the look");
    assert_eq!(burst(&live), 1);
    drop(looking);
    live.replace(file.read()).await.expect("it takes no restart");
    assert_eq!(burst(&live), 22);
}
