//! The command line and the configuration, as an operator meets them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// `tallyd` with an environment in which only these variables are set.
fn tallyd(directory: &Path, flags: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tallyd"))
        .current_dir(directory)
        .args(flags)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .expect("the binary was built with the tests")
}

fn with_file(text: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("tallyd.toml"), text).expect("it can be written");
    directory
}

fn check(directory: &TempDir, flags: &[&str], variables: &[(&str, &str)]) -> Output {
    let all = ["check", "--config", "tallyd.toml"].iter().chain(flags).copied();
    tallyd(directory.path(), &all.collect::<Vec<_>>(), variables)
}

/// The effective value of a top-level key.
fn effective(output: &Output, key: &str) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    let table: toml::Table = toml::from_str(&stdout(output)).expect("check prints TOML");
    table[key].to_string()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("output is UTF-8")
}

#[test]
fn a_mistake_in_the_file_exits_2_with_file_line_and_key() {
    for (text, said) in [
        (
            "# queues\n[queues.emails]\nconcurrency = 0\n",
            "tallyd.toml:3: queues.emails.concurrency must be 1 to 10000, got 0\n",
        ),
        ("max_pairs = 5\nmax_pairs = 6\n", "tallyd.toml:2: max_pairs is there twice; keep one\n"),
        (
            "[defaults]\nlease = \"2h\"\n[queues.a]\nexec = {}\n",
            "tallyd.toml:2: defaults.lease must be 1s to 1h, got \"2h\"\n\
             tallyd.toml:4: queues.a.exec needs a command, such as [\"/usr/bin/wc\", \"-c\"]\n",
        ),
    ] {
        let output = check(&with_file(text), &[], &[]);
        assert_eq!(stderr(&output), said);
        assert_eq!(stdout(&output), "");
        assert_eq!(output.status.code(), Some(2), "{text}");
    }
}

#[test]
fn a_missing_file_exits_2_with_its_name_and_the_cause() {
    let directory = tempfile::tempdir().unwrap();
    let output = tallyd(directory.path(), &["check", "--config", "none.toml"], &[]);
    assert_eq!(stderr(&output), "cannot read none.toml: No such file or directory (os error 2)\n");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_wrong_command_line_exits_2() {
    let directory = tempfile::tempdir().unwrap();
    for flags in [&[][..], &["fly"], &["check", "--fly"], &["check", "--max-pairs", "0"]] {
        let output = tallyd(directory.path(), flags, &[]);
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(!output.stderr.is_empty(), "{flags:?}");
    }
    let output = tallyd(directory.path(), &["check"], &[("TALLYD_LISTEN", "here")]);
    assert!(stderr(&output).contains("'here' for '--listen <ADDRESS>'"), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn an_address_beyond_loopback_exits_2_without_consent() {
    let directory = with_file("listen = \"0.0.0.0:8255\"");
    let output = check(&directory, &[], &[]);
    let said = stderr(&output);
    assert!(said.starts_with("tallyd.toml:1: listen must be a loopback address"), "{said}");
    assert!(said.contains("--insecure"), "{said}");
    assert_eq!(output.status.code(), Some(2));
    // Nobody has this address: if it were not refused, it could not be bound.
    let flags = ["serve", "--listen=192.0.2.1:8255", "--data=started.db"];
    let output = tallyd(directory.path(), &flags, &[]);
    assert!(stderr(&output).contains("must be a loopback address"), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(2));
    assert!(!directory.path().join("started.db").exists(), "nothing is made before");

    for (flags, variables) in [
        (&["--insecure"][..], &[][..]),
        (&[], &[("TALLYD_INSECURE", "1")]),
        (&["--listen", "[::1]:8255"], &[]),
    ] {
        let output = check(&directory, flags, variables);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
}

#[test]
fn a_flag_wins_over_the_environment_which_wins_over_the_file() {
    let keys = [
        ("listen", ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]),
        ("metrics_listen", ["127.0.0.1:11", "127.0.0.1:12", "127.0.0.1:13"]),
        ("data", ["a.db", "b.db", "c.db"]),
        ("backup_dir", ["a", "b", "c"]),
        ("drain_timeout", ["1s", "2s", "3s"]),
        ("max_payload", ["1KiB", "2KiB", "3KiB"]),
        ("log_format", ["json", "text", "json"]),
        ("log_level", ["warn", "debug", "error"]),
    ];
    for (key, [in_file, in_environment, in_flag]) in keys {
        let directory = with_file(&format!("{key} = \"{in_file}\""));
        let variable = format!("TALLYD_{}", key.to_uppercase());
        let variables = [(variable.as_str(), in_environment)];
        let flag = format!("--{}={in_flag}", key.replace('_', "-"));
        let quoted = |text| format!("\"{text}\"");
        assert_eq!(effective(&check(&directory, &[], &[]), key), quoted(in_file));
        assert_eq!(effective(&check(&directory, &[], &variables), key), quoted(in_environment));
        assert_eq!(effective(&check(&directory, &[&flag], &variables), key), quoted(in_flag));
    }
}

#[test]
fn bare_and_listed_values_are_overridden_too() {
    let keys = [
        ("strict_queues", ["false", "true", "false"]),
        ("insecure", ["true", "false", "true"]),
        ("max_queues", ["11", "12", "13"]),
        ("max_pairs", ["21", "22", "23"]),
        ("hosts", ["[\"a\"]", "[\"b\", \"c\"]", "[\"d\"]"]),
    ];
    let bare = |text: &str| text.replace(['[', ']', '"', ' '], "");
    for (key, [in_file, in_environment, in_flag]) in keys {
        let directory = with_file(&format!("{key} = {in_file}"));
        let variable = format!("TALLYD_{}", key.to_uppercase());
        let value = bare(in_environment);
        let variables = [(variable.as_str(), value.as_str())];
        let flag = format!("--{}={}", key.replace('_', "-"), bare(in_flag));
        assert_eq!(effective(&check(&directory, &[], &[]), key), in_file);
        assert_eq!(effective(&check(&directory, &[], &variables), key), in_environment);
        assert_eq!(effective(&check(&directory, &[&flag], &variables), key), in_flag);
    }
}

#[test]
fn what_check_prints_is_a_configuration_with_the_same_effect() {
    let text = "[queues.a]\nmax_depth = 5\nexec = { command = [\"/usr/bin/wc\", \"-c\"] }";
    let first = check(&with_file(text), &["--max-pairs=7", "--listen=[::]:80", "--insecure"], &[]);
    let second = check(&with_file(&stdout(&first)), &[], &[]);
    assert_eq!(stdout(&second), stdout(&first), "{}", stderr(&second));
    assert!(stdout(&second).contains("max_pairs = 7\n"), "{}", stdout(&second));
}

#[test]
fn the_file_can_be_named_in_the_environment() {
    let directory = with_file("max_pairs = 7");
    let output = tallyd(directory.path(), &["check"], &[("TALLYD_CONFIG", "tallyd.toml")]);
    assert_eq!(effective(&output, "max_pairs"), "7");
    let output = tallyd(directory.path(), &["check"], &[]);
    assert_eq!(effective(&output, "max_pairs"), "500");
}

#[test]
fn the_shipped_configuration_is_right() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let output = tallyd(&root, &["check", "--config", "deploy/systemd/tallyd.toml"], &[]);
    let queues = effective(&output, "queues");
    for queue in ["checksums", "emails", "default"] {
        assert!(queues.contains(queue), "{queues}");
    }
}
