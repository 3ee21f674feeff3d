//! What `kubectl apply -k` sends to a cluster, for each folder that can be applied.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::tools::{kubectl, python, said};

/// The folder of the project that all others are in.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes")
}

/// The objects of one folder.
pub struct Rendered {
    /// The folder's path below `deploy/kubernetes`.
    pub place: String,
    pub yaml: String,
    pub objects: Vec<Value>,
}

impl Rendered {
    pub fn of(place: &str) -> Self {
        let path = folder().join(place);
        let output = kubectl(&["kustomize", path.to_str().expect("a plain path")]);
        assert!(output.status.success(), "{place}: {}", said(&output));
        assert!(output.stderr.is_empty(), "{place}: {}", said(&output));
        let yaml = String::from_utf8(output.stdout).expect("it is text");
        let objects = objects(&yaml);
        Self { place: place.to_owned(), yaml, objects }
    }

    /// The one that has everything.
    pub fn whole() -> Self {
        Self::of("overlays/operators")
    }

    /// Every folder that is meant to be applied.
    pub fn all() -> Vec<Self> {
        let overlays = std::fs::read_dir(folder().join("overlays")).expect("it can be read");
        let names = overlays.map(|entry| entry.expect("an entry").file_name());
        let mut places: Vec<_> =
            names.map(|name| format!("overlays/{}", name.to_string_lossy())).collect();
        places.push("base".to_owned());
        assert!(places.len() >= 3, "{places:?}");
        places.iter().map(|place| Self::of(place)).collect()
    }

    pub fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.objects.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// The object of this kind and name; a generated name counts without its hash.
    pub fn object(&self, kind: &str, name: &str) -> &Value {
        let is_named = |object: &&&Value| {
            let full = object["metadata"]["name"].as_str().expect("a name");
            let hash = full.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
            full == name || kind == "ConfigMap" && hash.is_some_and(|hash| hash.len() == 10)
        };
        let found = self.of_kind(kind);
        let found: Vec<_> = found.iter().filter(is_named).collect();
        assert_eq!(found.len(), 1, "{}: one {kind} {name}, not {found:?}", self.place);
        found[0]
    }

    /// What runs pods, with the pods' own description.
    pub fn pods(&self) -> Vec<(&Value, &Value)> {
        let all = self.objects.iter().filter(|object| object["spec"]["template"].is_object());
        all.map(|object| (object, &object["spec"]["template"])).collect()
    }

    /// The text of tallyd's configuration file.
    pub fn configuration(&self) -> &str {
        self.object("ConfigMap", "tallyd")["data"]["tallyd.toml"].as_str().expect("its file")
    }
}

/// The README's chapter on Kubernetes.
pub fn chapter() -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).expect("the README");
    let (_, chapter) = readme.split_once("## Run it on Kubernetes\n").expect("its chapter");
    chapter.split("\n## ").next().expect("it has text").to_owned()
}

/// The documents of a text in YAML.
pub fn objects(yaml: &str) -> Vec<Value> {
    let output = python("kubernetes/yaml.py", &[], yaml);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// The only container of a pod.
pub fn container(pod: &Value) -> &Value {
    let containers = pod["spec"]["containers"].as_array().expect("containers");
    assert_eq!(containers.len(), 1, "{pod:#}");
    &containers[0]
}

/// A list of texts.
pub fn words(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap_or_else(|| panic!("a list, not {list}"));
    list.iter().map(|word| word.as_str().expect("a text")).collect()
}
