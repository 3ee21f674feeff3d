//! `deploy/kubernetes/` as a cluster takes it: rendered by kubectl, valid, and true of tallyd.

mod overlay;
mod pods;
mod rendered;
mod serving;
mod watched;
mod wiring;

use serde_json::{Value, json};

use crate::tools::{node, python_module, said};
use rendered::{Rendered, folder, objects};

/// The oldest cluster that knows ReadWriteOncePod for good, and the newest that can be checked.
const CLUSTERS: [&str; 2] = ["1.29", "1.37"];

fn is_of_operator(object: &Value) -> bool {
    ["monitoring.coreos.com/", "keda.sh/"]
        .iter()
        .any(|group| object["apiVersion"].as_str().expect("a version").starts_with(group))
}

/// What Kubernetes itself would refuse, in a line each.
fn refused(yaml: &str, cluster: &str) -> Vec<String> {
    let arguments = ["--strict", "--no-warn", "-k", cluster, "-"];
    let output = python_module("kubernetes_validate", &arguments, yaml);
    let text = said(&output);
    let core = objects(yaml).iter().filter(|object| !is_of_operator(object)).count();
    let judged =
        text.lines().filter(|line| ["INFO ", "ERROR "].iter().any(|w| line.starts_with(w)));
    assert_eq!(judged.count(), core, "each is judged: {text}");
    let errors: Vec<_> = text.lines().filter(|line| line.starts_with("ERROR ")).collect();
    assert_eq!(output.status.success(), errors.is_empty(), "{text}");
    errors.into_iter().map(str::to_owned).collect()
}

/// What the operators' schemas have against their objects, in a line each.
fn refused_by_operators(objects: &[&Value]) -> Vec<String> {
    let input = serde_json::to_string(objects).unwrap();
    let output = node("kubernetes/operators.mjs", &input);
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn old_and_new_clusters_take_every_overlay() {
    for rendered in Rendered::all() {
        for cluster in CLUSTERS {
            let refused = refused(&rendered.yaml, cluster);
            assert!(refused.is_empty(), "{} on {cluster}: {refused:#?}", rendered.place);
        }
    }
}

#[test]
fn operators_take_what_is_theirs() {
    let rendered = Rendered::whole();
    let theirs: Vec<_> = rendered.objects.iter().filter(|object| is_of_operator(object)).collect();
    assert!(theirs.len() >= 2, "{theirs:?}");
    assert_eq!(refused_by_operators(&theirs), Vec::<String>::new());
}

#[test]
fn plain_folders_need_no_operator() {
    for place in ["base", "overlays/plain"] {
        assert!(!Rendered::of(place).objects.iter().any(is_of_operator), "{place}");
    }
}

#[test]
fn mistakes_are_found() {
    let base = Rendered::of("base");
    for (right, wrong, complaint) in [
        ("enableServiceLinks: false", "enableServiceLink: false", "enableServiceLink"),
        ("replicas: 1", "replicas: one", "integer"),
        ("path: /-/healthy", "pfad: /-/healthy", "pfad"),
    ] {
        assert!(base.yaml.contains(right), "{right}");
        let refused = refused(&base.yaml.replace(right, wrong), CLUSTERS[0]);
        assert!(matches!(&refused[..], [line] if line.contains(complaint)), "{refused:?}");
    }

    let whole = Rendered::whole();
    for (kind, place, wrong, complaint) in [
        ("ServiceMonitor", "/spec/endpoints/0/interval", json!("15x"), "pattern"),
        ("ServiceMonitor", "/spec/endpoints/0", json!({"porta": "metrics"}), "no such field"),
        ("ScaledObject", "/spec/maxReplicaCount", json!("ten"), "type"),
        ("ScaledObject", "/spec/scaleTargetRef", json!({"kind": "Deployment"}), "required"),
    ] {
        let mut object = whole.of_kind(kind)[0].clone();
        *object.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = wrong;
        let refused = refused_by_operators(&[&object]);
        assert!(matches!(&refused[..], [line] if line.contains(complaint)), "{refused:?}");
    }
}

/// A file that no kustomization names would be copied and do nothing.
#[test]
fn every_file_is_used() {
    let mut waiting = vec![folder()];
    let mut files = 0;
    while let Some(directory) = waiting.pop() {
        let kustomization = directory.join("kustomization.yaml");
        let listed = std::fs::read_to_string(kustomization).unwrap_or_default();
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                waiting.push(path);
            } else if name != "kustomization.yaml" {
                assert!(listed.contains(&format!("- {name}\n")), "{} is not used", path.display());
                files += 1;
            }
        }
    }
    assert!(files >= 7, "{files}");
}

/// The groups of a file with rules.
fn groups_of(path: &str) -> Vec<Value> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = objects(&std::fs::read_to_string(root.join(path)).unwrap());
    file[0]["groups"].as_array().expect("groups").clone()
}

#[test]
fn the_operators_rules_are_those_of_prometheus() {
    let whole = Rendered::whole();
    let rule = whole.object("PrometheusRule", "tallyd");
    let files = ["deploy/prometheus/tallyd.rules.yml", "deploy/prometheus/tallyd.alerts.yml"];
    let groups: Vec<_> = files.into_iter().flat_map(groups_of).collect();
    let told = "prometheusrule.yaml differs from deploy/prometheus; it says how to make it again";
    // kubectl folds long lines in its own way, which means the same.
    let folded = |groups: &Value| -> String {
        let text = groups.to_string().replace("\\n", " ");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(folded(&rule["spec"]["groups"]) == folded(&json!(groups)), "{told}");
    let monitor = whole.object("ServiceMonitor", "tallyd");
    assert_eq!(monitor["metadata"]["labels"], rule["metadata"]["labels"], "one Prometheus");
    let service = &whole.object("Service", "tallyd")["metadata"]["name"];
    assert_eq!(service, "tallyd", "the alerts look for a job of the Service's name");
}
