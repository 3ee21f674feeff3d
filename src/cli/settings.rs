//! The flags that say how a daemon is configured.

use std::path::PathBuf;

use crate::config::{Config, ConfigError, Overrides};

/// The configuration file and what changes it.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub struct Settings {
    /// Read this configuration file; without one, the defaults apply
    #[arg(long, env = "TALLYD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// What the flags and the environment say.
    #[command(flatten)]
    pub overrides: Overrides,
}

impl Settings {
    /// The configuration that these flags, the environment and the file make together.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or a setting is wrong.
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref(), &self.overrides)
    }

    /// What is wrong with who may read or change the files of this configuration.
    pub fn exposed(&self, config: &Config) -> Vec<String> {
        config.exposed(self.config.as_deref())
    }
}
