//! A real Prometheus for a test: on a free port, with its data in a temporary directory.
//!
//! ```ignore
//! let prometheus = Prometheus::start(&scraping(&daemon.url(""), "500ms"), &[]);
//! prometheus.scraped().await;
//! let ready = prometheus.query(r#"tallyd_jobs{state="ready"}"#).await;
//! assert_eq!(ready[0].last(), 3.0);
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::fixture::{Daemon, PATIENCE};
use crate::tools;

/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(20);

/// A running Prometheus; it ends when this is dropped.
pub struct Prometheus {
    pub directory: TempDir,
    url: String,
    client: reqwest::Client,
    child: Child,
}

/// A time series: its labels, `__name__` among them, and its samples in the order of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub labels: BTreeMap<String, String>,
    /// Seconds since the epoch, and the value.
    pub samples: Vec<(f64, f64)>,
}

impl Series {
    /// The value of a label; empty without it, as in PromQL.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", |value| value)
    }

    /// The last value, which is the only one of an instant query.
    pub fn last(&self) -> f64 {
        self.samples.last().expect("a series has a sample").1
    }
}

/// A configuration that scrapes the daemon at this URL as job `tallyd`, this often. More sections
/// can be put behind it.
pub fn scraping(url: &str, interval: &str) -> String {
    let address = url.trim_start_matches("http://");
    format!(
        "global: {{scrape_interval: {interval}, evaluation_interval: {interval}}}\n\
         scrape_configs:\n\
         - {{job_name: tallyd, static_configs: [{{targets: ['{address}']}}]}}\n"
    )
}

impl Prometheus {
    /// Starts it with this `prometheus.yml`, with other files (name and text) beside it, and waits
    /// until it answers queries.
    pub fn start(config: &str, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in [("prometheus.yml", config)].iter().chain(files) {
            std::fs::write(directory.path().join(name), text).expect("it can be written");
        }
        let mut command = tools::prometheus();
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
        command.args(["--web.listen-address=127.0.0.1:0"]).current_dir(directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let log = read_log(&mut child, File::create(directory.path().join("log")).unwrap());
        let (url, client) = (String::new(), crate::fixture::client());
        let mut prometheus = Self { directory, url, client, child };
        let mut seen = Vec::new();
        // The two lines come in either order.
        let is_ready = |line: &String| line.contains("ready to receive");
        while prometheus.url.is_empty() || !seen.iter().any(is_ready) {
            let line = log.recv_timeout(PATIENCE).unwrap_or_else(|error| {
                panic!("it does not start ({error}):\n{}", seen.join("\n"));
            });
            if let Some((_, address)) = line.split_once(r#"msg="Listening on" address="#) {
                prometheus.url = format!("http://{address}");
            }
            seen.push(line);
        }
        prometheus
    }

    /// Goes on with this `prometheus.yml`.
    pub fn reload(&self, config: &str) {
        std::fs::write(self.directory.path().join("prometheus.yml"), config).expect("it is there");
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("it runs");
    }

    /// A path of its HTTP API, below `/api/v1/`, with parameters: the `data` of its answer.
    pub async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let request = self.client.get(format!("{}/api/v1/{path}", self.url)).timeout(PATIENCE);
        let response = request.query(parameters).send().await.expect("it answers");
        let text = response.text().await.expect("the answer is whole");
        let mut answer: Value = serde_json::from_str(&text).unwrap_or_default();
        assert_eq!(answer["status"], "success", "{path} {parameters:?}: {text}");
        answer["data"].take()
    }

    /// What an expression says now. Of a selector over a window (`name[10m]`) these are the
    /// samples themselves, as they were scraped.
    pub async fn query(&self, expression: &str) -> Vec<Series> {
        series(&self.ask("query", &[("query", expression)]).await)
    }

    /// What an expression says at `start` and after every `step` until `end`, all in seconds.
    pub async fn query_range(
        &self,
        expression: &str,
        start: f64,
        end: f64,
        step: f64,
    ) -> Vec<Series> {
        let [start, end, step] = [start, end, step].map(|seconds| seconds.to_string());
        let range = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
        series(&self.ask("query_range", &range).await)
    }

