//! `tallyd man`: prints the manual page, or writes one for each command into a directory.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, Failure, VERSION, output};

/// The argument of `tallyd man`.
#[derive(Debug, clap::Args)]
pub struct Manual {
    /// Write tallyd.1 and a page for each command into this directory, rather than print tallyd.1
    #[arg(value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

impl Manual {
    /// Prints the page, or writes all of them.
    ///
    /// # Errors
    ///
    /// Standard output or a file cannot be written.
    pub fn run(&self) -> Result<(), Failure> {
        let mut root = Cli::command().disable_help_subcommand(true);
        root.build();
        match &self.directory {
            None => output::print(&String::from_utf8_lossy(&page(&root)?)),
            Some(directory) => write_all(&root, directory),
        }
    }
}

/// Writes the page of a command, and of those below it.
fn write_all(command: &clap::Command, directory: &Path) -> Result<(), Failure> {
    let file = directory.join(Man::new(command.clone()).get_filename());
    fs::write(&file, page(command)?).map_err(|error| {
        Failure::Other(format!("cannot write {}: {error}", file.display()).into())
    })?;
    let mut below = command.get_subcommands().filter(|below| !below.is_hide_set());
    below.try_for_each(|below| write_all(below, directory))
}

/// The page of a command in roff.
fn page(command: &clap::Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    let source = format!("tallyd {VERSION}");
    let rendered = Man::new(command.clone()).source(source).manual("tallyd").render(&mut page);
    rendered.map_err(|error| Failure::Other(error.into()))?;
    Ok(page)
}
