//! Manifests of pods with one container, `main`, as JSON, which is YAML too.

use serde_json::{Map, Value, json};

use crate::images::BUSYBOX;

/// A manifest in the making. Its pod has a second to end.
#[derive(Clone, Debug)]
pub struct PodManifest {
    name: String,
    /// The container.
    main: Map<String, Value>,
    /// Other fields of the spec.
    spec: Map<String, Value>,
}

impl PodManifest {
    /// Of the pod `name`, whose container runs `script` in a shell.
    #[must_use]
    pub fn script(name: &str, script: &str) -> Self {
        Self::of(name, BUSYBOX, &["sh", "-c", script])
    }

    /// Of the pod `name`, whose container runs `command` in `image`.
    #[must_use]
    pub fn of(name: &str, image: &str, command: &[&str]) -> Self {
        let pod = Self {
            name: name.to_owned(),
            main: Map::new(),
            spec: Map::new(),
        };
        pod.main("name", json!("main"))
            .main("image", json!(image))
            .main("command", json!(command))
            .spec("terminationGracePeriodSeconds", json!(1))
    }

    /// Sets a field of the container.
    #[must_use]
    pub fn main(mut self, field: &str, value: Value) -> Self {
        self.main.insert(field.to_owned(), value);
        self
    }

    /// Sets a field of the spec.
    #[must_use]
    pub fn spec(mut self, field: &str, value: Value) -> Self {
        self.spec.insert(field.to_owned(), value);
        self
    }

    /// The pod, with `others` beside the container.
    #[must_use]
    pub fn beside(self, others: &[Value]) -> Value {
        let mut spec = self.spec;
        let mut containers = vec![Value::Object(self.main)];
        containers.extend_from_slice(others);
        spec.insert("containers".to_owned(), containers.into());
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name}, "spec": spec})
    }

    /// The pod.
    #[must_use]
    pub fn pod(self) -> Value {
        self.beside(&[])
    }

    /// The manifest's text.
    #[must_use]
    pub fn text(self) -> String {
        self.pod().to_string()
    }
}
