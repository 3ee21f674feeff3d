//! `tallyd backup`: has the running server write a copy of its store.

use super::Failure;
use super::connection::Connection;
use super::output::{self, Form, visible};

/// The flags of `tallyd backup`.
#[derive(Debug, clap::Args)]
pub struct Backup {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: Form,
}

impl Backup {
    /// Waits until the copy is complete, which can take long, and prints its path.
    ///
    /// # Errors
    ///
    /// The server refuses or cannot be asked.
    pub fn run(&self) -> Result<(), Failure> {
        let backup = self.connection.run(async |client| Ok(client.backup().await?))?;
        if self.form.json {
            return output::print_json(backup.json());
        }
        output::print(&(visible(&backup.file) + "\n"))
    }
}
