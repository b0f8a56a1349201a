//! Clients against a small server over TLS: who is believed, who the node is, what its requests look like.

mod server;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::StatusCode;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio_stream::StreamExt as _;

use self::server::{Answer, Ca, Server};
use super::*;
use crate::clock::Clock;
use crate::config::Rate;

fn a_node() -> Answer {
    let node = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"a","uid":"u"}}"#;
    Arc::new(move |_| (StatusCode::OK, node.to_owned()))
}

/// A kubeconfig with `cluster` and `user` beneath those headings.
async fn kubeconfig(directory: &Path, address: SocketAddr, cluster: &str, user: &str) -> Endpoint {
    let path = directory.join("kubelet.conf");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\n\
         clusters:\n- name: c\n  cluster:\n    server: https://{address}\n{cluster}users:\n- name: u\n  user:\n{user}"
    );
    std::fs::write(&path, text).unwrap();
    Endpoint::read(&path).await.unwrap()
}

async fn open(endpoint: Endpoint) -> Result<Clients, ApiError> {
    let rate = Rate {
        per_second: Some(50),
        burst: 100,
    };
    let options = ClientOptions {
        rates: Rates {
            requests: rate,
            events: rate,
        },
        heartbeat_deadline: Duration::from_secs(10),
        identity: None,
    };
    Clients::open(endpoint, options, Clock::system()).await
}

async fn get(client: &kube::Client) -> Result<Node, kube::Error> {
    Api::<Node>::all(client.clone()).get("a").await
}

#[tokio::test]
async fn requests_go_over_http2_with_the_nodes_certificate_and_its_successor() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let server = Server::start(&ca, "127.0.0.1", a_node()).await;
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("ca.crt", &ca.0.pem());
    let (certificate, key) = ca.issue("system-node-a");
    write("client.pem", &(certificate + &key));
    let endpoint = kubeconfig(
        directory.path(),
        server.address,
        "    certificate-authority: ca.crt\n",
        "    client-certificate: client.pem\n    client-key: client.pem\n",
    )
    .await;
    let clients = open(endpoint).await.unwrap();
    for client in [&clients.main, &clients.events, &clients.heartbeat] {
        assert_eq!(get(client).await.unwrap().metadata.uid.unwrap(), "u");
    }
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.http2), "{seen:?}");
    assert_eq!(seen[0].connection, seen[1].connection, "events share it");
    assert_ne!(seen[0].connection, seen[2].connection, "heartbeats do not");
    let agent = &seen[0].user_agent;
    assert!(agent.starts_with("kubelet/v1.36."), "{agent}");
    assert!(
        agent.contains(" (linux/") && agent.contains(") agent/"),
        "{agent}"
    );
    assert!(seen[0].certificate.is_some());

    // A new certificate in the same place: connections that are opened from now on have it.
    let (certificate, key) = ca.issue("system-node-a");
    write("client.pem", &(certificate + &key));
    get(&clients.main).await.unwrap();
    assert_eq!(server.seen()[3].certificate, seen[0].certificate);
    clients.renew();
    get(&clients.main).await.unwrap();
    let last = server.seen()[4].clone();
    assert!(last.certificate.is_some() && last.certificate != seen[0].certificate);
    assert_ne!(last.connection, seen[0].connection);

    // What is under way goes on.
    let slow = tokio::spawn({
        let client = clients.main.clone();
        async move { Api::<Node>::all(client).get("slow").await }
    });
    server.saw("/api/v1/nodes/slow").await;
    clients.renew();
    get(&clients.main).await.unwrap();
    server.slow.notify_one();
    assert_eq!(slow.await.unwrap().unwrap().metadata.uid.unwrap(), "u");
    let seen = server.seen();
    assert_ne!(seen[6].connection, seen[5].connection);
    let last = seen[6].clone();

    // Half a file changes nothing.
    write("client.pem", "-----BEGIN CERTIFICATE-----\n");
    clients.renew();
    get(&clients.main).await.unwrap();
    assert_eq!(server.seen()[7].certificate, last.certificate);
}

