//! What is said about each mistake in a file.

use super::tests::{load, load_with, write};
use super::*;

/// The mistakes as they are printed, without the directory of the file.
fn mistakes(text: &str, overrides: &Overrides) -> String {
    let error = load_with(text, overrides).expect_err(text);
    let ConfigError::Wrong { mistakes, .. } = error else { panic!("{error}") };
    ConfigError::Wrong { file: Some("tallyd.toml".into()), mistakes }.to_string()
}

fn assert_mistakes(cases: &[(&str, &str)]) {
    for (text, right) in cases {
        assert_eq!(mistakes(text, &Overrides::default()), *right, "in: {text}");
    }
}

#[test]
fn a_count_out_of_bounds_or_of_another_type_is_refused() {
    assert_mistakes(&[
        (
            "# a\n\n[queues.emails]\nconcurrency = 0",
            "tallyd.toml:4: queues.emails.concurrency must be 1 to 10000, got 0",
        ),
        (
            "queues.emails.concurrency = 10001",
            "tallyd.toml:1: queues.emails.concurrency must be 1 to 10000, got 10001",
        ),
        (
            "[queues]\nemails = { concurrency = \"5\" }",
            "tallyd.toml:2: queues.emails.concurrency must be 1 to 10000, got \"5\"",
        ),
        (
            "[defaults]\nmax_attempts = -1",
            "tallyd.toml:2: defaults.max_attempts must be 1 to 1000000, got -1",
        ),
        (
            "[defaults]\nmax_attempts = 99999999999999999999",
            "tallyd.toml:2: defaults.max_attempts must be 1 to 1000000, got 99999999999999999999",
        ),
        (
            "defaults.max_depth = 0",
            "tallyd.toml:1: defaults.max_depth must be 1 to 1000000000, or \"none\", got 0",
        ),
        (
            "defaults.max_dead = \"many\"",
            "tallyd.toml:1: defaults.max_dead must be 0 to 1000000000, or \"none\", got \"many\"",
        ),
        (
            "max_payload = \"1GiB\"",
            "tallyd.toml:1: max_payload must be 1KiB to 16MiB, a number of bytes or a size like \
             512KiB or 1MiB, got \"1GiB\"",
        ),
        ("max_pairs = 1.5", "tallyd.toml:1: max_pairs must be 1 to 10000, got 1.5"),
        (
            "max_queues = 1979-05-27",
            "tallyd.toml:1: max_queues must be 1 to 100000, got 1979-05-27",
        ),
    ]);
}

#[test]
fn a_duration_or_share_out_of_bounds_is_refused() {
    let duration_rule =
        "must be a duration, 1 to 9 digits and ms, s, m, h or d, like 500ms, 30s or 5m";
    assert_mistakes(&[
        (
            "[defaults]\nlease = \"200ms\"",
            "tallyd.toml:2: defaults.lease must be 1s to 1h, got \"200ms\"",
        ),
        (
            "[defaults]\ntimeout = 5",
            &format!("tallyd.toml:2: defaults.timeout {duration_rule}, got 5"),
        ),
        (
            "[defaults]\nkeep_dead = \"1 week\"",
            &format!("tallyd.toml:2: defaults.keep_dead {duration_rule}, got \"1 week\""),
        ),
        (
            "defaults.timeout = \"366d\"",
            "tallyd.toml:1: defaults.timeout must be 0s to 365d, got \"366d\"",
        ),
        (
            "defaults.backoff.factor = 0.5",
            "tallyd.toml:1: defaults.backoff.factor must be a number from 1 to 100, got 0.5",
        ),
        (
            "defaults.backoff = { jitter = nan }",
            "tallyd.toml:1: defaults.backoff.jitter must be a number from 0 to 1, got nan",
        ),
    ]);
}

