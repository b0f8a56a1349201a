//! What the double does on order; what it does as the real server does is in `tests/tests/tier2_cluster_server/`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Fault, User};
use crate::cluster::{Cluster, Refused, bound_pod, path};

const PODS: &str = "/api/v1/pods";

fn refused(result: anyhow::Result<Value>) -> (u16, Value) {
    let error = result.unwrap_err();
    let refused: Refused = error.downcast().unwrap();
    (refused.code, refused.status)
}

fn version(object: &Value) -> String {
    let version = object["metadata"]["resourceVersion"].as_str();
    version.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn versions_expire_on_order() {
    let cluster = Cluster::with_double().await.unwrap();
    let (client, double) = (cluster.client(), cluster.double().unwrap());
    cluster.add(&bound_pod("a")).await.unwrap();
    cluster.add(&bound_pod("b")).await.unwrap();
    let page = client.get(&format!("{PODS}?limit=1")).await.unwrap();
    let next = page["metadata"]["continue"].as_str().unwrap();
    let query = format!("resourceVersion={}", version(&page));
    let running = async { client.watch(PODS, &query, 20).await.unwrap() };
    let expiring = async {
        while !double.requests().iter().any(|r| r.is("watch", PODS)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        double.expire();
    };
    let (events, ()) = tokio::join!(running, expiring);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["type"], "ERROR");
    assert_eq!(events[0]["object"]["code"], 410);
    assert_eq!(events[0]["object"]["reason"], "Expired");
    let again = client.watch(PODS, &query, 5).await.unwrap();
    assert_eq!(again[0]["object"]["code"], 410);
    let (code, status) = refused(client.get(&format!("{PODS}?limit=1&continue={next}")).await);
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
    let list = client.get(PODS).await.unwrap();
    let query = format!("resourceVersion={}", version(&list));
    assert!(client.watch(PODS, &query, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn bookmarks_come_on_order_and_at_the_end() {
    let cluster = Cluster::with_double().await.unwrap();
    let (client, double) = (cluster.client(), cluster.double().unwrap());
    let list = client.get(PODS).await.unwrap();
    let query = format!(
        "allowWatchBookmarks=true&resourceVersion={}",
        version(&list)
    );
    let running = async { client.watch(PODS, &query, 2).await.unwrap() };
    let ordering = async {
        while !double.requests().iter().any(|r| r.is("watch", PODS)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Something else changes: only a bookmark can tell.
        cluster
            .add_object("configmaps", &json!({ "metadata": { "name": "c" } }))
            .await
            .unwrap();
        double.bookmark();
    };
    let (events, ()) = tokio::join!(running, ordering);
    assert!(events.iter().all(|e| e["type"] == "BOOKMARK"), "{events:?}");
    assert_eq!(events.len(), 2, "{events:?}");
    assert_ne!(version(&events[0]["object"]), version(&list));
    let query = format!("resourceVersion={}", version(&list));
    assert!(client.watch(PODS, &query, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn faults_meet_what_they_are_for() {
    let cluster = Cluster::with_double().await.unwrap();
    let (client, double) = (cluster.client(), cluster.double().unwrap());
    double.fault(Fault::on("list", PODS).by("admin").times(1).too_many(7));
    double.fault(Fault::on("list", PODS).times(1).breaks());
    let (code, status) = refused(client.get(PODS).await);
    assert_eq!(
        (code, &status["details"]["retryAfterSeconds"]),
        (429, &json!(7))
    );
    assert_eq!(refused(client.get(PODS).await).0, 500);
    client.get(PODS).await.unwrap();
    double.fault(
        Fault::on("get", "*")
            .times(1)
            .takes(Duration::from_millis(400)),
    );
    let begun = Instant::now();
    client.get(&path("nodes", "", "n")).await.unwrap_err();
    assert!(begun.elapsed() >= Duration::from_millis(400));
    double.fault(Fault::on("create", "*/pods").hangs_afterwards());
    let pod = bound_pod("a");
    let adding = timeout(Duration::from_millis(500), cluster.add(&pod));
    assert!(adding.await.is_err());
    double.clear_faults();
    cluster.pod("a").await.unwrap();
    let last = double.requests();
    let hung = last.iter().find(|r| r.is("create", "*/pods")).unwrap();
    assert_eq!((hung.code, hung.user.as_str()), (None, "admin"));
    assert_eq!(hung.body["metadata"]["name"], "a");
}

#[tokio::test]
async fn tokens_and_rules_are_what_the_test_says() {
    let cluster = Cluster::with_double().await.unwrap();
    let double = cluster.double().unwrap();
    double.token("secret", User::new("jane", &["system:masters"]));
    let jane = cluster.client_with("secret").unwrap();
    jane.get(PODS).await.unwrap();
    double.allow("prometheus", "get", "nodes/metrics");
    let mut review = json!({ "spec": { "user": "prometheus", "resourceAttributes": {
        "verb": "get", "resource": "nodes", "subresource": "metrics",
    } } });
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let allowed = jane.create(reviews, &review).await.unwrap();
    assert_eq!(allowed["status"]["allowed"], true);
    review["spec"]["resourceAttributes"]["subresource"] = json!("proxy");
    let allowed = jane.create(reviews, &review).await.unwrap();
    assert_eq!(allowed["status"]["allowed"], false);
    let info = double.cluster_info(&["abcdef.0123456789abcdef"]);
    let maps = path("configmaps", "kube-public", "");
    jane.create(&maps, &info).await.unwrap();
    let anyone = cluster.client_with("").unwrap();
    assert_eq!(refused(anyone.get(&maps).await).0, 403, "anonymous");
    let stranger = cluster.client_with("wrong").unwrap();
    assert_eq!(refused(stranger.get(&maps).await).0, 401);
}

#[tokio::test]
async fn it_speaks_http2_to_who_offers_it() {
    let cluster = Cluster::with_double().await.unwrap();
    let mut tls = cluster.authority.client_tls(None).unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let address = cluster.line.address();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::IpAddress(address.ip().into());
    let connector = TlsConnector::from(Arc::new(tls));
    let stream = connector.connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}
