use std::net::SocketAddr;

use cri_proto::{ConnectOptions, Connection};
use k8s_openapi::api::core::v1::{HTTPGetAction, HTTPHeader};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::events::recorder;

#[test]
fn messages_are_upstreams() {
    let what = "Exec lifecycle hook ([a b]) for Container \"c\" in Pod \"p_ns(u)\"".to_owned();
    let error = HookError {
        what,
        cause: HookFailure::ExitCode {
            command: "a b".into(),
            code: 9,
            stderr: "oh".into(),
            output: "no\noh".into(),
        },
    };
    assert_eq!(
        error.to_string(),
        "Exec lifecycle hook ([a b]) for Container \"c\" in Pod \"p_ns(u)\" failed - error: command 'a b' exited with 9: oh, \
         message: \"no\\noh\""
    );
}

fn pod(name: &str) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("hooks".to_owned());
    pod.metadata.uid = Some(format!("uid-of-{name}"));
    pod
}

/// A server that gives each connection one of `answers`, in their order, as soon as it has heard something.
async fn server(answers: &'static [&'static str]) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let mut heard = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            heard.push(String::from_utf8_lossy(&request[..length]).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        heard
    });
    (address, served)
}

/// Runs an HTTPS hook of `pod` against its own address.
async fn hook_over_tls(pod: &Pod, address: SocketAddr) -> Result<(), String> {
    let nowhere = Connection::connect("unix:///nonexistent", ConnectOptions::default()).unwrap();
    let get = HTTPGetAction {
        scheme: Some("HTTPS".into()),
        path: Some("/hook".into()),
        port: IntOrString::Int(address.port().into()),
        http_headers: Some(vec![HTTPHeader {
            name: "Authorization".into(),
            value: "secret".into(),
        }]),
        ..HTTPGetAction::default()
    };
    let handler = LifecycleHandler {
        http_get: Some(get),
        ..LifecycleHandler::default()
    };
    let container = Container {
        name: "main".into(),
        ..Container::default()
    };
    let hook = Hook {
        pod,
        container: &container,
        id: &"id".into(),
        handler: &handler,
        pod_ip: Some(address.ip()),
    };
    let runner = HookRunner::new(nowhere.runtime());
    runner.run(hook).await.map_err(|error| error.to_string())
}

fn events_of(pod: &Pod) -> Vec<(bool, String, String)> {
    let name = pod.metadata.name.clone().unwrap();
    let events = recorder().list(|event| event.object.name == name.as_str().into());
    let told = events.iter().map(|event| {
        let (reason, message) = (event.reason.to_string(), event.message.to_string());
        (event.warning, reason, message)
    });
    told.collect()
}

const REFUSAL: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn an_https_hook_that_meets_a_plain_server_asks_it_plainly_and_tells() {
    let pod = pod("falls-back");
    let (address, served) =
        server(&[REFUSAL, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"]).await;
    assert_eq!(hook_over_tls(&pod, address).await, Ok(()));
    let heard = served.await.unwrap();
    assert!(heard[1].starts_with("GET /hook HTTP/1.1\r\n"), "{heard:?}");
    assert!(!heard[1].contains("secret"), "{heard:?}");
    let message = format!(
        "request to HTTPS lifecycle hook {address} got HTTP response, retry with HTTP succeeded"
    );
    assert_eq!(
        events_of(&pod),
        [(true, "LifecycleHTTPFallback".to_owned(), message)]
    );
}

#[tokio::test]
async fn a_fallback_that_fails_too_leaves_the_first_error() {
    let pod = pod("falls");
    let (address, served) = server(&[REFUSAL, "SSH-2.0-x\r\n\r\n"]).await;
    let error = hook_over_tls(&pod, address).await.unwrap_err();
    assert_eq!(served.await.unwrap().len(), 2);
    let expected = format!(
        "HTTP lifecycle hook (/hook) for Container \"main\" in Pod \"falls_hooks(uid-of-falls)\" failed - error: \
         Get \"https://{address}/hook\": http: server gave HTTP response to HTTPS client"
    );
    assert_eq!(error, expected);
    assert_eq!(events_of(&pod), []);
}
