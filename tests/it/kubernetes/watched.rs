//! How Prometheus and Grafana see tallyd in a cluster.

use std::path::Path;

use serde_json::json;

use super::groups_of;
use super::rendered::{Rendered, chapter};

#[test]
fn a_new_pod_is_the_same_instance() {
    let whole = Rendered::whole();
    let endpoint = &whole.object("ServiceMonitor", "tallyd")["spec"]["endpoints"][0];
    let instance = json!({
        "sourceLabels": ["__meta_kubernetes_namespace", "__meta_kubernetes_pod_name"],
        "separator": "/",
        "targetLabel": "instance",
    });
    assert_eq!(endpoint["relabelings"], json!([instance]));
}

#[test]
fn grafana_is_given_the_dashboard_as_it_is() {
    let whole = Rendered::whole();
    let map = whole.object("ConfigMap", "tallyd-dashboard");
    assert_eq!(map["metadata"]["name"], "tallyd-dashboard", "an old one must not stay beside it");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1", "for which its sidecar looks");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/tallyd.json");
    let shipped = std::fs::read_to_string(shipped).unwrap();
    assert!(map["data"] == json!({"tallyd.json": shipped}), "that file and no other");
    // kubectl keeps what it applied in an annotation, and a cluster takes no larger ones.
    assert!(map.to_string().len() < 256 * 1024 - 1024, "{}", map.to_string().len());
    let plain = Rendered::of("overlays/plain");
    let maps = plain.of_kind("ConfigMap");
    assert!(maps.iter().all(|map| map["metadata"]["labels"].is_null()), "Grafana is an operator's");
}

#[test]
fn who_scrapes_by_annotations_is_told_of_the_alerts_that_want_the_job() {
    let alerts = groups_of("deploy/prometheus/tallyd.alerts.yml");
    let rules = alerts.iter().flat_map(|group| group["rules"].as_array().unwrap());
    let wants_job = rules.filter(|rule| rule["expr"].as_str().unwrap().contains("job=\""));
    let names: Vec<_> = wants_job.map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let file = super::folder().join("base/statefulset.yaml");
    let file = std::fs::read_to_string(file).unwrap();
    let (before, _) = file.split_once("prometheus.io/scrape").expect("the annotation");
    for (place, text) in [("statefulset.yaml", before), ("README.md", &*chapter())] {
        for name in &names {
            assert!(text.contains(name), "{place} does not name {name}");
        }
    }
}

#[test]
fn the_readme_says_what_the_operators_folder_presumes() {
    let whole = Rendered::whole();
    let monitor = &whole.object("ServiceMonitor", "tallyd")["metadata"]["labels"];
    let mut presumed = vec![monitor["release"].as_str().expect("a release").to_owned()];
    let policy = whole.object("NetworkPolicy", "tallyd");
    for rule in policy["spec"]["ingress"].as_array().unwrap() {
        let from = rule["from"].as_array().unwrap().iter();
        let label = "/namespaceSelector/matchLabels/kubernetes.io~1metadata.name";
        let names = from.filter_map(|from| from.pointer(label)?.as_str());
        presumed.extend(names.map(str::to_owned));
    }
    assert_eq!(presumed, ["kube-prometheus-stack", "keda", "monitoring"]);
    let chapter = chapter();
    let (_, operators) = chapter.split_once("`operators`").expect("it is explained");
    for name in presumed {
        assert!(operators.contains(&format!("`{name}`")), "it does not say {name}");
    }
}
