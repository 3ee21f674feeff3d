//! Parses the command line, runs the command, and turns its result into an exit code.

fn main() {}
