use clap::Parser as _;
use serde_json::json;

use super::super::arguments::{Command, Line};
use super::super::containers::DEFAULT_CONTAINER;
use super::*;

fn parsed(line: &str) -> Result<LogsArguments, String> {
    let words = ["kubelet", "logs"]
        .into_iter()
        .chain(line.split_whitespace());
    match Line::try_parse_from(words)
        .map_err(|error| error.to_string())?
        .command
    {
        Command::Logs(arguments) => Ok(arguments),
        other => panic!("{other:?}"),
    }
}

fn pod(annotation: Option<&str>) -> Listed {
    Listed::of(json!({
        "metadata": {
            "namespace": "default", "name": "web-n1",
            "annotations": annotation.map(|name| json!({DEFAULT_CONTAINER: name})),
        },
        "spec": {
            "nodeName": "n1",
            "initContainers": [{"name": "setup"}],
            "containers": [{"name": "main"}, {"name": "side"}],
            "ephemeralContainers": [{"name": "debug"}],
        },
    }))
    .unwrap()
}

/// The containers, and what is remarked or refused.
fn chosen(line: &str, pod: &Listed) -> (Vec<String>, String) {
    let mut remarks = Vec::new();
    let mut streams = Streams {
        output: &mut Vec::new(),
        remarks: &mut remarks,
    };
    match wanted(pod, &parsed(line).unwrap(), &mut streams) {
        Ok(containers) => (containers, String::from_utf8(remarks).unwrap()),
        Err(error) => (Vec::new(), error.to_string()),
    }
}

#[test]
fn flags_become_a_request() {
    let asked = |line: &str| query(&parsed(line).unwrap());
    assert_eq!(asked("web"), "?rotated=true");
    assert_eq!(asked("web --tail=-1 --limit-bytes 0"), "?rotated=true");
    assert_eq!(
        asked("web -fp --timestamps --tail 0 --since 1m30s --limit-bytes 9"),
        "?rotated=true&follow=true&previous=true&timestamps=true&tailLines=0&sinceSeconds=90&limitBytes=9"
    );
    // A second is the least.
    assert!(asked("web --since 10ms").ends_with("sinceSeconds=1"));
    assert!(
        asked("web --since-time 2026-01-02T04:00:00+01:00")
            .ends_with("&sinceTime=2026-01-02T03:00:00Z")
    );
    assert_eq!(parsed("pod/web -n a").unwrap().pod, "web");
}

#[test]
fn what_makes_no_sense_is_told() {
    for (line, said) in [
        ("", "<POD>"),
        ("web --tail -2", "-2 is not in -1.."),
        ("web --tail x", "invalid digit"),
        ("web --since 5", "missing unit"),
        ("web --since 0s", "longer than nothing"),
        ("web --since-time yesterday", "invalid value 'yesterday'"),
        (
            "web --since 5s --since-time 2026-01-02T03:00:00Z",
            "cannot be used with",
        ),
        ("web -c a --all-containers", "cannot be used with"),
        ("web a -c b", "cannot be used with"),
        ("svc/web", "names are of lower case letters"),
    ] {
        let error = parsed(line).unwrap_err();
        assert!(error.contains(said), "{line}: {error}");
    }
}

#[test]
fn the_container_is_the_named_one_the_annotated_one_or_the_first() {
    let plain = pod(None);
    let (containers, remark) = chosen("web", &plain);
    assert_eq!(containers, ["main"]);
    assert_eq!(
        remark,
        "Defaulted container \"main\" out of: main, side, debug (ephem), setup (init)\n"
    );
    for line in ["web -c setup", "web setup"] {
        assert_eq!(
            chosen(line, &plain),
            (vec!["setup".to_owned()], String::new())
        );
    }
    assert_eq!(
        chosen("web --all-containers", &plain),
        (
            ["setup", "main", "side", "debug"]
                .map(str::to_owned)
                .to_vec(),
            String::new()
        )
    );
    let annotated = chosen("web", &pod(Some("side")));
    assert_eq!(annotated, (vec!["side".to_owned()], String::new()));
    let wrongly = chosen("web", &pod(Some("nobody")));
    assert_eq!(wrongly.0, ["main"]);
    assert_eq!(
        chosen("web -c nobody", &plain).1,
        "container nobody is not valid for pod web-n1 out of: main, side, debug (ephem), setup (init)"
    );
}

#[test]
fn a_pod_that_is_not_there_is_told_with_those_that_are() {
    let all = [pod(None)];
    let missing =
        |namespace: &str, name: &str| pods::one(&all, namespace, name).err().unwrap().to_string();
    assert_eq!(pods::one(&all, "default", "web").unwrap().name(), "web-n1");
    assert_eq!(
        pods::one(&all, "default", "web-n1").unwrap().name(),
        "web-n1"
    );
    assert_eq!(
        missing("default", "wep"),
        "pods \"wep\" not found in namespace \"default\": there are web-n1"
    );
    assert_eq!(
        missing("other", "web"),
        "pods \"web\" not found in namespace \"other\": there is one in namespace \"default\""
    );
    assert!(missing("other", "x").ends_with(": there is no pod there"));
}
