//! The overlay of the README, in which somebody's own settings stand.

use std::os::unix::fs::symlink;

use super::rendered::{Rendered, chapter, container};

#[test]
fn the_overlay_of_the_readme_takes_image_and_configuration_from_beside_it() {
    let chapter = chapter();
    let (_, file) = chapter.split_once("```yaml\n").expect("it shows the file");
    let (file, _) = file.split_once("```").expect("the file ends");
    let own = tempfile::tempdir().unwrap();
    symlink(env!("CARGO_MANIFEST_DIR"), own.path().join("tallyd")).unwrap();
    std::fs::write(own.path().join("tallyd.toml"), "# mine\n").unwrap();
    for overlay in ["plain", "operators"] {
        let file = file.replace("/plain]", &format!("/{overlay}]"));
        std::fs::write(own.path().join("kustomization.yaml"), file).unwrap();
        let rendered = Rendered::of(own.path().to_str().unwrap());
        assert_eq!(rendered.configuration(), "# mine\n");
        let pod = &rendered.object("StatefulSet", "tallyd")["spec"]["template"];
        let image = container(pod)["image"].as_str().unwrap();
        let right = concat!("registry.yours.example/tallyd:", env!("CARGO_PKG_VERSION"));
        assert_eq!(image, right);
        assert!(chapter.contains(&format!("docker push {image}\n")), "it is what was pushed");
        let map = rendered.object("ConfigMap", "tallyd")["metadata"]["name"].as_str();
        let volume = &pod["spec"]["volumes"][0]["configMap"]["name"];
        assert_eq!(volume.as_str(), map, "the pod has this configuration");
        let shipped = Rendered::of(&format!("overlays/{overlay}"));
        assert_eq!(rendered.objects.len(), shipped.objects.len(), "nothing else is added");
    }
}
