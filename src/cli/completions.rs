//! `tallyd completions`: prints a script that completes the command line in a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure, output};

/// The argument of `tallyd completions`.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints the script, for the shell to read at its start.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tallyd", &mut script);
        output::print(&String::from_utf8_lossy(&script))
    }
}
