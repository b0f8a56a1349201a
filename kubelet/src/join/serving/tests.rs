//! The certificate of the node's API against a signer in the same process.

use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::{Request, Response};
use kube::client::Body;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer};
use serde_json::{Value, json};

use super::*;
use crate::node::types::Node;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Signed(Duration),
    Denied,
    Undecided,
}

/// A signer, and what it was asked.
#[derive(Clone)]
struct Signer {
    verdict: Arc<Mutex<Verdict>>,
    asked: Arc<Mutex<Vec<Value>>>,
    clock: Clock,
}

impl Signer {
    fn new(verdict: Verdict, clock: &Clock) -> Self {
        Self {
            verdict: Arc::new(Mutex::new(verdict)),
            asked: Arc::default(),
            clock: clock.clone(),
        }
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }

    /// The names of each request so far.
    fn names(&self) -> Vec<String> {
        let all = self.asked().into_iter();
        all.map(|spec| names_in(&params(&spec))).collect()
    }

    fn client(&self) -> Client {
        let signer = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let signer = signer.clone();
            async move {
                let creates = request.method() == hyper::Method::POST;
                let query = request.uri().query().unwrap_or_default().to_owned();
                if query.contains("watch=") {
                    return std::future::pending().await;
                }
                let body = request.into_body().collect_bytes().await.unwrap();
                if creates {
                    let body: Value = serde_json::from_slice(&body).unwrap();
                    signer.asked.lock().unwrap().push(body["spec"].clone());
                }
                let answer = match creates {
                    true => signer.object(&json!({})),
                    false => json!({
                        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequestList",
                        "metadata": {"resourceVersion": "7"}, "items": [signer.object(&signer.status())],
                    }),
                };
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(Response::new(body))
            }
        });
        Client::new(service, "default")
    }

    fn object(&self, status: &Value) -> Value {
        let name = format!("csr-{}", self.asked.lock().unwrap().len());
        json!({"metadata": {"name": name, "uid": name, "resourceVersion": "5"}, "spec": {}, "status": status})
    }

    fn status(&self) -> Value {
        let verdict = *self.verdict.lock().unwrap();
        match verdict {
            Verdict::Undecided => json!({}),
            Verdict::Denied => {
                json!({"conditions": [{"type": "Denied", "reason": "No", "message": "not here"}]})
            }
            Verdict::Signed(life) => {
                let asked = self.asked();
                let pem = self.signed(params(asked.last().unwrap()), life);
                json!({"conditions": [{"type": "Approved"}], "certificate": STANDARD.encode(pem)})
            }
        }
    }

    fn signed(&self, mut request: CertificateSigningRequestParams, life: Duration) -> String {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(authority, new_key().unwrap());
        let now = u64::try_from(self.clock.wall().as_second()).unwrap();
        let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now);
        request.params.not_before = now;
        request.params.not_after = now + life;
        request.signed_by(&issuer).unwrap().pem()
    }
}

fn params(spec: &Value) -> CertificateSigningRequestParams {
    let pem = STANDARD.decode(spec["request"].as_str().unwrap()).unwrap();
    CertificateSigningRequestParams::from_pem(&String::from_utf8(pem).unwrap()).unwrap()
}

fn names_in(request: &CertificateSigningRequestParams) -> String {
    let names = request
        .params
        .subject_alt_names
        .iter()
        .map(|name| match name {
            rcgen::SanType::DnsName(name) => name.to_string(),
            rcgen::SanType::IpAddress(ip) => ip.to_string(),
            other => format!("{other:?}"),
        });
    names.collect::<Vec<_>>().join(" ")
}

fn node(addresses: &[(&str, &str)]) -> OwnNode {
    let mut node = Node::default();
    let address = |&(kind, address): &(&str, &str)| Address {
        kind: kind.to_owned(),
        address: address.to_owned(),
    };
    node.status.addresses = addresses.iter().map(address).collect();
    OwnNode::There(Arc::new(node))
}

const USUAL: [(&str, &str); 2] = [("InternalIP", "10.0.0.5"), ("Hostname", "a")];

struct Place {
    directory: tempfile::TempDir,
    clock: Clock,
    complaints: Complaints,
}

impl Place {
    fn new() -> Self {
        let (clock, _) = Clock::manual("2026-01-01T00:00:00Z".parse().unwrap());
        Self {
            directory: tempfile::tempdir().unwrap(),
            clock,
            complaints: Complaints::default(),
        }
    }

    fn manager(&self) -> ServingCertificate {
        let store = Store::of_servers(self.directory.path());
        let found = on_disk(&store, None);
        let valid = found.filter(|pair| self.clock.wall() < pair.not_after());
        ServingCertificate {
            store,
            node: "a".to_owned(),
            dns_is_enough: false,
            clock: self.clock.clone(),
            current: watch::Sender::new(valid.map(Arc::new)),
            complaints: self.complaints.clone(),
            granted: None,
        }
    }

