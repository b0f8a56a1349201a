use serde_json::json;

use super::*;

fn parsed(line: &str) -> Result<Arguments, String> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    Arguments::parse(&words).map_err(|error| error.to_string())
}

#[test]
fn flags_become_a_request() {
    let plain = parsed("").unwrap();
    assert_eq!(plain.request(), "/events");
    assert_eq!(plain.socket(), PathBuf::from("/var/lib/kubelet/agent.sock"));
    let full = parsed("-n kube-system --pod=web -o json --root-dir /r").unwrap();
    assert_eq!(full.request(), "/events?namespace=kube-system&pod=web");
    assert_eq!(full.socket(), PathBuf::from("/r/agent.sock"));
    assert!(full.json);
    let socket = parsed("--socket /run/k.sock --root-dir /r").unwrap();
    assert_eq!(socket.socket(), PathBuf::from("/run/k.sock"));
    assert!(parsed("--pod a --help --nonsense").unwrap().help);
}

#[test]
fn what_makes_no_sense_is_told() {
    for (line, said) in [
        (
            "web",
            "unexpected argument \"web\"; a pod is named with --pod",
        ),
        ("--pods a", "unknown flag: --pods"),
        ("--pod", "flag needs an argument: --pod"),
        ("-o yaml", "takes text or json, not \"yaml\""),
        ("--pod a&b", "nothing is called \"a&b\""),
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
    let words = ["--root-dir", "/no/such/root"].map(str::to_owned);
    let error = run(&words, &mut Vec::new(), Timestamp::UNIX_EPOCH).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(
        error.to_string().contains("/no/such/root/agent.sock"),
        "{error}"
    );
}
