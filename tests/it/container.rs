//! The Containerfile without an engine for containers: its stages are carried out in directories,
//! its commands run as they stand, and what comes out is started as a container would be.

mod built;
mod file;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::fixture::{PATIENCE, client};
use crate::mount::{Mount, as_root};
use crate::tools::said;
use built::{Builder, Built};
use file::{Stage, stages};

/// The image below tallyd, and all libraries of it that a Rust program could want.
const BASE: &str = "gcr.io/distroless/cc-debian12:nonroot";
const LIBRARIES_OF_BASE: [&str; 9] = [
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
];

const REVISION: &str = "of-a-test";

fn source() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn containerfile() -> Vec<Stage> {
    stages(&fs::read_to_string(source().join("Containerfile")).unwrap()).unwrap()
}

/// The whole image, in a directory of its own, which only one test at a time may use.
struct Image {
    image: Built,
    place: PathBuf,
    _lock: File,
}

impl Image {
    /// Dependencies are those of this test's own build, where a debug build left them; the paths
    /// are always the same, so that cargo knows again what it has built.
    fn build() -> Self {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("container");
        fs::create_dir_all(&kept).unwrap();
        let lock = File::create(kept.join("lock")).unwrap();
        lock.lock().unwrap();
        let place = kept.join("stages");
        Mount::remove_below(&place);
        drop(fs::remove_dir_all(&place));
        let mut builder = Builder {
            source: source(),
            arguments: BTreeMap::from([("PROFILE", "dev"), ("TALLYD_REVISION", REVISION)]),
            environment: vec![
                ("CARGO_BUILD_BUILD_DIR", kept.ancestors().nth(2).expect("target").to_owned()),
                ("CARGO_TARGET_DIR", kept.join("target")),
                ("CARGO_NET_OFFLINE", "true".into()),
            ],
            stages: BTreeMap::new(),
        };
        let [build, last] = &containerfile()[..] else { panic!("two stages") };
        let built = builder.build(build, place.join("build")).unwrap();
        builder.stages.insert(build.name.clone().expect("a name"), built);
        let image = builder.build(last, place.join("image")).unwrap();
        assert_eq!(last.base, BASE, "whose libraries are listed above");
        Self { image, place, _lock: lock }
    }

