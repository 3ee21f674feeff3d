//! `tallyd check`: validates the configuration and prints the effective one.

use super::settings::Settings;
use super::{Failure, output};

/// The flags of `tallyd check`, the same as of `tallyd serve`.
#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    settings: Settings,
}

impl Check {
    /// Prints the configuration with which `serve` would run, as TOML that can be loaded again; and, as
    /// warnings, which of its files are open to others.
    ///
    /// # Errors
    ///
    /// A setting is wrong, or standard output cannot be written.
    pub fn run(&self) -> Result<(), Failure> {
        let config = self.settings.load()?;
        for exposed in self.settings.exposed(&config) {
            output::complain(&format!("warning: {}", output::visible(&exposed)));
        }
        let text = config.to_toml().map_err(|error| Failure::Other(error.into()))?;
        output::print(&text)
    }
}
