//! The configuration in use as one document, for `/configz`: what was set, and the defaults of everything else.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::durations::GoDuration;
use super::fields::{FIELDS, Kind, Preset};
use super::settings::Settings;

/// Objects that are there even without a field that is set, as they are no pointers in Go.
const ALWAYS: &[&str] = &[
    "authentication.x509",
    "memorySwap",
    "logging",
    "logging.options.text",
    "logging.options.json",
    "crashLoopBackOff",
];
/// What may hold credentials.
const MASKED: &[&str] = &["staticPodURL", "staticPodURLHeader"];

/// Fields that Go's JSON leaves out while they are zero or false, as they are no pointers there. (Of text, lists and maps
/// that is so of all but `resolvConf`.)
const LEFT_OUT: &[&str] = &[
    "enableContentionProfiling",
    "evictionMaxPodGracePeriod",
    "kernelMemcgNotification",
    "logging.options.json.splitStream",
    "logging.options.text.splitStream",
    "podsPerCore",
    "protectKernelDefaults",
    "readOnlyPort",
    "rotateCertificates",
    "runOnce",
    "serverTLSBootstrap",
];

/// The document as JSON, under the name that upstream registers it by. `others` are the values of fields that have no
/// single default.
pub(super) fn document(settings: &Settings, others: &BTreeMap<&'static str, Value>) -> String {
    let mut root = json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
    });
    for path in ALWAYS {
        *place(&mut root, path) = json!({});
    }
    for field in FIELDS {
        let value = match (field.path, others.get(field.path)) {
            ("apiVersion" | "kind", _) => continue,
            (_, Some(value)) => Some(shown(field.kind, value)),
            (path, None) if MASKED.contains(&path) => settings.value(path).map(masked),
            (path, None) => match settings.value(path) {
                Some(value) => Some(shown(field.kind, value)),
                None => default(field.kind, settings.preset(path)),
            },
        };
        if let Some(value) = value.filter(|value| !is_left_out(field.path, value)) {
            *place(&mut root, field.path) = value;
        }
    }
    json!({ "kubeletconfig": root }).to_string()
}

fn is_left_out(path: &str, value: &Value) -> bool {
    match value {
        Value::Bool(false) => LEFT_OUT.contains(&path),
        Value::Number(number) => LEFT_OUT.contains(&path) && number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() && path != "resolvConf",
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The place of `path`, objects made on the way; no field of the table is both a value and an object.
fn place<'r>(root: &'r mut Value, path: &str) -> &'r mut Value {
    path.split('.').fold(root, |at, step| &mut at[step])
}

fn shown(kind: Kind, value: &Value) -> Value {
    let duration = matches!(kind, Kind::Duration | Kind::DurationOrNanos);
    match value {
        Value::String(text) if duration => {
            GoDuration::parse(text).map_or_else(|_| value.clone(), |span| span.to_string().into())
        }
        Value::Number(nanos) if duration => match nanos.as_i64() {
            Some(nanos) => GoDuration(nanos).to_string().into(),
            None => value.clone(),
        },
        _ => value.clone(),
    }
}

fn masked(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let masked = map.keys().map(|name| (name.clone(), json!(["<masked>"])));
            Value::Object(masked.collect())
        }
        _ => "<masked>".into(),
    }
}

/// What is shown of a field that nobody has set.
fn default(kind: Kind, preset: Preset) -> Option<Value> {
    match preset {
        Preset::None => None,
        Preset::Bool(value) => Some(value.into()),
        Preset::Int(value) => Some(value.into()),
        Preset::Float(value) => Some(value.into()),
        Preset::Text(text) => Some(shown(kind, &text.into())),
        Preset::List(items) => Some(items.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Layers;

    fn of(fields: &str) -> Value {
        let text = format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{fields}"
        );
        let (layers, problems) = Layers::of_file("/c.yaml".as_ref(), text.as_bytes()).unwrap();
        assert_eq!(problems, []);
        let hard = json!({"memory.available": "100Mi"});
        let document = document(&Settings::new(layers), &[("evictionHard", hard)].into());
        serde_json::from_str(&document).unwrap()
    }

    #[test]
    fn what_is_set_and_what_is_not() {
        let config = &of(
            "syncFrequency: 90s\nmaxPods: 12\nauthentication: {anonymous: {enabled: true}, x509: {clientCAFile: /ca}}\nlogging: {flushFrequency: 5000000000}\nfailSwapOn: false\n",
        )["kubeletconfig"];
        assert_eq!(config["kind"], "KubeletConfiguration");
        assert_eq!(config["apiVersion"], "kubelet.config.k8s.io/v1beta1");
        assert_eq!(config["syncFrequency"], "1m30s");
        assert_eq!(config["maxPods"], 12);
        assert_eq!(config["failSwapOn"], false);
        assert_eq!(config["fileCheckFrequency"], "20s");
        assert_eq!(config["enforceNodeAllocatable"], json!(["pods"]));
        assert_eq!(config["evictionHard"], json!({"memory.available": "100Mi"}));
        assert_eq!(config["logging"]["flushFrequency"], "5s");
        assert_eq!(config["logging"]["format"], "text");
        assert_eq!(
            config["authentication"],
            json!({
                "x509": {"clientCAFile": "/ca"},
                "webhook": {"enabled": true, "cacheTTL": "2m0s"},
                "anonymous": {"enabled": true},
            })
        );
        assert_eq!(config["memorySwap"], json!({}));
        assert_eq!(config.get("clusterDNS"), None);
    }

    #[test]
    fn credentials_are_masked() {
        let config = of(
            "staticPodURL: https://user:secret@host/\nstaticPodURLHeader: {Authorization: [Basic secret, second]}\n",
        );
        assert!(!config.to_string().contains("secret"), "{config}");
        let config = &config["kubeletconfig"];
        assert_eq!(
            config["staticPodURLHeader"],
            json!({"Authorization": ["<masked>"]})
        );
        assert_eq!(config["staticPodURL"], "<masked>");
    }
}