    /// Puts in what the base has of what the program needs; fails if it has not all.
    fn add_libraries(&self, program: &Path) {
        let output = Command::new("ldd").arg(program).output().unwrap();
        let text = said(&output);
        let words = text.split_whitespace();
        for library in words.filter(|word| word.starts_with('/')).map(Path::new) {
            let name = library.file_name().unwrap().to_str().unwrap();
            assert!(LIBRARIES_OF_BASE.contains(&name), "{BASE} has no {name}");
            let to = self.image.place(library.to_str().unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(library, to).unwrap();
        }
        assert!(text.contains("libc.so.6"), "{text}");
    }

    /// Runs a command line in the image as its user, as in a container: nothing else is there.
    fn command(&self, words: &[String]) -> Command {
        let (user, group) = self.user();
        let mut command = as_root("env");
        command.args(["-i", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]);
        command.args(["TALLYD_LISTEN=127.0.0.1:0", "TALLYD_LOG_FORMAT=json", "unshare"]);
        command.arg("--root").arg(&self.image.root).args(["--wd", &self.image.workdir]);
        command.args(["--setgid", &group.to_string(), "--setuid", &user.to_string(), "--"]);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// The user and group, as numbers: `runAsNonRoot` of Kubernetes cannot judge names.
    fn user(&self) -> (u32, u32) {
        let numbers = self.image.user.split_once(':').map(|(user, group)| {
            let number = |text: &str| text.parse().unwrap_or(0);
            (number(user), number(group))
        });
        let (user, group) = numbers.unwrap_or_default();
        assert!(user > 0 && group > 0, "USER must be two numbers, not 0: {}", self.image.user);
        (user, group)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // The next build removes what could not be removed now.
        drop(fs::remove_dir_all(&self.place));
    }
}

/// A process that is asked to end, and waited for, when the test ends.
struct Running(Child);

impl Running {
    fn signal(&self) {
        let mut kill = as_root("kill");
        assert!(kill.arg(self.0.id().to_string()).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal();
            drop(self.0.wait());
        }
    }
}

#[tokio::test]
async fn what_the_containerfile_builds_serves_without_root_and_writes_to_its_volume_only() {
    let image = Image::build();
    let entrypoint = image.image.entrypoint.clone();
    let program = image.image.place(&entrypoint[0]);
    image.add_libraries(&program);

    let version = [&entrypoint[..], &["--version".to_owned()]].concat();
    let version = said(&image.command(&version).output().unwrap());
    assert!(version.contains(&format!("({REVISION})")), "{version}");

    let owners: Vec<_> = image.image.owners.iter().collect();
    let [(volume, owner)] = owners[..] else { panic!("one volume: {owners:?}") };
    assert_eq!(*owner, image.image.user, "the user owns the volume");
    let (user, group) = image.user();
    let data = image.image.place(volume);
    let _volume = Mount::over(&data, &format!("512m,mode=700,uid={user},gid={group}"));

    let processes = image.image.place("/proc");
    fs::create_dir(&processes).unwrap();
    let _processes = Mount::processes(&processes);

    let words = [&entrypoint[..], &image.image.cmd].concat();
    let mut child = image.command(&words).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut running = Running(child);
    let mut seen = String::new();
    let address = log.lines().map_while(Result::ok).find_map(|line| {
        seen += &format!("{line}\n");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        (line["message"] == "tallyd is ready").then(|| line["address"].as_str().unwrap().to_owned())
    });
    let address = address.unwrap_or_else(|| panic!("it does not start:\n{seen}"));
    let ready = client().get(format!("http://{address}/-/ready")).timeout(PATIENCE).send().await;
    assert_eq!(ready.unwrap().status(), 200);
    running.signal();
    assert!(running.0.wait().unwrap().success());
    let found = as_root("find").arg(&data).args(["-name", "tallyd.db"]).output().unwrap();
    assert!(said(&found).contains("tallyd.db"), "the store is on the volume");
}

#[test]
fn the_build_has_a_compiler_that_is_new_enough_and_the_libc_of_the_image() {
    let stages = containerfile();
    let base = stages[0].base.strip_prefix("docker.io/library/rust:1.");
    let minor = base.and_then(|base| base.strip_suffix("-bookworm"));
    let minor: u32 = minor.expect("rust on Debian 12, as the last stage").parse().unwrap();
    let (_, wanted) = env!("CARGO_PKG_RUST_VERSION").split_once('.').unwrap();
    assert!(minor >= wanted.parse().unwrap(), "{minor} is older than {wanted}");
}

#[test]
fn only_what_is_known_of_a_containerfile_is_taken() {
    for (text, wrong) in [
        ("COPY a b", "line 1: stands before FROM: COPY a b"),
        ("FROM a\n\nHEALTHCHECK NONE", "line 3: not known here: HEALTHCHECK NONE"),
        ("FROM a\nRUN a \\\n  b", "line 2: lines that go on are not known here: RUN a \\"),
        ("FROM a\nRUN --mount=type=cache a", "line 2: not known here: RUN --mount=type=cache a"),
        ("FROM a\nCOPY --link a b", "line 2: not known here: COPY --link a b"),
        ("FROM a\nCOPY a b c", "line 2: not known here: COPY a b c"),
        ("FROM a\nCMD serve", "line 2: not known here: CMD serve"),
    ] {
        assert_eq!(stages(text).map(|stages| stages.len()), Err(wrong.to_owned()));
    }
}

#[test]
fn copies_and_commands_that_fail_end_the_build() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join(".dockerignore"), "# none of it\ntarget\n").unwrap();
    fs::create_dir(source.path().join("target")).unwrap();
    let builder = Builder {
        source: source.path(),
        arguments: BTreeMap::new(),
        environment: Vec::new(),
        stages: BTreeMap::new(),
    };
    for (step, wrong) in [
        ("COPY nothing .", "No such file or directory"),
        ("COPY target target", "target is left out by .dockerignore"),
        ("COPY . .", "target is left out by .dockerignore"),
        ("COPY --from=none a b", "no such stage"),
        ("RUN echo so >&2; false", "so"),
    ] {
        let stage = &stages(&format!("FROM a\n{step}")).unwrap()[0];
        let error = builder.build(stage, source.path().join("root")).err().unwrap_or_default();
        assert!(error.contains(wrong), "{step}: {error}");
    }
}