    fn complaint(&self) -> String {
        let troubles = self.complaints.heard().borrow().clone();
        troubles.serving.as_deref().unwrap_or_default().to_owned()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn it_is_asked_for_once_there_is_an_address_and_again_when_there_is_another() {
    let place = Place::new();
    let signer = Signer::new(Verdict::Signed(100_000 * SECOND), &place.clock);
    let (own, heard) = watch::channel(OwnNode::Unknown);
    let manager = place.manager();
    let mut serving = manager.current();
    let task = tokio::spawn(manager.run(signer.client(), heard));
    own.send_replace(node(&[("Hostname", "a")]));
    tokio::time::sleep(60 * SECOND).await;
    assert!(signer.asked().is_empty(), "no address");
    assert!(place.complaint().contains("once the node has an address"));

    own.send_replace(node(&USUAL));
    serving.wait_for(Option::is_some).await.unwrap();
    let spec = signer.asked()[0].clone();
    assert_eq!(spec["signerName"], "kubernetes.io/kubelet-serving");
    assert_eq!(spec["usages"], json!(["digital signature", "server auth"]));
    assert!(spec.get("expirationSeconds").is_none());
    assert_eq!(signer.names(), ["a 10.0.0.5"]);
    assert_eq!(place.complaint(), "");
    let link = place.directory.path().join("kubelet-server-current.pem");
    let target = std::fs::read_link(link).unwrap();
    let target = target.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(
        target.starts_with("kubelet-server-2026-01-01-00-"),
        "{target}"
    );

    // Fewer addresses are no reason; others are.
    own.send_replace(node(&USUAL[..1]));
    tokio::time::sleep(600 * SECOND).await;
    assert_eq!(signer.asked().len(), 1);
    own.send_replace(node(&[
        ("InternalIP", "10.0.0.6"),
        ("ExternalDNS", "a.example"),
        ("Hostname", "10.9.9.9"),
    ]));
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(signer.names()[1..], ["a.example 10.0.0.6 10.9.9.9"]);
    task.abort();

    // The next agent goes on with what lies there.
    let next = place.manager();
    assert!(next.current().borrow().is_some());
    let (_own, heard) = watch::channel(node(&[("InternalIP", "10.0.0.6")]));
    let task = tokio::spawn(next.run(signer.client(), heard));
    tokio::time::sleep(600 * SECOND).await;
    assert_eq!(signer.asked().len(), 2);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_within_its_life_again_and_again() {
    let place = Place::new();
    let signer = Signer::new(Verdict::Signed(1000 * SECOND), &place.clock);
    let (_own, heard) = watch::channel(node(&USUAL));
    let manager = place.manager();
    let serving = manager.current();
    let task = tokio::spawn(manager.run(signer.client(), heard));
    tokio::time::sleep(SECOND).await;
    for _ in 0..900 {
        tokio::time::sleep(10 * SECOND).await;
        let pair = serving.borrow().clone().unwrap();
        assert!(place.clock.wall() < pair.not_after());
    }
    let times = signer.asked().len();
    assert!((10..=14).contains(&times), "{times}");
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_denied_is_said_and_made_again_less_and_less_often() {
    let place = Place::new();
    let signer = Signer::new(Verdict::Denied, &place.clock);
    let (_own, heard) = watch::channel(node(&USUAL));
    let manager = place.manager();
    let mut serving = manager.current();
    let task = tokio::spawn(manager.run(signer.client(), heard));
    tokio::time::sleep(200 * SECOND).await;
    let times = signer.asked().len();
    assert!((6..=14).contains(&times), "{times}");
    let said = place.complaint();
    for part in [
        "is Denied: No: not here",
        "tls: internal error",
        "asked for again",
    ] {
        assert!(said.contains(part), "{said}");
    }
    *signer.verdict.lock().unwrap() = Verdict::Signed(1000 * SECOND);
    serving.wait_for(Option::is_some).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(place.complaint(), "");
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_approves_is_named_and_given_up_for_other_addresses() {
    let place = Place::new();
    let signer = Signer::new(Verdict::Undecided, &place.clock);
    let (own, heard) = watch::channel(node(&USUAL));
    let manager = place.manager();
    let task = tokio::spawn(manager.run(signer.client(), heard));
    tokio::time::sleep(600 * SECOND).await;
    let said = place.complaint();
    assert!(said.contains("kubectl certificate approve csr-1"), "{said}");
    assert_eq!(signer.asked().len(), 1);
    own.send_replace(node(&[("InternalIP", "10.0.0.6")]));
    tokio::time::sleep(SECOND).await;
    assert_eq!(signer.names(), ["a 10.0.0.5", "10.0.0.6"]);
    tokio::time::sleep(14 * 60 * SECOND).await;
    assert_eq!(signer.asked().len(), 2);
    tokio::time::sleep(2 * 60 * SECOND).await;
    assert_eq!(signer.asked().len(), 3, "after a quarter of an hour");
    task.abort();
}

#[test]
fn where_nothing_was_issued_what_was_put_there_by_hand_is_served() {
    let place = Place::new();
    let signer = Signer::new(Verdict::Undecided, &place.clock);
    let make = || {
        let key = new_key().unwrap();
        let names = Names::default();
        let request = certificate::request("a", &names, &key).unwrap();
        let request = CertificateSigningRequestParams::from_pem(&request).unwrap();
        (signer.signed(request, SECOND), key.serialize_pem())
    };
    let at = |name: &str| place.directory.path().join(name);
    assert!(place.manager().current().borrow().is_none());
    let (certificate, key) = make();
    std::fs::write(at("kubelet-server.crt"), &certificate).unwrap();
    std::fs::write(at("kubelet-server.key"), &key).unwrap();
    let served = |manager: &ServingCertificate| {
        let pair = manager.current().borrow().clone();
        pair.map(|pair| pair.certificate().to_vec())
    };
    assert_eq!(served(&place.manager()), Some(certificate.into_bytes()));
    let store = Store::of_servers(place.directory.path());
    let (certificate, configured) = (make(), (at("tls.crt"), at("tls.key")));
    std::fs::write(&configured.0, &certificate.0).unwrap();
    std::fs::write(&configured.1, &certificate.1).unwrap();
    let pair = on_disk(&store, Some(&configured)).unwrap();
    assert_eq!(pair.certificate(), certificate.0.as_bytes());
    std::fs::write(store.current(), "nothing of use").unwrap();
    assert!(on_disk(&store, Some(&configured)).is_none());
    assert!(!format!("{pair:?}").contains("PRIVATE KEY"));
}
