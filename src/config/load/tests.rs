//! What a file means, and how it is merged and written.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::config::{
    BackoffPolicy, ExecConfig, ExecLimits, ExecUser, LogFormat, LogLevel, Policy, Runner,
};

pub(super) fn load(text: &str) -> Result<Config, ConfigError> {
    load_with(text, &Overrides::default())
}

pub(super) fn load_with(text: &str, overrides: &Overrides) -> Result<Config, ConfigError> {
    let (_directory, file) = write(text.as_bytes());
    Config::load(Some(&file), overrides)
}

pub(super) fn write(bytes: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tallyd.toml");
    std::fs::write(&file, bytes).unwrap();
    (directory, file)
}

#[test]
fn without_a_file_the_defaults_apply() {
    let config = Config::load(None, &Overrides::default()).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(load("").unwrap(), Config::default());
    assert_eq!(config.data, PathBuf::from("tallyd.db"));
    assert_eq!(config.queues.keys().collect::<Vec<_>>(), ["default"]);
}

#[test]
fn every_top_level_key_is_read() {
    let text = r#"
        listen = "[::1]:8000"
        metrics_listen = "127.0.0.1:9000"
        data = "/var/lib/tallyd/jobs.db"
        backup_dir = "backups"
        drain_timeout = "2m"
        strict_queues = true
        max_queues = 10
        max_pairs = 20
        max_payload = "512KiB"
        hosts = ["Jobs.example.com", "jobs"]
        log_format = "json"
        log_level = "debug"
    "#;
    let config = load(text).unwrap();
    assert_eq!(config.listen.to_string(), "[::1]:8000");
    assert_eq!(config.metrics_listen, "127.0.0.1:9000".parse().ok());
    assert_eq!(config.data, PathBuf::from("/var/lib/tallyd/jobs.db"));
    assert_eq!(config.backup_dir, Some("backups".into()));
    assert_eq!(config.drain_timeout, Duration::from_secs(120));
    assert!(config.strict_queues);
    assert_eq!((config.max_queues, config.max_pairs, config.max_payload), (10, 20, 512 << 10));
    assert_eq!(config.hosts, ["jobs.example.com", "jobs"]);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(load("max_payload = 4096").unwrap().max_payload, 4096);
}

#[test]
fn a_queue_falls_back_to_the_defaults_key_by_key() {
    let text = r#"
        [defaults]
        max_attempts = 3
        timeout = "0s"
        backoff = { initial = "1s", factor = 1.5 }
        max_depth = 100
        max_dead = 7

        [queues.reports]
        concurrency = 2
        kinds = ["daily", "weekly"]
        lease = "2m"
        backoff.jitter = 0
        max_depth = "none"
        keep_dead = "1d"
        exec = { command = ["/usr/bin/wc", "-c"], env = { LANG = "C" }, dir = "/tmp", user = "47:48", limits = { memory = "2GiB", cpu = "1m", files = 256 } }
    "#;
    let config = load(text).unwrap();
    let backoff =
        BackoffPolicy { initial: Duration::from_secs(1), factor: 1.5, ..BackoffPolicy::default() };
    let defaults = Policy {
        max_attempts: 3,
        timeout: None,
        backoff,
        max_depth: Some(100),
        max_dead: Some(7),
        ..Policy::default()
    };
    assert_eq!(config.defaults, defaults);
    assert_eq!(config.queues["default"], QueueConfig::leased(defaults.clone()));
    let exec = ExecConfig {
        command: vec!["/usr/bin/wc".into(), "-c".into()],
        env: BTreeMap::from([("LANG".into(), "C".into())]),
        dir: Some("/tmp".into()),
        user: Some(ExecUser { name: "47:48".into(), uid: 47, gid: 48, groups: vec![48] }),
        limits: ExecLimits {
            memory: Some(2 << 30),
            cpu: Some(Duration::from_secs(60)),
            files: Some(256),
        },
    };
    let reports = QueueConfig {
        concurrency: 2,
        kinds: vec!["daily".into(), "weekly".into()],
        policy: Policy {
            lease: Duration::from_secs(120),
            backoff: BackoffPolicy { jitter: 0.0, ..backoff },
            max_depth: None,
            keep_dead: Duration::from_secs(86_400),
            ..defaults
        },
        runner: Runner::Exec(exec),
    };
    assert_eq!(config.queues["reports"], reports);
}

