//! The image of sandboxes. CRI has no word for it; containerd 1.6 and 1.7 tell it with their configuration.

use std::sync::Arc;
use std::time::Duration;

use cri_proto::RuntimeClient;
use serde_json::Value;
use tokio::sync::Mutex;

/// For how long an answer is taken for true: only a restart of the runtime changes it.
const TRUE_FOR: Duration = Duration::from_secs(3600);
/// When a runtime that has not answered is asked again.
const AGAIN: Duration = Duration::from_secs(60);
/// How long the runtime has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the runtime said last.
#[derive(Debug, Default)]
pub(super) struct SandboxImage(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    image: Arc<str>,
    /// Until when it is taken for true; monotonic.
    until: Duration,
}

impl SandboxImage {
    /// The image, asked for anew when the last answer is old; `now` is monotonic. Without an answer it is what it was
    /// before, which at first is empty.
    pub(super) async fn get(&self, runtime: &RuntimeClient, now: Duration) -> Arc<str> {
        let mut known = self.0.lock().await;
        if now >= known.until {
            let answer = tokio::time::timeout(PATIENCE, runtime.status(true)).await;
            known.until = now + AGAIN;
            if let Ok(Ok(status)) = answer {
                known.image = of_configuration(status.info.get("config")).into();
                known.until = now + TRUE_FOR;
            }
        }
        Arc::clone(&known.image)
    }
}

fn of_configuration(config: Option<&String>) -> String {
    let config = config.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let image = config
        .as_ref()
        .and_then(|config| config["sandboxImage"].as_str());
    image.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_stands_in_containerds_configuration() {
        let of = |text: &str| of_configuration(Some(&text.to_owned()));
        assert_eq!(
            of(r#"{"sandboxImage":"registry.k8s.io/pause:3.10"}"#),
            "registry.k8s.io/pause:3.10"
        );
        assert_eq!(of("{}"), "");
        assert_eq!(of("no json"), "");
        assert_eq!(of_configuration(None), "");
    }
}