#[test]
fn an_address_path_or_choice_that_is_none_is_refused() {
    assert_mistakes(&[
        (
            "listen = \"localhost:8255\"",
            "tallyd.toml:1: listen must be an IP address and a port, such as 127.0.0.1:8255, \
             got \"localhost:8255\"",
        ),
        (
            "data = \"\"",
            "tallyd.toml:1: data must be the path of a file, such as tallyd.db, got \"\"",
        ),
        (
            "data = \":memory:\"",
            "tallyd.toml:1: data must be the path of a file, such as tallyd.db, got \":memory:\"",
        ),
        (
            "backup_dir = true",
            "tallyd.toml:1: backup_dir must be the path of a directory, got true",
        ),
        (
            "strict_queues = \"yes\"",
            "tallyd.toml:1: strict_queues must be true or false, got \"yes\"",
        ),
        ("log_format = \"xml\"", "tallyd.toml:1: log_format must be text or json, got \"xml\""),
        (
            "log_level = 3",
            "tallyd.toml:1: log_level must be error, warn, info, debug or trace, got 3",
        ),
    ]);
}

#[test]
fn a_list_or_table_of_another_shape_is_refused() {
    assert_mistakes(&[
        (
            "defaults.backoff = \"5s\"",
            "tallyd.toml:1: defaults.backoff must be a table, got a string",
        ),
        ("hosts = \"a\"", "tallyd.toml:1: hosts must be a list of strings, got \"a\""),
        (
            "hosts = [\n  \"a\",\n  \"http://b\",\n]",
            "tallyd.toml:3: hosts[1] must be a host name without scheme and port, such as \
             jobs.example.com, got \"http://b\"",
        ),
        (
            "hosts = [\"a..\"]",
            "tallyd.toml:1: hosts[0] must be a host name without scheme and port, such as \
             jobs.example.com, got \"a..\"",
        ),
        ("queues = 5", "tallyd.toml:1: queues must be a table, got an integer"),
        ("[[queues]]\nname = \"a\"", "tallyd.toml:1: queues must be a table, got a list"),
    ]);
}

#[test]
fn an_unknown_key_is_refused_with_the_valid_ones() {
    assert_mistakes(&[
        (
            "listem = \"127.0.0.1:80\"",
            "tallyd.toml:1: unknown key listem; valid here are listen, metrics_listen, data, \
             backup_dir, drain_timeout, strict_queues, max_queues, max_pairs, max_payload, hosts, \
             log_format, log_level, insecure, tokens, token_file, defaults, queues",
        ),
        (
            "[queues.emails]\nkinds = []\nconcurency = 5",
            "tallyd.toml:3: unknown key queues.emails.concurency; valid here are concurrency, \
             kinds, max_attempts, timeout, lease, backoff, keep_completed, max_completed, \
             keep_dead, max_dead, max_depth, exec, http",
        ),
        (
            "[defaults]\nconcurrency = 5",
            "tallyd.toml:2: unknown key defaults.concurrency; valid here are max_attempts, \
             timeout, lease, backoff, keep_completed, max_completed, keep_dead, max_dead, max_depth",
        ),
        (
            "defaults.backoff.\"in\\u001bitial\" = \"5s\"",
            "tallyd.toml:1: unknown key defaults.backoff.\"in\\u{1b}itial\"; valid here are \
             initial, factor, max, jitter",
        ),
        (
            "[queues.a.exec]\ncommand = [\"x\"]\nshell = true",
            "tallyd.toml:3: unknown key queues.a.exec.shell; valid here are command, env, dir, user, \
             limits",
        ),
    ]);
}

#[test]
fn a_wrong_queue_is_refused() {
    let name_rule =
        "must be 1 to 128 of the characters A-Z a-z 0-9 _ . : - and the first a letter or digit";
    assert_mistakes(&[
        (
            "[queues.\"new mails\"]",
            &format!(
                "tallyd.toml:1: queues.\"new mails\" is no name for a queue, which {name_rule}"
            ),
        ),
        (
            "[queues.a]\nkinds = [\"x\", \"_y\"]",
            &format!("tallyd.toml:2: queues.a.kinds[1] {name_rule}, got \"_y\""),
        ),
        (
            "[queues.a]\nkinds = [\"x\", \"y\", \"x\"]",
            "tallyd.toml:2: queues.a.kinds must name each kind once, got \"x\" twice",
        ),
        (
            "[queues.a]\nexec = { command = [\"x\"] }\nhttp = { url = \"http://127.0.0.1\" }",
            "tallyd.toml:3: queues.a.http stands beside exec; a queue has one runner, so keep one \
             of them",
        ),
        (
            "[queues.a]\nexec = {}",
            "tallyd.toml:2: queues.a.exec needs a command, such as [\"/usr/bin/wc\", \"-c\"]",
        ),
    ]);
}

