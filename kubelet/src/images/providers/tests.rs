//! Programs that answer, fail, or do not end.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::config::TokenAttributes;

const V1: &str = "credentialprovider.kubelet.k8s.io/v1";

struct Bench {
    directory: tempfile::TempDir,
    config: CredentialProviders,
}

impl Bench {
    /// One program, which runs `script` in its directory.
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // The shell itself: a file that was just written may still be open in a child of another test.
        std::os::unix::fs::symlink("/bin/sh", directory.path().join("p")).unwrap();
        let provider = CredentialProvider {
            name: "p".to_owned(),
            api_version: V1.to_owned(),
            match_images: vec!["*.io".to_owned()],
            default_cache: Duration::ZERO,
            args: vec!["-c".to_owned(), format!("cd \"$AT\"; {script}")],
            env: vec![("AT".to_owned(), directory.path().display().to_string())],
            token: None,
        };
        let config = CredentialProviders {
            providers: vec![provider],
            hash: String::new(),
            binaries: directory.path().to_owned(),
        };
        Self { directory, config }
    }

    fn with(mut self, change: impl FnOnce(&mut CredentialProvider)) -> Self {
        change(&mut self.config.providers[0]);
        self
    }

    fn providers(&self) -> Providers {
        Providers::new(&self.config, Objects::standalone())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// How often the program ran.
    fn runs(&self) -> usize {
        let runs = fs::read_to_string(self.file("runs")).unwrap_or_default();
        runs.lines().count()
    }
}

async fn users(providers: &Providers, image: &str) -> Vec<String> {
    users_for(providers, image, "").await
}

async fn users_for(providers: &Providers, image: &str, service_account: &str) -> Vec<String> {
    let claimant = Claimant {
        namespace: "ns",
        name: "pod",
        service_account,
    };
    let uid = PodUid::parse("u").unwrap();
    let found = providers.lookup(image, &uid, &claimant).await;
    found.into_iter().map(|c| c.username).collect()
}

/// A script that says this of the places `r.io` and `q.io`.
fn says(rest: &str) -> String {
    format!(
        "echo >> runs; cat > asked; echo '{{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"{V1}\",{rest},\"auth\":{{\"r.io\":{{\"username\":\"u\",\"password\":\"p\"}},\"q.io\":{{\"username\":\"v\",\"password\":\"p\"}}}}}}'"
    )
}

#[tokio::test]
async fn an_answer_is_kept_for_what_it_says_and_no_other_image_is_asked_for() {
    for (kind, asked) in [("Image", 3), ("Registry", 2), ("Global", 1)] {
        let bench = Bench::new(&says(&format!(
            "\"cacheKeyType\":\"{kind}\",\"cacheDuration\":\"1h\""
        )));
        let providers = bench.providers();
        for _ in 0..2 {
            assert_eq!(users(&providers, "r.io/a").await, ["u"]);
            assert_eq!(users(&providers, "r.io/b").await, ["u"]);
            assert_eq!(users(&providers, "q.io/a").await, ["v"]);
        }
        assert_eq!(bench.runs(), asked, "{kind}");
        assert!(users(&providers, "r.example/a").await.is_empty());
        assert_eq!(
            bench.runs(),
            asked,
            "another registry is none of its affair"
        );
    }
    let asked = |bench: &Bench| fs::read_to_string(bench.file("asked")).unwrap();
    let bench = Bench::new(&says("\"cacheKeyType\":\"Image\""));
    users(&bench.providers(), "r.io/a").await;
    assert_eq!(
        asked(&bench),
        format!(
            "{{\"kind\":\"CredentialProviderRequest\",\"apiVersion\":\"{V1}\",\"image\":\"r.io/a\"}}\n"
        )
    );
}

#[tokio::test]
async fn an_answer_without_a_time_is_kept_by_the_default() {
    for (time, default, asked) in [
        ("", 3600, 1),
        ("", 0, 2),
        (",\"cacheDuration\":\"0s\"", 3600, 2),
    ] {
        let bench = Bench::new(&says(&format!("\"cacheKeyType\":\"Image\"{time}")))
            .with(|provider| provider.default_cache = Duration::from_secs(default));
        let providers = bench.providers();
        for _ in 0..2 {
            assert_eq!(users(&providers, "r.io/a").await, ["u"]);
        }
        assert_eq!(bench.runs(), asked, "{time} {default}");
    }
}