#[tokio::test]
async fn a_token_file_a_server_name_and_an_authority_in_the_kubeconfig() {
    use base64::Engine as _;
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let server = Server::start(&ca, "kubernetes.example", a_node()).await;
    let data = base64::engine::general_purpose::STANDARD.encode(ca.0.pem());
    let data = format!("    certificate-authority-data: {data}\n");
    std::fs::write(directory.path().join("token"), "first\n").unwrap();
    let user = "    tokenFile: token\n";
    let endpoint = kubeconfig(directory.path(), server.address, &data, user).await;
    let clients = open(endpoint).await.unwrap();
    let error = get(&clients.main).await.unwrap_err();
    let text = crate::errors::error_chain(&error);
    assert!(text.contains("certificate"), "the name is another: {text}");

    let named = format!("{data}    tls-server-name: kubernetes.example\n");
    let endpoint = kubeconfig(directory.path(), server.address, &named, user).await;
    let clients = open(endpoint).await.unwrap();
    get(&clients.main).await.unwrap();
    assert_eq!(server.seen()[0].authorization, "Bearer first");
    assert!(server.seen()[0].certificate.is_none());

    let anybody = "    insecure-skip-tls-verify: true\n";
    let endpoint = kubeconfig(directory.path(), server.address, anybody, user).await;
    get(&open(endpoint).await.unwrap().main).await.unwrap();
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubelet.conf");
    let error = Endpoint::read(&path).await.unwrap_err();
    let text = crate::errors::error_chain(&error);
    assert!(
        text.starts_with("cannot use the kubeconfig ") && text.contains("No such file"),
        "{text}"
    );
    let address = "127.0.0.1:1".parse().unwrap();
    let user = "    client-certificate: none.pem\n    client-key: none.pem\n";
    let error = open(kubeconfig(directory.path(), address, "", user).await)
        .await
        .unwrap_err();
    let text = crate::errors::error_chain(&error);
    assert!(text.contains("none.pem: No such file"), "{text}");
    std::fs::write(directory.path().join("none.pem"), "").unwrap();
    let error = open(kubeconfig(directory.path(), address, "", user).await)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("the client certificate in ") && text.ends_with("there is none"),
        "{text}"
    );
}

/// Lists one configMap, ends each watch at once, and once says that it knows nothing of the past.
fn short_watches() -> Answer {
    let expired = Arc::new(Mutex::new(0));
    Arc::new(move |seen| {
        let object = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"5","managedFields":[{"manager":"m"}]}}"#;
        if !seen.query.contains("watch=") {
            let list = format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMapList","metadata":{{"resourceVersion":"7"}},"items":[{object}]}}"#
            );
            return (StatusCode::OK, list);
        }
        let mut expired = expired.lock().unwrap();
        *expired += 1;
        let line = match *expired {
            1 => format!(r#"{{"type":"MODIFIED","object":{object}}}"#),
            2 => r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#.to_owned(),
            _ => String::new(),
        };
        (StatusCode::OK, line + "\n")
    })
}

#[tokio::test]
async fn a_watch_goes_on_after_its_end_and_lists_anew_when_it_has_expired() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let server = Server::start(&ca, "127.0.0.1", short_watches()).await;
    let anybody = "    insecure-skip-tls-verify: true\n";
    let endpoint = kubeconfig(directory.path(), server.address, anybody, "    token: t\n").await;
    let clients = open(endpoint).await.unwrap();
    let api: Api<ConfigMap> = Api::namespaced(clients.main.clone(), "default");
    let began = tokio::time::Instant::now();
    let mut events = watch_objects(api, watcher::Config::default());
    let mut said = Vec::new();
    while said.len() < 7 {
        let event = events.next().await.unwrap();
        if let Event::Apply(object) | Event::InitApply(object) = &event {
            assert!(object.metadata.managed_fields.is_none());
        }
        said.push(event.to_string());
    }
    let one = ["Init", "InitApply(a)", "InitDone"];
    let expected: Vec<&str> = one
        .iter()
        .chain(&["Apply(a)"])
        .chain(&one)
        .copied()
        .collect();
    assert_eq!(said, expected);
    // The second watch and the list after it each waited.
    assert!(
        began.elapsed() > Duration::from_millis(800),
        "{:?}",
        began.elapsed()
    );
    let seen = server.seen();
    let list = seen
        .iter()
        .find(|seen| !seen.query.contains("watch="))
        .unwrap();
    assert!(
        list.path.ends_with("/configmaps") && list.query.contains("limit=50"),
        "{list:?}"
    );
    let watch = seen
        .iter()
        .find(|seen| seen.query.contains("watch="))
        .unwrap();
    assert!(
        watch.query.contains("allowWatchBookmarks=true"),
        "{watch:?}"
    );
}

