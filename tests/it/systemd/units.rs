//! The files of `deploy/systemd/`: systemd's own tools have nothing to say against them, and they agree
//! with the daemon and its configuration.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::notify::{Supervisor, value};
use crate::fixture::Daemon;
use crate::tools::said;

const BINARY: &str = env!("CARGO_BIN_EXE_tallyd");

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd").join(name)
}

fn text_of(name: &str) -> String {
    fs::read_to_string(shipped(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A machine, as far as systemd's tools look at it, with files installed as the README says.
struct Machine(TempDir);

impl Machine {
    fn with(files: &[&str]) -> Self {
        let machine = Self::bare();
        fs::hard_link(BINARY, machine.path("usr/local/bin/tallyd")).expect("it is linked");
        for file in files {
            fs::copy(shipped(file), machine.unit(file)).expect("it is copied");
        }
        machine
    }

    /// One without any of the files.
    fn bare() -> Self {
        // Beside the binary, which can be linked there.
        let target = Path::new(BINARY).parent().expect("it is in a directory");
        let machine = Self(tempfile::tempdir_in(target).expect("a directory"));
        fs::create_dir_all(machine.path("usr/local/bin")).expect("it is made");
        fs::create_dir_all(machine.path("bin")).expect("it is made");
        fs::copy("/bin/kill", machine.path("bin/kill")).expect("it is copied");
        fs::create_dir_all(machine.path("lib/systemd")).expect("it is made");
        let copied = Command::new("cp")
            .args(["--recursive", "--no-dereference", "/lib/systemd/system"])
            .arg(machine.path("lib/systemd/system"))
            .output()
            .expect("it runs");
        assert!(copied.status.success(), "{}", said(&copied));
        fs::create_dir_all(machine.unit("tallyd.service.d")).expect("it is made");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn unit(&self, name: &str) -> PathBuf {
        self.path("etc/systemd/system").join(name)
    }

    /// Adds a setting to a shipped file.
    fn add(&self, file: &str, line: &str) {
        fs::write(self.unit(file), format!("{}\n[Service]\n{line}\n", text_of(file))).unwrap();
    }

    fn analyze(&self, words: &[&str]) -> std::process::Output {
        let root = format!("--root={}", self.0.path().display());
        let output = Command::new("systemd-analyze").args(words).arg(root).output();
        output.expect("this test needs systemd-analyze: run tests/run.sh tools")
    }

    /// What `systemd-analyze verify` complains of.
    fn complaints(&self) -> String {
        let output = self.analyze(&["verify", "tallyd.service", "tallyd.socket"]);
        let text = said(&output);
        assert!(output.status.success() || !text.is_empty(), "it says why");
        text
    }

    /// Whether the service is at most so exposed, in tenths.
    fn is_exposed_at_most(&self, tenths: u32) -> bool {
        let threshold = format!("--threshold={tenths}");
        let file = self.unit("tallyd.service");
        let file = file.to_str().expect("a name");
        let output = self.analyze(&["security", "--offline=yes", &threshold, file]);
        let text = said(&output);
        assert!(text.contains("Overall exposure level for tallyd.service"), "{text}");
        output.status.success()
    }
}

const UNITS: [&str; 2] = ["tallyd.service", "tallyd.socket"];
const EXEC: &str = "tallyd.service.d/exec.conf";
const ADDRESSES: &str = "tallyd.service.d/addresses.conf";

#[test]
fn systemd_has_nothing_to_complain_of() {
    for drop_ins in [&[][..], &[EXEC], &[ADDRESSES], &[EXEC, ADDRESSES]] {
        let machine = Machine::with(&[&UNITS, drop_ins].concat());
        assert_eq!(machine.complaints(), "", "{drop_ins:?}");
    }
}

#[test]
fn what_systemd_complains_of_is_seen() {
    let machine = Machine::with(&UNITS);
    machine.add("tallyd.service", "WatchdogSecs=30");
    assert!(machine.complaints().contains("Unknown key"), "{}", machine.complaints());
    let machine = Machine::with(&UNITS);
    fs::remove_file(machine.path("usr/local/bin/tallyd")).unwrap();
    assert!(machine.complaints().contains("is not executable"), "{}", machine.complaints());
}

#[test]
fn the_service_is_hardened_with_and_without_the_drop_ins() {
    assert!(Machine::with(&UNITS).is_exposed_at_most(15));
    assert!(Machine::with(&[&UNITS[..], &[EXEC]].concat()).is_exposed_at_most(40));
    assert!(Machine::with(&[&UNITS[..], &[ADDRESSES]].concat()).is_exposed_at_most(15));
    let open = Machine::with(&UNITS);
    open.add("tallyd.service", "SystemCallFilter=\nCapabilityBoundingSet=~\nProtectSystem=no");
    assert!(!open.is_exposed_at_most(15), "what is open is seen");
}

#[test]
fn the_lines_of_the_readme_install_what_systemd_accepts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("it is there");
    let (_, section) = readme.split_once("\n## Run it under systemd\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("it is not the last one");
    let lines: Vec<_> =
        section.lines().filter_map(|line| line.strip_prefix("sudo install ")).collect();
    assert_eq!(lines.len(), 6, "{lines:#?}");
    let machine = Machine::bare();
    for line in lines {
        let place = machine.0.path().display();
        let line =
            line.replace(" /", &format!(" {place}/")).replace("target/release/tallyd", BINARY);
        let output =
            Command::new("sh").args(["-c", &format!("install {line}")]).current_dir(root).output();
        let output = output.expect("there is a shell");
        assert!(output.status.success(), "{line}: {}", said(&output));
    }
    assert_eq!(machine.complaints(), "");
    assert!(machine.path("etc/tallyd/tallyd.env").exists());
    let mode = fs::metadata(machine.path("etc/tallyd/tallyd.toml")).expect("it is there").mode();
    assert_eq!(mode & 0o777, 0o600, "it may hold secrets");
}

/// The settings of a unit by name, in its order.
fn settings(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '[']));
    lines.filter_map(|line| line.split_once('=')).collect()
}

/// The only value of a setting.
fn setting<'a>(text: &'a str, name: &str) -> &'a str {
    let values: Vec<_> = settings(text).into_iter().filter(|(known, _)| *known == name).collect();
    let [(_, value)] = values[..] else { panic!("{name} is there once, not {values:?}") };
    value
}

