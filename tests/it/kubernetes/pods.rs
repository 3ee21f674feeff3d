//! What a pod may do, what it is given, and how long it has to end.

use serde_json::{Value, json};

use super::rendered::{Rendered, container, words};

/// What a pod has that the restricted profile, or good manners, forbid; or lacks.
fn complaints(pod: &Value) -> Vec<String> {
    let container = container(pod);
    let mut complaints = Vec::new();
    let mut expect = |value: &Value, place: &str, right: Value| {
        let found = value.pointer(place).unwrap_or(&Value::Null);
        if *found != right {
            complaints.push(format!("{place} is {found}, not {right}"));
        }
    };
    expect(pod, "/spec/securityContext/runAsNonRoot", json!(true));
    expect(pod, "/spec/securityContext/seccompProfile/type", json!("RuntimeDefault"));
    expect(pod, "/spec/automountServiceAccountToken", json!(false));
    expect(pod, "/spec/enableServiceLinks", json!(false));
    expect(container, "/securityContext/allowPrivilegeEscalation", json!(false));
    expect(container, "/securityContext/readOnlyRootFilesystem", json!(true));
    expect(container, "/securityContext/capabilities", json!({"drop": ["ALL"]}));
    for place in ["/spec/hostNetwork", "/spec/hostPID", "/spec/hostIPC", "/spec/initContainers"] {
        expect(pod, place, Value::Null);
    }
    expect(container, "/securityContext/privileged", Value::Null);
    let user = &pod["spec"]["securityContext"]["runAsUser"];
    if user.as_u64().is_none_or(|user| user == 0) {
        complaints.push(format!("runs as {user}"));
    }
    for (kind, resource) in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")] {
        if !container["resources"][kind][resource].is_string() {
            complaints.push(format!("{kind} no {resource}"));
        }
    }
    let image = container["image"].as_str().expect("an image");
    let (_, tag) = image.rsplit_once(':').unwrap_or_default();
    if tag.is_empty() || tag == "latest" {
        complaints.push(format!("{image} may be another one tomorrow"));
    }
    complaints
}

#[test]
fn every_pod_keeps_to_the_restricted_profile() {
    for rendered in Rendered::all() {
        for (owner, pod) in rendered.pods() {
            let found = complaints(pod);
            assert!(found.is_empty(), "{} {}: {found:#?}", rendered.place, owner["kind"]);
        }
    }
}

#[test]
fn a_pod_that_may_more_is_found() {
    let base = Rendered::of("base");
    let (_, good) = base.pods()[0];
    for (place, bad) in [
        ("/spec/securityContext/runAsNonRoot", json!(false)),
        ("/spec/securityContext/runAsUser", json!(0)),
        ("/spec/securityContext/seccompProfile/type", json!("Unconfined")),
        ("/spec/automountServiceAccountToken", Value::Null),
        ("/spec/enableServiceLinks", json!(true)),
        ("/spec/containers/0/securityContext/readOnlyRootFilesystem", json!(false)),
        ("/spec/containers/0/securityContext/capabilities/drop", json!([])),
        ("/spec/containers/0/securityContext/allowPrivilegeEscalation", Value::Null),
        ("/spec/containers/0/resources/limits", json!({"cpu": "2"})),
        ("/spec/containers/0/image", json!("tallyd")),
    ] {
        let mut pod = good.clone();
        *pod.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = bad;
        assert_eq!(complaints(&pod).len(), 1, "{place}: {:?}", complaints(&pod));
    }
}

#[test]
fn a_pod_is_killed_only_after_its_drain() {
    let rendered = Rendered::whole();
    let grace = |kind, name| -> u64 {
        let pod = &rendered.object(kind, name)["spec"]["template"];
        pod["spec"]["terminationGracePeriodSeconds"].as_u64().expect("a grace")
    };
    let configuration: toml::Table = rendered.configuration().parse().unwrap();
    let drain = configuration["drain_timeout"].as_str().unwrap();
    let drain: u64 = drain.strip_suffix('s').expect("in seconds").parse().unwrap();
    // A command at its timeout has 5 s more, and the store wants to be closed.
    assert!(grace("StatefulSet", "tallyd") >= drain + 15, "{drain}");

    let worker = &rendered.object("Deployment", "tallyd-worker")["spec"]["template"];
    let arguments = words(&container(worker)["args"]);
    let position = arguments.iter().position(|word| *word == "--grace").expect("it is said");
    let own: u64 = arguments[position + 1].parse().unwrap();
    assert!(grace("Deployment", "tallyd-worker") >= own + 15, "{own}");
}

#[test]
fn one_pod_owns_one_volume_and_drains_of_nodes_go_on() {
    for rendered in Rendered::all() {
        let set = &rendered.object("StatefulSet", "tallyd")["spec"];
        assert_eq!(set["replicas"], 1);
        let claims = set["volumeClaimTemplates"].as_array().unwrap();
        assert_eq!(claims.len(), 1);
        assert_eq!(words(&claims[0]["spec"]["accessModes"]), ["ReadWriteOncePod"]);
        let mounts = container(&set["template"])["volumeMounts"].as_array().unwrap();
        let data = mounts.iter().find(|mount| mount["name"] == claims[0]["metadata"]["name"]);
        let data = data.expect("the volume is mounted")["mountPath"].as_str().unwrap();
        let configuration: toml::Table = rendered.configuration().parse().unwrap();
        let file = configuration["data"].as_str().unwrap();
        assert_eq!(file.rsplit_once('/').unwrap().0, data, "the store is on the volume");

        let budget = &rendered.object("PodDisruptionBudget", "tallyd")["spec"];
        assert_eq!(budget["maxUnavailable"], 1, "one of one may be away");
        assert_eq!(budget["minAvailable"], Value::Null);
        // Otherwise one that is not ready may not be evicted, as no other is.
        assert_eq!(budget["unhealthyPodEvictionPolicy"], "AlwaysAllow");
    }
}

/// In order, the controller waits for a pod to be ready before it replaces it.
#[test]
fn a_pod_that_never_became_ready_is_replaced_when_its_configuration_is_mended() {
    for rendered in Rendered::all() {
        let set = &rendered.object("StatefulSet", "tallyd")["spec"];
        assert_eq!(set["podManagementPolicy"], "Parallel", "{}", rendered.place);
        assert_eq!(set["updateStrategy"], Value::Null, "by itself, as is usual");
        let map = rendered.object("ConfigMap", "tallyd")["metadata"]["name"].as_str().unwrap();
        assert_ne!(map, "tallyd", "its name follows from what it holds, and changes the pod");
    }
}

#[test]
fn the_image_is_this_version_and_comes_from_one_place() {
    for rendered in Rendered::all() {
        let set = rendered.object("StatefulSet", "tallyd");
        let image = container(&set["spec"]["template"])["image"].as_str().unwrap();
        let right = concat!("registry.example.com/tallyd:", env!("CARGO_PKG_VERSION"));
        assert_eq!(image, right, "{}", rendered.place);
    }
}