#[test]
fn a_wrong_receiver_is_refused_and_no_secret_is_shown() {
    const URL: &str = "must be a URL such as http://127.0.0.1:3000/jobs";
    let in_http = |keys: &str| format!("[queues.a]\nhttp = {{ {keys} }}");
    let with_url = |keys: &str| in_http(&format!("url = \"http://localhost/\", {keys}"));
    let cases = [
        (in_http(""), "http needs a url, such as \"http://127.0.0.1:3000/jobs\"".to_owned()),
        (in_http("url = \"ftp://a/\""), format!("http.url {URL}")),
        (in_http("url = \"/jobs\""), format!("http.url {URL}")),
        (in_http("url = 7"), format!("http.url {URL}")),
        (
            in_http("url = \"https://ada:hunter2@localhost/\""),
            "http.url must not have a user or password; use headers for them".to_owned(),
        ),
        (
            with_url("secret = \"hunter2\""),
            "http.secret must be whsec_ and 24 to 64 bytes in base64, as Standard Webhooks has it"
                .to_owned(),
        ),
        (
            with_url("secret = \"whsec_aHVudGVyMg==\""),
            "http.secret must be whsec_ and 24 to 64 bytes in base64, as Standard Webhooks has it"
                .to_owned(),
        ),
        (
            with_url("headers = { \"a b\" = \"hunter2\" }"),
            "http.headers.\"a b\" is no name for a header, such as authorization".to_owned(),
        ),
        (
            with_url("headers = { Content-Type = \"hunter2\" }"),
            "http.headers.Content-Type is a header that tallyd sets by itself".to_owned(),
        ),
        (
            with_url("headers = { Tallyd-Queue = \"hunter2\" }"),
            "http.headers.Tallyd-Queue is a header that tallyd sets by itself".to_owned(),
        ),
        (
            with_url("headers = { a = \"hunter2\\n\" }"),
            "http.headers.a must have a value of printable ASCII without spaces around it"
                .to_owned(),
        ),
        (
            with_url("headers = { a = \"hunter2\", A = \"hunter2\" }"),
            "http.headers.a is there twice; keep one".to_owned(),
        ),
        (
            with_url("connect_timeout = \"0s\""),
            "http.connect_timeout must be 100ms to 1m, got \"0s\"".to_owned(),
        ),
    ];
    for (text, wrong) in cases {
        let wrong = format!("tallyd.toml:2: queues.a.{wrong}");
        assert!(!wrong.contains("hunter2"));
        assert_mistakes(&[(&text, &wrong)]);
    }
}