#[test]
fn the_default_queue_is_there_unless_others_are_listed_strictly() {
    let names = |text| load(text).unwrap().queues.into_keys().collect::<Vec<_>>();
    assert_eq!(names("[queues.emails]"), ["default", "emails"]);
    assert_eq!(names("strict_queues = true"), ["default"]);
    assert_eq!(names("strict_queues = true\n[queues.emails]"), ["emails"]);
    assert_eq!(names("strict_queues = true\n[queues.default]"), ["default"]);
    let strict = Overrides { strict_queues: Some(true), ..Overrides::default() };
    assert_eq!(load_with("[queues.emails]", &strict).unwrap().queues.len(), 1);
}

#[test]
fn overrides_win_over_the_file() {
    let overrides = Overrides {
        listen: "127.0.0.1:1".parse().ok(),
        metrics_listen: "127.0.0.1:2".parse().ok(),
        data: Some("b.db".into()),
        backup_dir: Some("b".into()),
        drain_timeout: Some(Duration::from_secs(1)),
        strict_queues: Some(false),
        max_queues: Some(3),
        max_pairs: Some(4),
        max_payload: Some(2048),
        hosts: Some(vec!["b".into()]),
        log_format: Some(LogFormat::Text),
        log_level: Some(LogLevel::Error),
        web_config: None,
        token_file: None, // of which there is a test beside tokens
        insecure: Some(false),
    };
    let text = r#"
        listen = "0.0.0.0:8000"
        metrics_listen = "0.0.0.0:9000"
        data = "a.db"
        backup_dir = "a"
        drain_timeout = "2m"
        strict_queues = true
        max_queues = 10
        max_pairs = 20
        max_payload = 4096
        hosts = ["a"]
        log_format = "json"
        log_level = "debug"
        insecure = true
    "#;
    assert!(load(text).unwrap().insecure);
    assert_eq!(load_with(text, &overrides).unwrap(), load_with("", &overrides).unwrap());
    assert_eq!(load_with("", &Overrides::default()).unwrap().max_pairs, 500);
}

#[test]
fn a_loaded_configuration_is_written_so_that_it_loads_again() {
    let text = r#"
        metrics_listen = "0.0.0.0:9000"
        backup_dir = "with \"quotes\" and \\"
        insecure = true
        max_payload = 5000
        [defaults]
        max_depth = 5
        max_dead = 0
        timeout = "1500ms"
        [queues."a.b:c-d"]
        max_depth = "none"
        backoff = { factor = 3, jitter = 0.25 }
        [queues.reports]
        timeout = "0s"
        kinds = ["x"]
        exec = { command = ["/bin/echo", "it's \"so\"\n"] }
    "#;
    let config = load(text).unwrap();
    assert_eq!(load(&config.to_toml().unwrap()).unwrap(), config);
    let config = Config::default();
    assert_eq!(load(&config.to_toml().unwrap()).unwrap(), config);
}

#[test]
fn a_memory_limit_of_any_size_reads_back() {
    for bytes in ["1048576", "1099511627775", "\"999999999\"", "\"1023GiB\""] {
        let text =
            format!("[queues.a]\nexec = {{ command = [\"x\"], limits = {{ memory = {bytes} }} }}");
        let config = load(&text).unwrap();
        assert_eq!(load(&config.to_toml().unwrap()).unwrap(), config, "{bytes}");
    }
}

#[test]
fn values_of_variables_are_not_written() {
    let text = "[queues.a.exec]\ncommand = ['x']\nenv = { TOKEN = 'hunter2' }";
    let written = load(text).unwrap().to_toml().unwrap();
    assert!(!written.contains("hunter2"), "{written}");
    assert!(written.contains("TOKEN = \"***\""), "{written}");
    assert!(load(&written).is_ok(), "{written}");
}

#[test]
fn a_receiver_is_read_and_its_secrets_are_hidden() {
    let key = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let text = format!(
        "[queues.a.http]\nurl = 'https://localhost/jobs'\nsecret = 'whsec_{key}'\n\
         headers = {{ Authorization = 'Bearer hunter2' }}\nconnect_timeout = '2s'"
    );
    let config = load(&text).expect("it is right");
    let Runner::Http(http) = config.runner("a") else { panic!("it is pushed") };
    assert_eq!(
        (&*http.url, http.connect_timeout),
        ("https://localhost/jobs", Duration::from_secs(2))
    );
    assert_eq!(http.secret.as_ref().map(|secret| secret.bytes().len()), Some(24));
    assert_eq!(http.headers["authorization"], "Bearer hunter2");
    for shown in [config.to_toml().expect("it has a form"), format!("{:?}", http.secret)] {
        assert!(!shown.contains(key) && !shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("***"), "{shown}");
    }
}