#[test]
fn the_service_is_run_as_promised() {
    let service = text_of("tallyd.service");
    for (name, wanted) in [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("Restart", "always"),
        ("RestartPreventExitStatus", "2"),
        ("OOMPolicy", "continue"),
        // Else the commands of exec queues are ended when the drain begins.
        ("KillMode", "mixed"),
        ("DynamicUser", "yes"),
        ("StateDirectory", "tallyd tallyd/backups"),
        ("StateDirectoryMode", "0700"),
        ("WorkingDirectory", "%S/tallyd"),
        ("LoadCredential", "tallyd.toml:/etc/tallyd/tallyd.toml"),
        ("EnvironmentFile", "-/etc/tallyd/tallyd.env"),
        ("Requires", "tallyd.socket"),
    ] {
        assert_eq!(setting(&service, name), wanted, "{name}");
    }
    let is_set = |name| settings(&service).iter().any(|(known, _)| *known == name);
    assert!(!is_set("ProcSubset"), "it would hide when the process started");
    let seconds = |name| setting(&service, name).parse::<u64>().expect("seconds");
    let (within, burst) = (seconds("StartLimitIntervalSec"), seconds("StartLimitBurst"));
    assert!(burst * seconds("RestartSec") > within, "restarts after a crash never end");
    assert!(seconds("WatchdogSec") / 2 > 5, "the writer waits 5 s for who else writes the file");
}

#[test]
fn its_command_line_takes_the_shipped_configuration() {
    let service = text_of("tallyd.service");
    let words: Vec<_> = setting(&service, "ExecStart").split(' ').collect();
    let [program, "serve", flags @ ..] = &words[..] else { panic!("it serves: {words:?}") };
    assert_eq!(*program, "/usr/local/bin/tallyd");
    let credentials = tempfile::tempdir().unwrap();
    fs::copy(shipped("tallyd.toml"), credentials.path().join("tallyd.toml")).unwrap();
    let directory = credentials.path().to_str().unwrap();
    let flags = flags.iter().map(|flag| flag.replace("${CREDENTIALS_DIRECTORY}", directory));
    let output = Command::new(BINARY).arg("check").args(flags).env_clear().output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let effective: toml::Table = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    assert!(effective["queues"].as_table().unwrap().contains_key("checksums"), "{effective}");
    let socket = text_of("tallyd.socket");
    assert_eq!(effective["listen"].as_str(), Some(setting(&socket, "ListenStream")));
    assert_eq!(setting(&socket, "FileDescriptorName"), "http");
    assert_eq!(effective["data"].as_str(), Some("tallyd.db"), "in the state directory");
}

#[tokio::test]
async fn the_time_to_stop_is_more_than_the_longest_drain_takes() {
    let mut daemon = Daemon::prepare(&text_of("tallyd.toml"));
    let supervisor = Supervisor::of_daemon(&mut daemon);
    daemon.restart();
    assert_eq!(daemon.stop().code(), Some(0));
    let told = supervisor.hear_until("STOPPING=1");
    let longest = value(&told, "EXTEND_TIMEOUT_USEC").parse().expect("microseconds");
    let service = text_of("tallyd.service");
    let seconds = setting(&service, "TimeoutStopSec").parse().expect("seconds");
    assert!(Duration::from_secs(seconds) > Duration::from_micros(longest), "{longest} us");
}

/// A variable that nobody reads would be ignored without a word.
#[test]
fn the_variables_of_the_environment_file_are_read() {
    let output = Command::new(BINARY).args(["serve", "--help"]).env_clear().output().unwrap();
    let help = said(&output).split_whitespace().collect::<Vec<_>>().join(" ");
    let environment = text_of("tallyd.env");
    let lines: Vec<_> = environment.lines().filter(|line| line.contains("TALLYD_")).collect();
    assert!(lines.len() >= 3, "{environment}");
    for line in lines {
        let (name, value) =
            line.trim_start_matches("# ").split_once('=').unwrap_or_else(|| panic!("{line}"));
        assert!(help.contains(&format!("[env: {name}=")), "{name} is not in {help}");
        let output = Command::new(BINARY).arg("check").env_clear().env(name, value).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{line}: {}", said(&output));
    }
}