#[test]
fn a_wrong_command_is_refused() {
    assert_mistakes(&[
        (
            "[queues.a.exec]\ncommand = []",
            "tallyd.toml:2: queues.a.exec.command must start with a program, as \
             [\"/usr/bin/wc\", \"-c\"] does",
        ),
        (
            "[queues.a.exec]\ncommand = \"wc -c\"",
            "tallyd.toml:2: queues.a.exec.command must be a list of strings, got \"wc -c\"",
        ),
        (
            "[queues.a.exec]\ncommand = [\"wc\"]\nuser = \"no-such-user\"",
            "tallyd.toml:3: queues.a.exec.user must be the name of a user of this machine, or a uid \
             and a gid such as 1000:1000, got \"no-such-user\"",
        ),
        (
            "[queues.a.exec]\ncommand = [\"wc\", 5]",
            "tallyd.toml:2: queues.a.exec.command[1] must be a string without NUL, got 5",
        ),
        (
            "[queues.a.exec]\ncommand = [\"wc\"]\nlimits = { memory = \"1KiB\" }",
            "tallyd.toml:3: queues.a.exec.limits.memory must be 1MiB to 1024GiB, a number of bytes \
             or a size like 512KiB or 1MiB, got \"1KiB\"",
        ),
        (
            "[queues.a.exec]\ncommand = [\"wc\"]\nlimits = { cpu = \"1500ms\" }",
            "tallyd.toml:3: queues.a.exec.limits.cpu must be whole seconds, such as 60s, got \
             \"1500ms\"",
        ),
        (
            "[queues.a.exec]\ncommand = [\"wc\"]\nlimits = { files = 3, disk = 1 }",
            "tallyd.toml:3: queues.a.exec.limits.files must be 16 to 1048576, got 3\n\
             tallyd.toml:3: unknown key queues.a.exec.limits.disk; valid here are memory, cpu, files",
        ),
        (
            "[queues.a.exec]\ncommand = [\"wc\"]\nenv = { PIN = 1234 }",
            "tallyd.toml:3: queues.a.exec.env.PIN must be a string, got an integer",
        ),
        (
            "[queues.a.exec]\ncommand = [\"wc\"]\nenv.TALLYD_KIND = \"x\"",
            "tallyd.toml:3: queues.a.exec.env.TALLYD_KIND must not start with TALLYD_, which is \
             kept for tallyd's own",
        ),
        (
            "[queues.a.exec]\ncommand = [\"wc\"]\nenv.1A = \"x\"",
            "tallyd.toml:3: queues.a.exec.env.1A is no name for a variable; use A-Z a-z 0-9 _, no \
             digit first",
        ),
        (
            "[queues.a.exec]\ncommand = [\"wc\"]\nenv.A = \"s\\u0000cret\"",
            "tallyd.toml:3: queues.a.exec.env.A must be a string without NUL",
        ),
    ]);
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    let value = "must be a TOML value, such as \"text\", 5, true or [\"a\", \"b\"]";
    let line = "a line must be key = value, [table] or # comment";
    assert_mistakes(&[
        (
            "max_pairs = 5\ndata = tallyd.db",
            &format!("tallyd.toml:2: data {value}: invalid boolean, expected `true`"),
        ),
        ("listen = 127.0.0.1:80", &format!("tallyd.toml:1: listen {value}: invalid float")),
        (
            "data = \"tallyd.db",
            &format!("tallyd.toml:1: data {value}: invalid basic string, expected `\"`"),
        ),
        ("\nlisten", &format!("tallyd.toml:2: {line}: key with no value, expected `=`")),
        ("[queues.a", &format!("tallyd.toml:1: {line}: unclosed table, expected `]`")),
        ("max_pairs = 5\nmax_pairs = 6", "tallyd.toml:2: max_pairs is there twice; keep one"),
        ("[queues.a]\n\n[queues.a]", "tallyd.toml:3: a is there twice; keep one"),
    ]);
}

