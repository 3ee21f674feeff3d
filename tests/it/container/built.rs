//! A stage carried out in a directory, which is the root of its files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::file::{Copy, Stage, Step};
use crate::tools::said;

/// What has become of a stage.
pub struct Built {
    pub root: PathBuf,
    pub workdir: String,
    pub user: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Who owns what was copied for somebody, by its place.
    pub owners: BTreeMap<String, String>,
    arguments: BTreeMap<String, String>,
}

/// What a builder is given.
pub struct Builder<'b> {
    /// The directory of the source.
    pub source: &'b Path,
    pub arguments: BTreeMap<&'static str, &'static str>,
    /// The environment of commands, beside that of the test.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// Earlier stages by name.
    pub stages: BTreeMap<String, Built>,
}

impl Builder<'_> {
    /// Carries out a stage below a directory that is not there yet.
    pub fn build(&self, stage: &Stage, root: PathBuf) -> Result<Built, String> {
        fs::create_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))?;
        let mut built = Built {
            root,
            workdir: "/".to_owned(),
            user: "root".to_owned(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            owners: BTreeMap::new(),
            arguments: BTreeMap::new(),
        };
        for step in &stage.steps {
            self.carry_out(step, &mut built).map_err(|error| format!("{step:?}: {error}"))?;
        }
        Ok(built)
    }

    fn carry_out(&self, step: &Step, built: &mut Built) -> Result<(), String> {
        match step {
            Step::Workdir(path) => {
                built.workdir.clone_from(path);
                fs::create_dir_all(built.place(".")).map_err(|error| error.to_string())?;
            }
            Step::Copy(copy) => self.copy(copy, built)?,
            Step::Arg { name, usual } => {
                let given = self.arguments.get(name.as_str()).map(|given| (*given).to_owned());
                let value = given.or_else(|| usual.clone());
                built.arguments.extend(value.map(|value| (name.clone(), value)));
            }
            Step::Run(script) => {
                let mut command = Command::new("sh");
                command.args(["-c", script]).current_dir(built.place("."));
                // What cargo tells a test of its package makes dependencies look changed.
                let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
                let told =
                    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "NEXTEST", "LD_LIBRARY_"];
                for name in names.filter(|name| told.iter().any(|told| name.starts_with(told))) {
                    command.env_remove(name);
                }
                command.envs(built.arguments.iter()).envs(self.environment.iter().cloned());
                run(&mut command)?;
            }
            Step::User(user) => built.user.clone_from(user),
            Step::Expose(_) => {}
            Step::Entrypoint(words) => built.entrypoint.clone_from(words),
            Step::Cmd(words) => built.cmd.clone_from(words),
        }
        Ok(())
    }

    /// Copies as builders do: of a directory, what is in it. Times of files are kept.
    fn copy(&self, copy: &Copy, built: &mut Built) -> Result<(), String> {
        for source in &copy.sources {
            let from = match &copy.from {
                Some(name) => self.stages.get(name).ok_or("no such stage")?.place(source),
                None => self.in_source(source)?,
            };
            let mut to = built.place(&copy.to);
            if copy.to.ends_with('/') && from.is_file() {
                to.push(from.file_name().expect("a file has a name"));
            }
            let parent = to.parent().expect("below the root");
            fs::create_dir_all(parent).map_err(|error| error.to_string())?;
            let mut command = Command::new("cp");
            command.args(["-rT", "--preserve=mode,timestamps"]).arg(from).arg(to);
            run(&mut command)?;
        }
        built.owners.extend(copy.owner.clone().map(|owner| (copy.to.clone(), owner)));
        Ok(())
    }

    /// A file of the source, unless builders are told to leave it.
    fn in_source(&self, name: &str) -> Result<PathBuf, String> {
        let ignored = fs::read_to_string(self.source.join(".dockerignore")).unwrap_or_default();
        let ignored = ignored.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in ignored {
            if line.contains(['*', '?', '[', '!', '/']) {
                return Err(format!("{line} of .dockerignore is not known here"));
            }
            if name == "." || Path::new(name).starts_with(line) {
                return Err(format!("{line} is left out by .dockerignore"));
            }
        }
        Ok(self.source.join(name))
    }
}

impl Built {
    /// Where a path of this stage is on the machine.
    pub fn place(&self, path: &str) -> PathBuf {
        let absolute = Path::new(&self.workdir).join(path);
        self.root.join(absolute.strip_prefix("/").expect("joined to an absolute path"))
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(said(&output)) }
}
