//! That the objects find each other: selectors, names of ports, references, namespaces.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::rendered::{Rendered, container, words};

fn labels(object: &Value) -> &Map<String, Value> {
    object["metadata"]["labels"].as_object().expect("labels")
}

/// Whether a selector takes what has these labels; an empty one takes everything.
fn selects(selector: &Value, labels: &Map<String, Value>) -> bool {
    let wanted = selector.as_object().expect("labels that are wanted");
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// Those of the workloads whose pods a selector takes, by kind.
fn selected<'r>(rendered: &'r Rendered, selector: &Value) -> Vec<&'r str> {
    assert!(!selector.as_object().expect("labels").is_empty(), "{selector}");
    let pods = rendered.pods();
    let taken = pods.iter().filter(|(_, pod)| selects(selector, labels(pod)));
    taken.map(|(owner, _)| owner["kind"].as_str().unwrap()).collect()
}

#[test]
fn every_selector_takes_the_pods_that_it_is_for() {
    for rendered in Rendered::all() {
        for (owner, _) in rendered.pods() {
            let taken = selected(&rendered, &owner["spec"]["selector"]["matchLabels"]);
            assert_eq!(taken, [owner["kind"].as_str().unwrap()]);
        }
        let set = &rendered.object("StatefulSet", "tallyd")["spec"];
        let service = rendered.object("Service", set["serviceName"].as_str().expect("a name"));
        let budget = rendered.object("PodDisruptionBudget", "tallyd");
        let policy = rendered.object("NetworkPolicy", "tallyd");
        for selector in [
            &service["spec"]["selector"],
            &budget["spec"]["selector"]["matchLabels"],
            &policy["spec"]["podSelector"]["matchLabels"],
        ] {
            assert_eq!(selected(&rendered, selector), ["StatefulSet"], "{selector}");
        }
    }
    let whole = Rendered::whole();
    let service = whole.object("Service", "tallyd");
    let monitor = whole.object("ServiceMonitor", "tallyd");
    assert!(selects(&monitor["spec"]["selector"]["matchLabels"], labels(service)));
    let scaled = &whole.object("ScaledObject", "tallyd-worker")["spec"]["scaleTargetRef"]["name"];
    whole.object("Deployment", scaled.as_str().unwrap());
}

#[test]
fn every_port_is_one_that_tallyd_listens_on() {
    let whole = Rendered::whole();
    let set = whole.object("StatefulSet", "tallyd");
    let pod = &set["spec"]["template"];
    let configuration: toml::Table = whole.configuration().parse().unwrap();
    let listens = |key: &str| -> u64 {
        let address = configuration[key].as_str().unwrap();
        let (host, port) = address.rsplit_once(':').unwrap();
        assert_eq!(host, "0.0.0.0", "others must reach {key}");
        port.parse().unwrap()
    };
    let (jobs, metrics) = (listens("listen"), listens("metrics_listen"));

    let ports = container(pod)["ports"].as_array().unwrap();
    let ports: Vec<_> = ports
        .iter()
        .map(|port| (port["name"].as_str().unwrap(), port["containerPort"].as_u64().unwrap()))
        .collect();
    assert_eq!(ports, [("http", jobs), ("metrics", metrics)]);

    let service = whole.object("Service", "tallyd");
    for port in service["spec"]["ports"].as_array().unwrap() {
        let target = port["targetPort"].as_str().unwrap();
        let (name, number) = (port["name"].as_str().unwrap(), port["port"].as_u64().unwrap());
        assert!(ports.contains(&(target, number)) && name == target, "{port}");
    }
    let monitor = &whole.object("ServiceMonitor", "tallyd")["spec"]["endpoints"][0];
    assert_eq!((&monitor["port"], &monitor["path"]), (&"metrics".into(), &"/metrics".into()));
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/scrape"], "true");
    assert_eq!(annotations["prometheus.io/port"], metrics.to_string());
    assert_eq!(annotations["prometheus.io/path"], "/metrics");
}

/// Who may connect to which port, as a line each.
fn let_in(rendered: &Rendered) -> BTreeSet<String> {
    let policy = &rendered.object("NetworkPolicy", "tallyd")["spec"];
    let mut lines = BTreeSet::new();
    for rule in policy["ingress"].as_array().expect("rules") {
        let [port] = &rule["ports"].as_array().expect("no rule for every port")[..] else {
            panic!("one port a rule: {rule}")
        };
        for from in rule["from"].as_array().expect("no rule for everybody") {
            lines.insert(format!("{} {from}", port["port"]));
        }
    }
    lines
}

#[test]
fn nobody_else_reaches_tallyd() {
    let namespace = |port: u16, label: &str, value: &str| {
        format!("{port} {{\"namespaceSelector\":{{\"matchLabels\":{{\"{label}\":\"{value}\"}}}}}}")
    };
    let mut right = BTreeSet::from([
        "8255 {\"podSelector\":{}}".to_owned(),
        namespace(8255, "tallyd-client", "true"),
        namespace(8256, "kubernetes.io/metadata.name", "monitoring"),
    ]);
    assert_eq!(let_in(&Rendered::of("overlays/plain")), right);
    right.insert(namespace(8255, "kubernetes.io/metadata.name", "keda"));
    let whole = Rendered::whole();
    assert_eq!(let_in(&whole), right);
    let policy = &whole.object("NetworkPolicy", "tallyd")["spec"];
    assert_eq!(words(&policy["policyTypes"]), ["Ingress", "Egress"]);
    assert_eq!(policy["egress"], serde_json::json!([]), "tallyd itself asks nobody");
}

#[test]
fn every_reference_leads_to_an_object_of_the_same_namespace() {
    for rendered in Rendered::all() {
        for object in &rendered.objects {
            assert_eq!(object["metadata"]["namespace"], "tallyd", "{object:#}");
        }
        for (_, pod) in rendered.pods() {
            let mounts = container(pod)["volumeMounts"].as_array().unwrap();
            for volume in pod["spec"]["volumes"].as_array().unwrap() {
                let name = volume["configMap"]["name"].as_str().expect("it is a ConfigMap");
                let maps = rendered.of_kind("ConfigMap");
                let map = maps.iter().find(|map| map["metadata"]["name"] == name);
                let map = map.unwrap_or_else(|| panic!("no ConfigMap {name}"));
                let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]).unwrap();
                let place = mount["mountPath"].as_str().unwrap();
                let container = container(pod);
                let line = [&container["command"], &container["args"]].into_iter();
                let line: Vec<_> = line.filter(|list| !list.is_null()).flat_map(words).collect();
                let files = map["data"].as_object().unwrap();
                let is_named = |file: &String| line.contains(&&*format!("{place}/{file}"));
                assert!(files.keys().any(is_named), "{line:?} uses no file of {name}");
            }
        }
    }
}
