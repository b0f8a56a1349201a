use clap::Parser as _;
use serde_json::json;

use super::super::arguments::{Command, Line};
use super::*;

fn parsed(line: &str) -> Result<EventsArguments, String> {
    let words = ["kubelet", "events"]
        .into_iter()
        .chain(line.split_whitespace());
    match Line::try_parse_from(words)
        .map_err(|error| error.to_string())?
        .command
    {
        Command::Events(arguments) => Ok(arguments),
        other => panic!("{other:?}"),
    }
}

#[test]
fn flags_become_a_request() {
    let plain = parsed("").unwrap();
    assert_eq!(request(&plain), "/events");
    assert_eq!(
        plain.place.socket(),
        Path::new("/var/lib/kubelet/agent.sock")
    );
    let full = parsed("-n kube-system --pod=web -o json --root-dir /r").unwrap();
    assert_eq!(request(&full), "/events?namespace=kube-system&pod=web");
    assert_eq!(full.place.socket(), Path::new("/r/agent.sock"));
    assert_eq!(full.output, EventsFormat::Json);
    let socket = parsed("--socket /run/k.sock --root-dir /r").unwrap();
    assert_eq!(socket.place.socket(), Path::new("/run/k.sock"));
}

#[test]
fn what_makes_no_sense_is_told() {
    for (line, said) in [
        ("web", "unexpected argument 'web'"),
        ("--pods a", "a similar argument exists: '--pod'"),
        ("--pod", "a value is required for '--pod <NAME>'"),
        ("-o yaml", "invalid value 'yaml'"),
        ("--pod a&b", "names are of lower case letters"),
        ("-A -n a", "cannot be used with"),
    ] {
        let error = parsed(line).unwrap_err();
        assert!(error.contains(said), "{line}: {error}");
    }
}

fn item(
    kind: &str,
    path: Option<&str>,
    first: &str,
    last: &str,
    count: u32,
    message: &str,
) -> Item {
    let item = json!({
        "metadata": { "namespace": "default" },
        "involvedObject": { "kind": kind, "name": "web-node", "fieldPath": path },
        "reason": "BackOff", "type": "Warning", "message": message,
        "firstTimestamp": first, "lastTimestamp": last, "count": count,
    });
    serde_json::from_value(item).unwrap()
}

#[test]
fn the_table_is_as_kubectls() {
    let items = [
        item(
            "Node",
            None,
            "2026-01-02T03:00:00Z",
            "2026-01-02T03:00:00Z",
            1,
            "one\ntwo\n",
        ),
        item(
            "Pod",
            Some("spec.containers{main}"),
            "2026-01-02T03:03:00Z",
            "2026-01-02T03:04:55Z",
            5,
            "Back-off",
        ),
    ];
    let now = "2026-01-02T03:05:00Z".parse().unwrap();
    assert_eq!(
        table(&items, false, now),
        "\
LAST SEEN         TYPE      REASON    OBJECT               MESSAGE
5m                Warning   BackOff   node/web-node        one\\ntwo
5s (x5 over 2m)   Warning   BackOff   pod/web-node{main}   Back-off
"
    );
    let with = table(&items[..1], true, now);
    assert!(with.starts_with("NAMESPACE   LAST SEEN   TYPE"), "{with}");
    assert!(with.contains("\ndefault     5m          Warning"), "{with}");
    assert_eq!(table(&[], true, now), "No events found.\n");
}

#[test]
fn nobody_at_the_socket_is_said_with_its_path() {
    let arguments = parsed("--root-dir /no/such/root").unwrap();
    let mut streams = Streams {
        output: &mut Vec::new(),
        remarks: &mut Vec::new(),
    };
    let error = run(&arguments, &mut streams, Timestamp::UNIX_EPOCH).unwrap_err();
    assert!(
        error.to_string().contains("/no/such/root/agent.sock"),
        "{error}"
    );
}
