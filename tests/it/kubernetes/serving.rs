//! A real tallyd with the shipped configuration, asked as the cluster asks it.

use std::process::Stdio;

use reqwest::StatusCode;
use reqwest::header::HOST;
use serde_json::{Value, json};
use tokio::process::Command;

use super::rendered::{Rendered, container, words};
use crate::fixture::{Daemon, PATIENCE};
use crate::tools::python_alone;

/// The shipped configuration on ports of its own, and where its metrics are.
fn serve(rendered: &Rendered) -> (Daemon, String) {
    let mut configuration: toml::Table = rendered.configuration().parse().unwrap();
    let metrics = configuration.insert("metrics_listen".to_owned(), "127.0.0.1:0".into());
    assert!(metrics.is_some(), "it has an address of its own");
    let mut daemon = Daemon::prepare(&configuration.to_string());
    daemon.launch();
    let line = daemon.wait_for_log(|line| line["message"] == "serving metrics");
    let address = line["address"].as_str().unwrap().to_owned();
    assert!(daemon.serves(), "{}", daemon.log());
    (daemon, address)
}

/// The answer to a request that is addressed to a host of this name.
async fn ask(daemon: &Daemon, url: &str, host: &str) -> (StatusCode, String) {
    let request = daemon.client.get(url).header(HOST, host).timeout(PATIENCE);
    let answer = request.send().await.expect("it answers");
    (answer.status(), answer.text().await.unwrap())
}

#[test]
fn the_configuration_is_right_as_it_is_shipped() {
    let place = tempfile::tempdir().unwrap();
    for rendered in Rendered::all() {
        std::fs::write(place.path().join("tallyd.toml"), rendered.configuration()).unwrap();
        let set = rendered.object("StatefulSet", "tallyd");
        let arguments = words(&container(&set["spec"]["template"])["args"]);
        assert_eq!(arguments, ["serve", "--config", "/etc/tallyd/tallyd.toml"]);
        let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_tallyd"));
        check.args(["check", "--config", "tallyd.toml"]).current_dir(&place).env_clear();
        let output = check.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn probes_and_scrapes_are_answered_at_the_address_of_the_pod() {
    let rendered = Rendered::whole();
    let pod = &rendered.object("StatefulSet", "tallyd")["spec"]["template"];
    let (daemon, metrics) = serve(&rendered);
    // Callers that hold all connections of their port must not cause a restart.
    for (probe, path, port, url) in [
        ("startupProbe", "/-/ready", "http", daemon.url("/-/ready")),
        ("readinessProbe", "/-/ready", "http", daemon.url("/-/ready")),
        ("livenessProbe", "/-/healthy", "metrics", format!("http://{metrics}/-/healthy")),
    ] {
        let get = &container(pod)[probe]["httpGet"];
        assert_eq!((&get["path"], &get["port"]), (&path.into(), &port.into()), "{probe}");
        let (status, text) = ask(&daemon, &url, "10.1.2.3:8255").await;
        assert_eq!(status, StatusCode::OK, "{probe}: {text}");
    }
    let (status, text) = ask(&daemon, &format!("http://{metrics}/metrics"), "10.1.2.3:8256").await;
    assert!(status.is_success() && text.contains("tallyd_build_info"), "{text}");
    let (status, _) = ask(&daemon, &format!("http://{metrics}/v1/stats"), "10.1.2.3:8256").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "who may only look cannot do more");
}

/// The value after a flag.
fn flag<'a>(arguments: &[&'a str], name: &str) -> &'a str {
    let position = arguments.iter().position(|word| *word == name);
    arguments[position.unwrap_or_else(|| panic!("{name} in {arguments:?}")) + 1]
}

/// The host and port of a URL.
fn authority(url: &str) -> &str {
    url.strip_prefix("http://").expect("a URL").split('/').next().expect("it has a host")
}