#[tokio::test]
async fn who_asks_the_same_at_once_shares_the_answer() {
    let script = format!("sleep 0.3; {}", says("\"cacheKeyType\":\"Image\""));
    let bench = Bench::new(&script);
    let providers = bench.providers();
    let (a, b) = tokio::join!(users(&providers, "r.io/a"), users(&providers, "r.io/a"));
    assert_eq!((a, b), (vec!["u".to_owned()], vec!["u".to_owned()]));
    assert_eq!(bench.runs(), 1);
}

#[tokio::test]
async fn a_program_that_fails_gives_nothing_and_says_why() {
    let of = |rest: &str| format!("echo '{{\"kind\":\"CredentialProviderResponse\",{rest}}}'");
    for (script, error) in [
        (
            "echo no luck >&2; exit 3".to_owned(),
            "error execing credential provider plugin p for image r.io/a: exit status 3: no luck",
        ),
        (
            "head -c 2000000 /dev/zero".to_owned(),
            "error execing credential provider plugin p for image r.io/a: its answer has more than 1048576 bytes: ",
        ),
        (
            "echo what".to_owned(),
            "error reading GVK from response: it is no JSON object",
        ),
        (
            of("\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1beta1\""),
            "apiVersion from credential plugin response did not match expected apiVersion:credentialprovider.kubelet.k8s.io/v1, actual apiVersion:credentialprovider.kubelet.k8s.io/v1beta1",
        ),
        (
            of(&format!("\"apiVersion\":\"{V1}\",\"cacheKeyType\":\"All\"")),
            "credential provider plugin did not return a valid cacheKeyType: All",
        ),
        (
            of(&format!(
                "\"apiVersion\":\"{V1}\",\"cacheKeyType\":\"Image\",\"secret\":\"x\""
            )),
            "error decoding credential provider plugin response from stdout",
        ),
    ] {
        let bench = Bench::new(&script);
        let providers = bench.providers();
        assert!(users(&providers, "r.io/a").await.is_empty(), "{script}");
        let asked = providers.providers[0].program.ask("r.io/a", None).await;
        let said = asked.unwrap_err().to_string();
        let whole =
            format!("failed to get credential from external registry credential provider: {error}");
        assert_eq!(said, whole);
    }
}

#[tokio::test]
async fn a_program_that_nobody_waits_for_is_killed_with_all_that_it_began() {
    let bench = Bench::new("sleep 1000 & echo $! > child; wait");
    let providers = bench.providers();
    let child = async {
        loop {
            let text = fs::read_to_string(bench.file("child")).unwrap_or_default();
            if let Ok(pid) = text.trim().parse::<i32>() {
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let pid = tokio::select! {
        pid = child => pid,
        _ = users(&providers, "r.io/a") => panic!("it answered"),
    };
    // A process that was killed may not have been reaped yet, where nobody reaps orphans.
    let lives = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| {
            let state = rest.split_whitespace().next();
            state.is_some_and(|state| state != "Z")
        })
    };
    for _ in 0..500 {
        if !lives() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid} lives on");
}

#[tokio::test]
async fn who_is_to_have_a_service_account_is_not_asked_without() {
    let with = |required| {
        Bench::new(&says("\"cacheKeyType\":\"Image\"")).with(|provider| {
            provider.token = Some(TokenAttributes {
                audience: "r.io".to_owned(),
                cached_by_token: false,
                required,
                required_annotations: Vec::new(),
                optional_annotations: Vec::new(),
            });
        })
    };
    let bench = with(true);
    assert!(users(&bench.providers(), "r.io/a").await.is_empty());
    assert_eq!(bench.runs(), 0);
    let bench = with(false);
    assert_eq!(users(&bench.providers(), "r.io/a").await, ["u"]);
    // One who has one, on a node where nobody has the account.
    assert!(
        users_for(&bench.providers(), "r.io/a", "builder")
            .await
            .is_empty()
    );
    assert_eq!(bench.runs(), 1);
}