    /// The alerts that are pending or firing, as the API has them: `labels`, `state`, `value`.
    pub async fn alerts(&self) -> Vec<Value> {
        self.ask("alerts", &[]).await["alerts"].as_array().expect("a list").clone()
    }

    /// Its present time in seconds.
    pub async fn now(&self) -> f64 {
        self.query("time()").await[0].last()
    }

    /// Waits until an expression says something.
    pub async fn until(&self, expression: &str) -> Vec<Series> {
        let mut looks = tokio::time::interval(LOOK);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            looks.tick().await;
            let said = self.query(expression).await;
            if !said.is_empty() {
                return said;
            }
            if tokio::time::Instant::now() >= deadline {
                let targets = self.ask("targets", &[("state", "active")]).await;
                panic!("nothing says {expression}; its targets: {targets:#}");
            }
        }
    }

    /// Waits until every target has been scraped, and has answered, since this call.
    pub async fn scraped(&self) {
        let now = self.now().await;
        let targets = self.ask("targets", &[("state", "active")]).await;
        let targets = targets["activeTargets"].as_array().expect("a list").len().max(1);
        let scraped = format!("count(timestamp(up) > {now} and up == 1) == {targets}");
        self.until(&scraped).await;
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("the Prometheus of the test is kept in {}", self.directory.path().display());
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Keeps its log in a file, and passes it on as long as somebody listens.
fn read_log(child: &mut Child, mut kept: File) -> mpsc::Receiver<String> {
    let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let (sender, log) = mpsc::channel();
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            // The directory goes before the last lines come.
            drop(writeln!(kept, "{line}"));
            drop(sender.send(line));
        }
    });
    log
}

/// The series of an answer, whatever its type; a scalar is one without labels.
fn series(data: &Value) -> Vec<Series> {
    let sample = |pair: &Value| {
        let value = pair[1].as_str().expect("a value is text");
        (pair[0].as_f64().expect("a time"), value.parse().expect("a value is a number"))
    };
    if data["resultType"] == "scalar" {
        return vec![Series { labels: BTreeMap::new(), samples: vec![sample(&data["result"])] }];
    }
    let all = data["result"].as_array().expect("a list").iter().map(|one| {
        let samples = match one["values"].as_array() {
            Some(values) => values.iter().map(sample).collect(),
            None => vec![sample(&one["value"])],
        };
        let labels = serde_json::from_value(one["metric"].clone()).expect("labels are text");
        Series { labels, samples }
    });
    all.collect()
}

#[tokio::test]
async fn a_real_prometheus_scrapes_a_daemon_and_answers() {
    let daemon = Daemon::start("");
    let rule = "groups: [{name: g, rules: [{alert: Up, expr: 'up == 1'}]}]";
    let config = scraping(&daemon.url(""), "100ms") + "rule_files: [rules.yml]\n";
    let prometheus = Prometheus::start(&config, &[("rules.yml", rule)]);
    prometheus.scraped().await;
    let start = prometheus.now().await;
    daemon.post("/v1/jobs", serde_json::json!({"kind": "k"})).await;
    prometheus.scraped().await;

    let created = r#"tallyd_jobs_created_total{kind="k"}"#;
    let said = prometheus.query(created).await;
    assert_eq!((said.len(), said[0].label("job"), said[0].last()), (1, "tallyd", 1.0));
    assert_eq!(prometheus.query(&format!("{created} > 1")).await, []);
    let samples = prometheus.query("up[10m]").await.remove(0).samples;
    assert!(samples.len() > 1 && samples.iter().all(|(_, up)| *up == 1.0), "{samples:?}");
    let range = prometheus.query_range("vector(7)", start, start + 2.0, 0.5).await;
    assert_eq!(range[0].samples.len(), 5);
    prometheus.until("ALERTS{alertname=\"Up\",alertstate=\"firing\"}").await;
    assert_eq!(prometheus.alerts().await[0]["labels"]["alertname"], "Up");
}
