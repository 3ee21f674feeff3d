//! The programs of others that check what tallyd says; `tests/run.sh` installs them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A program by the variable that says where it is.
fn tool(variable: &str) -> Command {
    match std::env::var_os(variable) {
        Some(path) => Command::new(path),
        None => panic!(
            "{variable} is not set; run `tests/run.sh tools` once, then `. target/tools.env`"
        ),
    }
}

/// Runs Python, with the packages that `tests/run.sh` installs, on a script of this directory.
pub fn python(script: &str, arguments: &[&Path], input: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(script);
    let mut command = tool("TALLYD_PYTHON");
    command.arg("-I").arg(script).args(arguments);
    run(command, input)
}

/// Python itself, for a script that needs no packages.
pub fn python_alone() -> Command {
    tool("TALLYD_PYTHON")
}

/// Runs kubectl, which asks no cluster.
pub fn kubectl(arguments: &[&str]) -> Output {
    let mut command = tool("TALLYD_KUBECTL");
    command.args(arguments);
    run(command, "")
}

/// Runs a module of Python's packages.
pub fn python_module(module: &str, arguments: &[&str], input: &str) -> Output {
    let mut command = tool("TALLYD_PYTHON");
    command.args(["-I", "-m", module]).args(arguments);
    run(command, input)
}

/// Runs Node on a script of this directory, which is told where the packages are.
pub fn node(script: &str, input: &str) -> Output {
    let modules = std::env::var_os("TALLYD_NODE_MODULES").expect("set by tests/run.sh tools");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(script);
    let mut command = Command::new("node");
    command.arg(script).arg(modules);
    run(command, input)
}

/// Runs promtool.
pub fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut command = tool("TALLYD_PROMTOOL");
    command.args(arguments);
    run(command, input)
}

/// Prometheus itself; `prometheus.rs` starts it.
pub fn prometheus() -> Command {
    tool("TALLYD_PROMETHEUS")
}

fn run(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    // These programs read all before they write much.
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it is our child")
}

/// All that a program said, to people.
pub fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}