#[tokio::test]
async fn every_name_of_the_service_is_served() {
    let rendered = Rendered::whole();
    let service = &rendered.object("Service", "tallyd")["metadata"];
    let (name, namespace) =
        (service["name"].as_str().unwrap(), service["namespace"].as_str().unwrap());
    let mut hosts = vec![format!("{name}:8255")];
    for suffix in ["", ".svc", ".svc.cluster.local"] {
        hosts.push(format!("{name}.{namespace}{suffix}:8255"));
    }
    let worker = &rendered.object("Deployment", "tallyd-worker")["spec"]["template"];
    let server = flag(&words(&container(worker)["args"]), "--server");
    assert!(hosts.contains(&authority(server).to_owned()), "{server}");
    for trigger in triggers(&rendered) {
        let url = trigger["metadata"]["url"].as_str().unwrap();
        assert!(hosts.contains(&authority(url).to_owned()), "{url}");
    }

    let (daemon, _) = serve(&rendered);
    for host in &hosts {
        let (status, text) = ask(&daemon, &daemon.url("/v1/stats"), host).await;
        assert_eq!(status, StatusCode::OK, "{host}: {text}");
    }
    let (status, _) = ask(&daemon, &daemon.url("/v1/stats"), "tallyd.other:8255").await;
    assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "no other name");
}

fn triggers(rendered: &Rendered) -> Vec<Value> {
    let scaled = rendered.object("ScaledObject", "tallyd-worker");
    scaled["spec"]["triggers"].as_array().unwrap().clone()
}

/// What a trigger reads, as KEDA reads it: by names with dots between them.
async fn reading(daemon: &Daemon, trigger: &Value) -> Value {
    assert_eq!(trigger["type"], "metrics-api");
    let (_, path) = trigger["metadata"]["url"].as_str().unwrap().split_once(":8255").unwrap();
    let (status, stats) = daemon.get(path).await;
    assert_eq!(status, StatusCode::OK, "{stats}");
    let names = trigger["metadata"]["valueLocation"].as_str().unwrap().split('.');
    names.fold(&stats, |value, name| &value[name]).clone()
}

#[tokio::test]
async fn workers_are_scaled_by_what_is_ready_and_what_runs() {
    let rendered = Rendered::whole();
    let [ready, running] = &triggers(&rendered)[..] else { panic!("two triggers") };
    let worker = &rendered.object("Deployment", "tallyd-worker")["spec"]["template"];
    let arguments = words(&container(worker)["args"]);
    let queue = *arguments.last().unwrap();
    assert_eq!(running["metadata"]["targetValue"], flag(&arguments, "--concurrency"));

    let (daemon, _) = serve(&rendered);
    let counts = async || (reading(&daemon, ready).await, reading(&daemon, running).await);
    assert_eq!(counts().await, (json!(0), json!(0)), "they are there before the first job");
    for _ in 0..3 {
        let job = json!({"queue": queue, "kind": "welcome"});
        assert_eq!(daemon.post("/v1/jobs", job).await.0, StatusCode::CREATED);
    }
    daemon.post("/v1/leases", json!({"queues": [queue]})).await;
    assert_eq!(counts().await, (json!(2), json!(1)));
}

#[tokio::test]
async fn the_worker_is_the_sample_and_works_with_its_arguments() {
    let rendered = Rendered::whole();
    let shipped = rendered.object("ConfigMap", "tallyd-worker")["data"]["worker.py"].as_str();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/workers/worker.py");
    assert_eq!(shipped.unwrap(), std::fs::read_to_string(sample).unwrap());

    let (daemon, _) = serve(&rendered);
    let worker = &rendered.object("Deployment", "tallyd-worker")["spec"]["template"];
    assert_eq!(words(&container(worker)["command"]), ["python3", "/opt/worker/worker.py"]);
    let arguments = words(&container(worker)["args"]);
    let server = flag(&arguments, "--server");
    let own = daemon.url("");
    let arguments = arguments.iter().map(|word| if *word == server { &*own } else { *word });
    let mut command = Command::from(python_alone());
    command.arg("-B").arg(sample).args(arguments).kill_on_drop(true).stdin(Stdio::null());
    let mut worker = command.stdout(Stdio::null()).spawn().unwrap();
    let (_, job) = daemon.post("/v1/jobs", json!({"queue": "emails", "kind": "welcome"})).await;
    let id = job["id"].as_str().unwrap();
    daemon.job_when(id, |job| job["state"] == "completed").await;
    worker.kill().await.unwrap();
}
