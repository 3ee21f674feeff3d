//! What is shown on a terminal while a benchmark runs.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error, if that is a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Shows nothing yet.
    pub(super) fn new() -> Self {
        let style = "{spinner} {msg:40} [{bar:30}] {pos}/{len}";
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
        Self { bar }
    }

    /// Begins a part that has `steps` steps.
    pub(super) fn begin(&self, what: impl Into<String>, steps: u64) {
        self.bar.reset();
        self.bar.set_length(steps);
        self.bar.set_message(what.into());
    }

    /// `done` steps are done.
    pub(super) fn advance(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Clears the terminal's line.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
