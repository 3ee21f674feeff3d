//! A small file system, to be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory, mounted over a directory until it is dropped.
pub struct Mount {
    place: PathBuf,
    is_kept: bool,
}

impl Mount {
    fn at(place: &Path) -> Self {
        Self { place: place.to_owned(), is_kept: false }
    }

    /// Of a test that fails, what is in it is kept beside the directory.
    pub fn kept(mut self) -> Self {
        self.is_kept = true;
        self
    }

    pub fn over(directory: &Path, size: &str) -> Self {
        let mount = Self::at(directory);
        mount.run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        mount
    }

    /// The machine's processes, as programs look for them in `/proc`.
    pub fn processes(directory: &Path) -> Self {
        let mount = Self::at(directory);
        mount.run("mount", &["-t", "proc", "proc"]);
        mount
    }

    /// Unmounts what tests that were killed have left below a directory, the latest first.
    pub fn remove_below(directory: &Path) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("Linux has the list");
        let places = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
        for place in places.filter(|place| place.starts_with(directory)) {
            drop(Self::at(place));
        }
    }

    pub fn resize(&self, size: &str) {
        self.run("mount", &["-o", &format!("remount,size={size}")]);
    }

    pub fn set_writable(&self, writable: bool) {
        self.run("mount", &["-o", if writable { "remount,rw" } else { "remount,ro" }]);
    }

    /// Has the kernel make it read-only, unless it refuses to; then what it says.
    pub fn try_read_only(&self) -> Result<(), String> {
        self.try_run("mount", &["-o", "remount,ro"])
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        if let Err(error) = self.try_run(program, arguments) {
            panic!("this test must be able to {program}, as root: {error}");
        }
    }

    fn try_run(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let output = as_root(program).args(arguments).arg(&self.place).output().expect("it starts");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(error) }
    }
}

/// A program that root must run.
pub fn as_root(program: &str) -> Command {
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new(if root { program } else { "sudo" });
    if !root {
        command.args(["-n", program]);
    }
    command
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_kept && std::thread::panicking() {
            let kept = self.place.with_extension("kept");
            eprintln!("what was mounted is kept in {}", kept.display());
            // If it cannot be, the test has failed all the same.
            drop(as_root("cp").arg("-r").args([&self.place, &kept]).status());
        }
        self.run("umount", &["--lazy"]);
    }
}