#[test]
fn an_address_beyond_loopback_needs_consent() {
    let text = "\nlisten = \"0.0.0.0:8255\"";
    let rule = |address: &str| {
        format!(
            "must be a loopback address such as 127.0.0.1:8255, got {address}: there are \
             no tokens to know callers by; `tallyd token new NAME` makes one; to let everybody in who can reach it, give --insecure or \
             set TALLYD_INSECURE=true"
        )
    };
    let none = Overrides::default();
    assert_eq!(mistakes(text, &none), format!("tallyd.toml:2: listen {}", rule("0.0.0.0:8255")));
    assert_eq!(
        mistakes("metrics_listen = \"[::]:9000\"", &none),
        format!("tallyd.toml:1: metrics_listen {}", rule("[::]:9000"))
    );
    let outside = Overrides { metrics_listen: "192.0.2.1:9000".parse().ok(), ..none.clone() };
    assert_eq!(
        mistakes("", &outside),
        format!("--metrics-listen or TALLYD_METRICS_LISTEN {}", rule("192.0.2.1:9000"))
    );
    let insecure = Overrides { insecure: Some(true), ..outside };
    assert!(load_with(text, &insecure).unwrap().insecure);
    for loopback in ["127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert!(load(&format!("listen = \"{loopback}\"")).is_ok(), "{loopback}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    assert_mistakes(&[
        (
            "metrics_listen = \"127.0.0.1:8255\"",
            "tallyd.toml:1: metrics_listen must have another port than listen, 127.0.0.1:8255",
        ),
        (
            "insecure = true\nmetrics_listen = \"0.0.0.0:8255\"",
            "tallyd.toml:2: metrics_listen must have another port than listen, 127.0.0.1:8255",
        ),
        (
            "max_queues = 2\n[queues.a]\n[queues.b]",
            "tallyd.toml:2: queues must be at most max_queues, 2, got 3 with default",
        ),
        (
            "max_queues = 1\nstrict_queues = true\n[queues.a]\n[queues.b]",
            "tallyd.toml:3: queues must be at most max_queues, 1, got 2",
        ),
        (
            "max_pairs = 2\n[queues.a]\nkinds = [\"x\", \"y\"]\n[queues.b]\nkinds = [\"z\"]",
            "tallyd.toml:2: queues must have at most max_pairs, 2, kinds in all, got 3",
        ),
    ]);
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_lines() {
    let text = "max_pairs = 0\n[queues.a]\nconcurrency = 0\nlist = 1\n[defaults]\nlease = \"2h\"";
    let told = mistakes(text, &Overrides::default());
    let lines: Vec<_> = told.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(
        lines,
        ["tallyd.toml:1:", "tallyd.toml:3:", "tallyd.toml:4:", "tallyd.toml:6:"],
        "{told}"
    );
}

#[test]
fn a_file_full_of_mistakes_is_told_of_a_hundred_and_their_number() {
    let text: String = (0..5_000).rev().map(|number| format!("a{number} = 1\n")).collect();
    let told = mistakes(&text, &Overrides::default());
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 101);
    assert!(lines[..100].iter().all(|line| line.contains(": unknown key a")), "{told}");
    assert_eq!(lines[100], "and 4900 more mistakes; mend these first");
}

#[test]
fn a_key_is_shown_as_far_as_it_can_be_right_and_without_control_characters() {
    let (long, cut) = ("k".repeat(5_000), "k".repeat(128));
    let told = |text: &str| mistakes(text, &Overrides::default());
    for (text, said) in [
        (format!("{long} = 1"), format!("tallyd.toml:1: unknown key {cut}...; valid here are ")),
        (format!("{long} = "), format!("tallyd.toml:1: {cut}... must be a TOML value")),
        (
            format!("{long} = 1\n{long} = 2"),
            format!("tallyd.toml:2: {cut}... is there twice; keep one"),
        ),
        (
            "'\u{9b}m' = 1\n'\u{9b}m' = 2".to_owned(),
            "tallyd.toml:2: \"'\\u{9b}m'\" is there twice; keep one".to_owned(),
        ),
    ] {
        assert!(told(&text).starts_with(&said), "{}", told(&text));
    }
}

#[test]
fn an_unreadable_file_is_refused() {
    let missing = Config::load(Some(Path::new("no/tallyd.toml")), &Overrides::default());
    assert_eq!(missing.unwrap_err().to_string(), "cannot read no/tallyd.toml");
    let (_directory, file) = write(b"\nlisten = \"\xff\"");
    let binary = Config::load(Some(&file), &Overrides::default()).unwrap_err().to_string();
    assert!(binary.ends_with("tallyd.toml:2: a configuration must be UTF-8 text"), "{binary}");
    let endless = Config::load(Some(Path::new("/dev/zero")), &Overrides::default());
    assert!(matches!(endless, Err(ConfigError::Unreadable { .. })), "{endless:?}");
}
