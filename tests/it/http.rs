//! What the routes of jobs and queues answer when all is well: status, headers, every field.

use serde_json::{Value, json};

use crate::call::{Answer, JSON, NDJSON, call, keys, send};
use crate::fixture::Daemon;

/// Every field of a job in a list, sorted.
const SUMMARY_KEYS: [&str; 18] = [
    "attempt",
    "claimed_at",
    "created_at",
    "ended_at",
    "expires_at",
    "failures",
    "id",
    "kind",
    "last_error",
    "max_attempts",
    "priority",
    "queue",
    "run_at",
    "state",
    "timeout",
    "traceparent",
    "unique_key",
    "worker",
];

const QUEUE_KEYS: [&str; 7] =
    ["concurrency", "jobs", "max_depth", "name", "oldest_ready_at", "paused", "runner"];

/// The fields of a job with these beside them, sorted.
fn job_keys(more: &[&'static str]) -> Vec<&'static str> {
    let mut keys = [&SUMMARY_KEYS[..], &["payload", "result"], more].concat();
    keys.sort_unstable();
    keys
}

async fn create(daemon: &Daemon, job: Value) -> Answer {
    let answer = send(daemon, "POST", "/v1/jobs", job).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer
}

/// A job that has failed for good.
async fn create_dead(daemon: &Daemon, job: Value) -> String {
    let location = create(daemon, job.clone()).await.location().to_owned();
    let queue = job["queue"].as_str().unwrap_or("default");
    let leased = daemon.post("/v1/leases", json!({"queues": [queue]})).await.1;
    let lease = &leased["jobs"][0]["lease"];
    let finish = json!([{"lease": lease, "outcome": "failed", "permanent": true, "error": "no"}]);
    assert_eq!(daemon.post("/v1/leases/finish", finish).await.1, json!({"results": ["ok"]}));
    location
}

#[tokio::test]
async fn a_created_job_has_every_field_and_is_found_at_its_location() {
    let daemon = Daemon::start("");
    let created = create(&daemon, json!({"kind": "k"})).await;
    assert_eq!(created.keys(), job_keys(&["duplicate"]));
    let mut job = created.json.clone();
    assert_eq!(created.location(), format!("/v1/jobs/{}", job["id"].as_str().unwrap()));
    assert_eq!(job["created_at"], job["run_at"]);
    let shown = call(&daemon, "GET", created.location(), &[], "").await;
    assert_eq!((shown.status, shown.keys()), (200, job_keys(&[])));
    assert_eq!(job.as_object_mut().unwrap().remove("duplicate"), Some(json!(false)));
    assert_eq!(shown.json, job);
    for key in ["id", "created_at", "run_at"] {
        assert!(job.as_object_mut().unwrap().remove(key).unwrap().is_string(), "{key}");
    }
    let expected = json!({
        "queue": "default", "kind": "k", "state": "ready", "priority": 5, "payload": null,
        "attempt": 0, "failures": 0, "max_attempts": 25, "timeout": "5m", "unique_key": null,
        "traceparent": null, "claimed_at": null, "ended_at": null, "expires_at": null,
        "worker": null, "last_error": null, "result": null,
    });
    assert_eq!(job, expected);
}

#[tokio::test]
async fn what_a_creator_sets_is_kept() {
    let daemon = Daemon::start("");
    let payload = "{ \"b\" : 1.0e2,\t\"a\": [1,1 , \"\\u00e9é\"], \"a\":2 }";
    let body = format!(
        r#"{{"kind":"k:1","queue":"Q.1_-","payload": {payload},"priority":0,
            "run_at":"2999-03-01T12:00:00.5+02:00","max_attempts":3,"timeout":"90s",
            "unique_key":"ä","unique_until":"done",
            "traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}"#
    );
    let created = call(&daemon, "POST", "/v1/jobs", &[("content-type", JSON)], body).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let shown = call(&daemon, "GET", created.location(), &[], "").await;
    assert!(shown.text.contains(payload), "byte for byte: {}", shown.text);
    for (field, value) in [
        ("kind", json!("k:1")),
        ("queue", json!("Q.1_-")),
        ("state", json!("scheduled")),
        ("priority", json!(0)),
        ("run_at", json!("2999-03-01T10:00:00.500Z")),
        ("max_attempts", json!(3)),
        ("timeout", json!("90s")),
        ("unique_key", json!("ä")),
        ("traceparent", json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
    ] {
        assert_eq!(shown.json[field], value, "{field}");
    }
    let past = json!({"kind": "k", "run_at": "2001-01-01T00:00:00Z"});
    let past = create(&daemon, past).await.json;
    assert_eq!((&past["state"], &past["run_at"]), (&json!("ready"), &past["created_at"]));
    let soon = send(&daemon, "POST", "/v1/jobs", json!({"kind": "k", "delay": "0s"})).await;
    assert_eq!(soon.json["state"], "ready");
}

#[tokio::test]
async fn a_batch_answers_with_ids_in_its_order() {
    let daemon = Daemon::start("");
    let jobs = [json!({"kind": "a"}), json!({"kind": "b", "delay": "1h"}), json!({"kind": "c"})];
    let array = Value::from(jobs.to_vec()).to_string();
    let lines = jobs.iter().map(|job| format!("{job}\r\n")).collect::<String>();
    for (media, body) in [(JSON, array), (NDJSON, lines)] {
        let headers = [("content-type", media)];
        let answer = call(&daemon, "POST", "/v1/jobs/batch", &headers, body).await;
        assert_eq!((answer.status, answer.keys()), (201, vec!["duplicates", "ids"]));
        assert_eq!(answer.json["duplicates"], json!([]));
        let ids = answer.json["ids"].as_array().unwrap();
        assert_eq!(ids.len(), 3);
        for (id, kind) in ids.iter().zip(["a", "b", "c"]) {
            let path = format!("/v1/jobs/{}", id.as_str().unwrap());
            assert_eq!(daemon.get(&path).await.1["kind"], kind);
        }
        for (media, body) in [(JSON, "[]"), (NDJSON, ""), (NDJSON, "\n \n")] {
            let headers = [("content-type", media)];
            let answer = call(&daemon, "POST", "/v1/jobs/batch", &headers, body).await;
            assert_eq!((answer.status, &answer.json["ids"]), (201, &json!([])), "{body:?}");
        }
    }
    assert_eq!(daemon.get("/v1/stats").await.1["jobs_created"], 6);
}

#[tokio::test]
async fn operators_cancel_requeue_and_discard_one_job() {
    let daemon = Daemon::start("");
    let job = create(&daemon, json!({"kind": "k", "delay": "1h"})).await;
    let path = format!("{}/cancel", job.location());
    let cancelled = send(&daemon, "POST", &path, Value::Null).await;
    assert_eq!((cancelled.status, cancelled.keys()), (200, job_keys(&[])));
    assert_eq!(cancelled.json["state"], "cancelled");
    assert!(cancelled.json["ended_at"].is_string());

    let location = create_dead(&daemon, json!({"kind": "k", "payload": [1]})).await;
    let (_, dead) = daemon.get(&location).await;
    let mut error = dead["last_error"].clone();
    assert!(error.as_object_mut().unwrap().remove("at").unwrap().is_string());
    assert_eq!(error, json!({"attempt": 1, "outcome": "failed", "message": "no"}));
    assert_eq!((&dead["state"], &dead["failures"]), (&json!("dead"), &json!(1)));
    let back = send(&daemon, "POST", &format!("{location}/requeue"), json!({})).await;
    assert_eq!((back.status, back.keys()), (200, job_keys(&[])));
    let told = ["state", "failures", "attempt", "ended_at"].map(|key| back.json[key].clone());
    assert_eq!(told, [json!("ready"), json!(0), json!(1), Value::Null]);
    send(&daemon, "POST", &format!("{location}/cancel"), Value::Null).await;

    let location = create_dead(&daemon, json!({"kind": "k"})).await;
    let gone = send(&daemon, "DELETE", &location, Value::Null).await;
    assert_eq!((gone.status, gone.header("content-type"), &*gone.text), (204, None, ""));
    assert_eq!(daemon.get(&location).await.0, 404);
    let scrape = daemon.scrape().await;
    let pair = r#"{queue="default",kind="k"}"#;
    for (name, count) in [("cancelled", 2.0), ("requeued", 1.0), ("discarded", 1.0), ("died", 2.0)]
    {
        assert_eq!(scrape.value(&format!("tallyd_jobs_{name}_total{pair}")), count, "{name}");
    }
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
}

#[tokio::test]
async fn queues_are_shown_with_every_field() {
    let config = "[queues.small]\nmax_depth = 9\nconcurrency = 3\n\
                  [queues.local]\nexec = { command = [\"/bin/true\"] }\n";
    let daemon = Daemon::start(config);
    let job = create(&daemon, json!({"kind": "k", "queue": "new"})).await.json;
    let all = call(&daemon, "GET", "/v1/queues", &[], "").await;
    assert_eq!((all.status, all.keys()), (200, vec!["queues"]));
    let queues = all.json["queues"].as_array().unwrap();
    let names: Vec<_> = queues.iter().map(|queue| queue["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "local", "new", "small"], "by name");
    for queue in queues {
        assert_eq!(keys(queue), QUEUE_KEYS);
        let path = format!("/v1/queues/{}", queue["name"].as_str().unwrap());
        assert_eq!(call(&daemon, "GET", &path, &[], "").await.json, *queue);
    }
    let none = json!({
        "scheduled": 0, "ready": 0, "retrying": 0, "running": 0, "completed": 0, "cancelled": 0,
        "dead": 0,
    });
    let mut one = none.clone();
    one["ready"] = 1.into();
    let expected = json!([
        {"name": "default", "runner": "lease", "paused": false, "jobs": none,
         "oldest_ready_at": null, "concurrency": 10, "max_depth": null},
        {"name": "local", "runner": "exec", "paused": false, "jobs": none,
         "oldest_ready_at": null, "concurrency": 10, "max_depth": null},
        {"name": "new", "runner": "lease", "paused": false, "jobs": one,
         "oldest_ready_at": job["run_at"], "concurrency": null, "max_depth": null},
        {"name": "small", "runner": "lease", "paused": false, "jobs": none,
         "oldest_ready_at": null, "concurrency": 3, "max_depth": 9},
    ]);
    assert_eq!(all.json["queues"], expected);
}

#[tokio::test]
async fn queues_are_paused_resumed_and_forgotten() {
    let mut daemon = Daemon::start("");
    let location =
        create(&daemon, json!({"kind": "k", "queue": "new"})).await.location().to_owned();
    for (verb, paused) in [("pause", true), ("pause", true), ("resume", false), ("pause", true)] {
        let answer = send(&daemon, "POST", &format!("/v1/queues/new/{verb}"), Value::Null).await;
        assert_eq!((answer.status, answer.keys()), (200, QUEUE_KEYS.to_vec()));
        assert_eq!(answer.json["paused"], paused);
        let sample = r#"tallyd_queue_paused{queue="new"}"#;
        assert_eq!(daemon.scrape().await.value(sample), f64::from(u8::from(paused)));
    }
    daemon.kill();
    daemon.restart();
    assert_eq!(daemon.get("/v1/queues/new").await.1["paused"], true, "a pause is durable");

    send(&daemon, "POST", &format!("{location}/cancel"), Value::Null).await;
    let refused = send(&daemon, "DELETE", "/v1/queues/new", Value::Null).await;
    assert_eq!(refused.json["error"]["code"], "queue_not_empty", "it keeps its ended jobs");
    let dead = create_dead(&daemon, json!({"kind": "k", "queue": "other"})).await;
    send(&daemon, "DELETE", &dead, Value::Null).await;
    let gone = send(&daemon, "DELETE", "/v1/queues/other", Value::Null).await;
    assert_eq!((gone.status, &*gone.text), (204, ""));
    assert_eq!(daemon.get("/v1/queues/other").await.0, 404);
}

#[tokio::test]
async fn operators_act_on_many_jobs_until_there_are_no_more() {
    let daemon = Daemon::start("");
    for kind in ["a", "b", "a", "b", "a"] {
        create(&daemon, json!({"kind": kind, "delay": "1h"})).await;
    }
    let bulk = async |verb: &str, body: Value| {
        let answer = send(&daemon, "POST", &format!("/v1/queues/default/{verb}"), body).await;
        assert_eq!((answer.status, answer.keys()), (200, vec!["count", "more"]));
        (answer.json["count"].as_u64().unwrap(), answer.json["more"].as_bool().unwrap())
    };
    assert_eq!(bulk("cancel", json!({"before": "2001-01-01T00:00:00Z"})).await, (0, false));
    assert_eq!(bulk("cancel", json!({"kind": "b"})).await, (2, false));
    assert_eq!(bulk("cancel", json!({"limit": 2})).await, (2, true));
    assert_eq!(bulk("cancel", Value::Null).await, (1, false));
    for kind in ["a", "b", "a"] {
        create_dead(&daemon, json!({"kind": kind})).await;
    }
    assert_eq!(bulk("discard-dead", json!({"kind": "b"})).await, (1, false));
    assert_eq!(bulk("requeue-dead", json!({"limit": 1})).await, (1, true));
    assert_eq!(bulk("requeue-dead", json!({"before": "2999-01-01T00:00:00Z"})).await, (1, false));
    assert_eq!(bulk("discard-dead", json!({})).await, (0, false));
    let (_, queue) = daemon.get("/v1/queues/default").await;
    let told = ["cancelled", "ready", "dead"].map(|state| queue["jobs"][state].clone());
    assert_eq!(told, [json!(5), json!(2), json!(0)]);
    assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
}

/// All pages of a listing; each is asked for with the cursor of the one before.
async fn pages(daemon: &Daemon, query: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut path = format!("/v1/jobs?{query}");
    loop {
        let page = call(daemon, "GET", &path, &[], "").await;
        assert_eq!((page.status, page.keys()), (200, vec!["jobs", "next_cursor"]), "{path}");
        pages.push(page.json["jobs"].as_array().unwrap().clone());
        match &page.json["next_cursor"] {
            Value::Null => return pages,
            cursor => path = format!("/v1/jobs?{query}&cursor={}", cursor.as_str().unwrap()),
        }
        assert!(pages.len() < 1_000, "the list does not end");
    }
}

#[tokio::test]
async fn jobs_are_listed_to_the_end_by_any_filter() {
    let daemon = Daemon::start("");
    assert_eq!(pages(&daemon, "").await, [Vec::<Value>::new()]);
    let job = |number: usize| {
        let (queue, kind) = (["q1", "q2"][number % 2], ["a", "b", "c"][number % 3]);
        let delay = if number % 5 == 4 { "1h" } else { "0s" };
        json!({"queue": queue, "kind": kind, "payload": number, "delay": delay})
    };
    let batch: Vec<_> = (0..230).map(job).collect();
    let (_, created) = daemon.post("/v1/jobs/batch", Value::from(batch)).await;
    let ids: Vec<_> = created["ids"].as_array().unwrap().iter().rev().cloned().collect();
    let listed = async |query: &str| {
        let jobs = pages(&daemon, query).await.concat();
        jobs.iter().map(|job| job["id"].clone()).collect::<Vec<_>>()
    };
    let whole = pages(&daemon, "limit=500").await;
    assert_eq!(whole.concat().len(), 230);
    assert!(whole.concat().iter().all(|job| keys(job) == SUMMARY_KEYS), "no payload, no result");
    assert_eq!(pages(&daemon, "").await[0].len(), 100, "100 unless asked for more or less");
    for limit in ["limit=1", "limit=7", "limit=100", "limit=230", "limit=231"] {
        assert_eq!(listed(limit).await, ids, "{limit}: all, each once, newest first");
    }
    let every = |keep: &dyn Fn(usize) -> bool| -> Vec<Value> {
        (0..230).rev().filter(|n| keep(*n)).map(|number| ids[229 - number].clone()).collect()
    };
    assert_eq!(listed("queue=q2&limit=9").await, every(&|n| n % 2 == 1));
    assert_eq!(listed("kind=c&limit=9").await, every(&|n| n % 3 == 2));
    assert_eq!(listed("state=scheduled&limit=9").await, every(&|n| n % 5 == 4));
    let all_three = "queue=q1&kind=a&state=ready&limit=4";
    assert_eq!(listed(all_three).await, every(&|n| n % 6 == 0 && n % 5 != 4));
    for none in ["queue=nosuch", "kind=nosuch", "state=dead"] {
        assert_eq!(listed(none).await, Vec::<Value>::new(), "{none}");
    }
}