#[tokio::test]
async fn an_api_server_that_returns_is_noticed_within_a_second_or_two() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let well = Arc::new(Mutex::new(false));
    let answer = well.clone();
    let server = Server::start(
        &ca,
        "127.0.0.1",
        Arc::new(move |_| match *answer.lock().unwrap() {
            true => (StatusCode::OK, "ok".to_owned()),
            false => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
        }),
    )
    .await;
    let anybody = "    insecure-skip-tls-verify: true\n";
    let endpoint = kubeconfig(directory.path(), server.address, anybody, "    token: t\n").await;
    let clients = open(endpoint).await.unwrap();
    let task = tokio::spawn(run_return(clients.clone()));
    get(&clients.main).await.unwrap_err();
    // Those of other tests may wake it too.
    let waiting = tokio::spawn(async { pause(Duration::from_secs(600)).await });
    while server
        .seen()
        .iter()
        .filter(|seen| seen.path == "/readyz")
        .count()
        < 2
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    *well.lock().unwrap() = true;
    let back = tokio::time::Instant::now();
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap()
        .unwrap();
    assert!(
        back.elapsed() < Duration::from_secs(2),
        "{:?}",
        back.elapsed()
    );
    task.abort();
}

/// Has too much to do once for each path, and says so as kube-apiserver does, in a line of text.
fn busy_once() -> Answer {
    let (asked, inner) = (Mutex::new(Vec::new()), short_watches());
    let node = a_node();
    Arc::new(move |seen| {
        let mut asked = asked.lock().unwrap();
        if !asked.contains(&seen.path) {
            asked.push(seen.path.clone());
            let text = "Too many requests, please try again later.\n";
            return (StatusCode::TOO_MANY_REQUESTS, text.to_owned());
        }
        match seen.path.ends_with("/configmaps") {
            true => inner(seen),
            false => node(seen),
        }
    })
}

#[tokio::test]
async fn a_server_that_asks_for_time_is_given_it() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let server = Server::start(&ca, "127.0.0.1", busy_once()).await;
    let anybody = "    insecure-skip-tls-verify: true\n";
    let endpoint = kubeconfig(directory.path(), server.address, anybody, "    token: t\n").await;
    let clients = open(endpoint).await.unwrap();
    let began = tokio::time::Instant::now();
    let Err(kube::Error::Api(status)) = get(&clients.main).await else {
        panic!("it was not refused");
    };
    let wish = status.details.unwrap().retry_after_seconds;
    assert_eq!(
        (status.code, &*status.reason, wish),
        (429, "TooManyRequests", 1)
    );
    // Another connection, to which nothing of the sort was said; and whether it is there may be asked at any time.
    get(&clients.heartbeat).await.unwrap();
    let ready = hyper::Request::get("/readyz").body(kube::client::Body::empty());
    clients.main.send(ready.unwrap()).await.unwrap_err();
    let soon = began.elapsed();
    assert!(soon < Duration::from_millis(900), "{soon:?}");
    // Events go over the one that has to be left alone.
    get(&clients.events).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));

    // So do watches.
    let began = tokio::time::Instant::now();
    let api: Api<ConfigMap> = Api::namespaced(clients.watches[0].clone(), "default");
    let mut events = watch_objects(api, watcher::Config::default());
    while !matches!(events.next().await, Some(Event::InitDone)) {}
    assert!(began.elapsed() >= Duration::from_secs(1));
    let lists = server.seen();
    assert_eq!(
        lists
            .iter()
            .filter(|seen| seen.path.ends_with("/configmaps"))
            .count(),
        2
    );
}
