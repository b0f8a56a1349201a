//! Images that are here for those who could have pulled them.

use super::*;
use crate::clock::Clock;
use crate::images::{CredentialOwner, Keyring, VerificationPolicy};

/// The credentials of a secret of this name, with this user.
fn secret(name: &str, user: &str) -> Keyring {
    let json = format!(r#"{{"r.io": {{"username": "{user}", "password": "p"}}}}"#);
    let owner = CredentialOwner::Secret {
        uid: Some(format!("uid of {name}")),
        namespace: "ns".to_owned(),
        name: name.to_owned(),
    };
    Keyring::from_dockercfg(json.as_bytes())
        .unwrap()
        .owned_by(&owner)
}

/// A runtime that takes the user `u1` and, as a registry that is not public, nobody else.
fn bench(directory: &std::path::Path) -> Bench {
    let runtime = FakeRuntime::holding("here:1").with(|fake| {
        fake.accepts_user = Some("u1".to_owned());
        fake.refuses_nobody = true;
    });
    let (clock, _) = Clock::manual("2026-01-02T03:04:05Z".parse().unwrap());
    let policy = VerificationPolicy::default();
    let records = PullRecords::open(directory, policy, clock).unwrap();
    let mut bench = Bench::new(runtime);
    let puller = ImagePuller::new(
        Arc::clone(&bench.runtime),
        &PullConfig::default(),
        NodeCredentials::default(),
    );
    bench.puller = Arc::new(puller.with_records(Arc::new(records)));
    bench
}

#[tokio::test(start_paused = true)]
async fn an_image_is_used_by_who_could_have_pulled_it() {
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(directory.path());
    let image = "r.io/a:1";
    let of = async |pod: &str, image: &str, policy, with: &Keyring| {
        let got = bench.ensure_with(pod, image, policy, with).await;
        got.map(|_| ()).map_err(|error| error.reason())
    };
    let (none, right) = (Keyring::default(), secret("s", "u1"));
    assert_eq!(of("a", image, IfNotPresent, &right).await, Ok(()));
    assert_eq!(bench.count(|r| &r.pulls), 1);
    bench.events();
    // Whoever has the same secret, or another with the same in it, is let in without a pull.
    assert_eq!(of("b", image, IfNotPresent, &right).await, Ok(()));
    assert_eq!(of("c", image, Never, &secret("t", "u1")).await, Ok(()));
    assert_eq!(bench.count(|r| &r.pulls), 1);
    let present = "Normal Pulled Container image \"r.io/a:1\" already present on machine and can be accessed by the pod";
    assert_eq!(bench.events(), [present, present]);
    // Whoever has none is not, and is not told that it is here.
    assert_eq!(
        of("d", image, IfNotPresent, &none).await,
        Err("ErrImagePull")
    );
    assert_eq!(bench.count(|r| &r.pulls), 2);
    assert_eq!(
        bench.events(),
        [
            "Normal Pulling Pulling image \"r.io/a:1\"",
            "Warning Failed Failed to pull image \"r.io/a:1\": nobody may not",
            "Warning Failed Error: ErrImagePull",
        ]
    );
    assert_eq!(of("e", image, Never, &none).await, Err("ErrImageNeverPull"));
    assert_eq!(
        bench.events(),
        [
            "Warning ErrImageNeverPull Container image \"r.io/a:1\" is not present with pull policy of Never",
            "Warning Failed Error: ErrImageNeverPull",
        ]
    );
    let wrong = of("f", image, IfNotPresent, &secret("w", "u2")).await;
    assert_eq!(wrong, Err("ErrImagePull"));
    assert_eq!(bench.count(|r| &r.pulls), 3);
    // What was there before is everybody's.
    assert_eq!(of("g", "here:1", Never, &none).await, Ok(()));
    assert_eq!(bench.count(|r| &r.pulls), 3);
}

#[tokio::test(start_paused = true)]
async fn who_waited_for_anothers_pull_shows_credentials_too() {
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(directory.path());
    bench.set(|fake| fake.pull_time = Duration::from_secs(5));
    let right = secret("s", "u1");
    let none = Keyring::default();
    let (first, second) = tokio::join!(
        bench.ensure_with("a", "r.io/a:1", IfNotPresent, &right),
        bench.ensure_with("b", "r.io/a:1", IfNotPresent, &none)
    );
    assert!(first.is_ok());
    assert_eq!(second.unwrap_err().reason(), "ErrImagePull");
    assert_eq!(bench.count(|r| &r.pulls), 2);
    assert_eq!(bench.puller.records().unwrap().counts(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_is_given_up_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(directory.path());
    bench.set(|fake| fake.pull_time = Duration::from_secs(60));
    let right = secret("s", "u1");
    let mut pull = Box::pin(bench.ensure_with("a", "r.io/a:1", Always, &right));
    let counts = || bench.puller.records().unwrap().counts();
    let waited = tokio::time::timeout(Duration::from_secs(1), &mut pull).await;
    assert!(waited.is_err());
    assert_eq!(counts(), (1, 0));
    drop(pull);
    assert_eq!(counts(), (0, 0));
}
