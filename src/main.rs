//! Parses the command line, runs the command, and turns its result into an exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tallyd::cli::Cli;

/// Requests are many small allocations on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.is_untold() {
                // Who has closed standard error still gets the exit code.
                drop(writeln!(std::io::stderr(), "{failure}"));
            }
            failure.exit_code()
        }
    }
}
