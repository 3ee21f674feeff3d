//! Requests that schemathesis makes up from `/openapi.json`: all are answered as it says.

use serde_json::Value;

use crate::fixture::{Daemon, scaled};
use crate::tools::{python, said};

/// How many requests each route gets made up for it, besides those at the edges of its schema.
const OF_EACH_ROUTE: u32 = 205;

/// The fewest requests of the usual run.
const FEWEST: u32 = 5_000;

/// After how many, the largest among them, its memory is looked at.
const WARM_UP: u32 = 1_000;

/// By how much what it holds in the end may exceed the most that it held until then, in KiB. That is 57
/// to 62 MiB and 3 to 9 more in the end: any of the runtime's threads may read the store, and keeps some of
/// what that took.
const MOST_GROWTH_KIB: u64 = 16 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_made_up_from_the_description_are_answered_as_it_says() {
    let daemon = Daemon::start("backup_dir = \".\"\n[queues.default]\n[queues.emails]\n");
    for number in 0..20 {
        let job = serde_json::json!({"kind": "k", "payload": number});
        assert_eq!(daemon.post("/v1/jobs", job).await.0, 201);
    }
    let examples = scaled(OF_EACH_ROUTE).to_string();
    let seed = std::env::var("TALLYD_TEST_SEED").unwrap_or_else(|_| "1".to_owned());
    let (pid, warm_up) = (daemon.pid().to_string(), WARM_UP.to_string());
    let arguments = [daemon.url("/openapi.json"), examples, seed, pid, warm_up];
    let place = daemon.directory.path().to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let arguments = arguments.iter().map(std::path::Path::new);
        let arguments: Vec<_> = std::iter::once(place.as_path()).chain(arguments).collect();
        python("generated.py", &arguments, "")
    });
    let output = output.await.expect("it ends");
    assert!(output.status.success(), "{}", said(&output));
    let warm = std::fs::read_to_string(daemon.path("warm")).expect("more were sent");
    let warm_kib: u64 = warm.parse().expect("a number");
    let grown_kib = daemon.resident_kib().saturating_sub(warm_kib);
    eprintln!("{warm_kib} KiB at most, then {grown_kib} more");
    assert!(grown_kib <= MOST_GROWTH_KIB, "{grown_kib} KiB more than {warm_kib}");
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
