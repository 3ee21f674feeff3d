//! Requests that schemathesis makes up from `/openapi.json`: all are answered as it says.

use serde_json::Value;

use crate::fixture::{Daemon, scaled};
use crate::tools::{python, said};

/// How many requests each route gets made up for it, besides those at the edges of its schema.
const OF_EACH_ROUTE: u32 = 205;

/// The fewest requests of the usual run.
const FEWEST: u32 = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_made_up_from_the_description_are_answered_as_it_says() {
    let daemon = Daemon::start("backup_dir = \".\"\n[queues.default]\n[queues.emails]\n");
    for number in 0..20 {
        let job = serde_json::json!({"kind": "k", "payload": number});
        assert_eq!(daemon.post("/v1/jobs", job).await.0, 201);
    }
    let examples = scaled(OF_EACH_ROUTE).to_string();
    let seed = std::env::var("TALLYD_TEST_SEED").unwrap_or_else(|_| "1".to_owned());
    let arguments = [daemon.url("/openapi.json"), examples, seed];
    let place = daemon.directory.path().to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let arguments = arguments.iter().map(std::path::Path::new);
        let arguments: Vec<_> = std::iter::once(place.as_path()).chain(arguments).collect();
        python("generated.py", &arguments, "")
    });
    let output = output.await.expect("it ends");
    assert!(output.status.success(), "{}", said(&output));
    let scrape = daemon.scrape().await;
    let requests = |name: &str| -> f64 {
        let counted = scrape.starting("tallyd_http_requests_total{");
        counted.filter(|(labels, _)| labels.contains(name)).map(|(_, count)| count).sum()
    };
    let asked = requests("");
    eprintln!("{asked} requests");
    assert!(asked >= f64::from(scaled(FEWEST)), "only {asked} requests\n{}", said(&output));
    assert_eq!(requests("code=\"500\""), 0.0);
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
    assert_eq!(daemon.get("/-/ready").await.0, 200);
    let stats: Value = daemon.get("/v1/stats").await.1;
    assert!(stats["jobs_created"].as_i64() >= Some(20), "{stats}");
}
