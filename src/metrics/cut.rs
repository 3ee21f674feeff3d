//! The one lock between commits and scrapes: a batch is published whole, and a cut reads it whole.
//!
//! `interleavings` compiles this file once more, with the locks of loom.

use super::sync::Mutex;

/// What commits publish and scrapes read.
pub(super) struct Published<P>(Mutex<P>);

/// A batch that is published by half must not be read.
const PANICKED: &str = "a panic while publishing has ended the daemon";

impl<P> Published<P> {
    pub(super) fn new(nothing: P) -> Self {
        Self(Mutex::new(nothing))
    }

    /// Applies one whole batch.
    pub(super) fn publish(&self, apply: impl FnOnce(&mut P)) {
        apply(&mut self.0.lock().expect(PANICKED));
    }

    /// Copies what a scrape says.
    pub(super) fn cut<C>(&self, copy: impl FnOnce(&P) -> C) -> C {
        copy(&self.0.lock().expect(PANICKED))
    }
}
