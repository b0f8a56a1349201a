//! The node's API over real TLS on loopback: who gets in, and what is said to who does not.

mod files;
mod node;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{DnType, ExtendedKeyUsagePurpose};
use serde_json::json;

use self::node::*;
use super::*;
use crate::scripted_api::Answer;

fn unauthorized() -> (u16, String) {
    (401, "Unauthorized".to_owned())
}

#[tokio::test]
async fn who_shows_nothing_is_nobody_or_anonymous() {
    let closed = Node::start(None, nobody(), |_| {}).await;
    assert_eq!(closed.ask(None, "GET /pods", "").await, unauthorized());
    assert_eq!(closed.ask(None, "GET /not/there", "").await, unauthorized());
    let token = "Authorization: Bearer abc\r\n";
    assert_eq!(closed.ask(None, "GET /pods", token).await, unauthorized());

    let open = Node::start(None, nobody(), |set| set.anonymous = true).await;
    let (status, body) = open.ask(None, "GET /pods", "").await;
    assert_eq!((status, &*body), (200, "/pods - -"));

    let judged = Node::start(None, nobody(), |set| {
        set.anonymous = true;
        set.authorization = Some(WEBHOOK);
    })
    .await;
    let (status, body) = judged.ask(None, "GET /stats/summary", "").await;
    let said =
        "Forbidden (user=system:anonymous, verb=get, resource=nodes, subresource(s)=[stats])\n";
    assert_eq!((status, &*body), (403, said));
    assert_eq!(
        judged.reviews(),
        [json!({
            "resourceAttributes": {"verb": "get", "version": "v1", "resource": "nodes", "subresource": "stats", "name": "node-1"},
            "user": "system:anonymous",
            "groups": ["system:unauthenticated"],
        })]
    );
}

#[tokio::test]
async fn a_certificate_says_who_its_client_is() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let node = Node::start(Some(&ours), nobody(), |set| {
        set.authorization = Some(WEBHOOK)
    })
    .await;
    let good = ours.client("jane", &["devs", "ops"], |_| {});
    let (status, _) = node.ask(Some(&good), "POST /run/a/b/c", "").await;
    assert_eq!(status, 403);
    let reviews = node.reviews();
    assert_eq!(reviews[0]["user"], "jane");
    let groups = json!(["devs", "ops", "system:authenticated"]);
    assert_eq!(reviews[0]["groups"], groups);
    let id = reviews[0]["extra"]["authentication.kubernetes.io/credential-id"][0].clone();
    let id = id.as_str().unwrap();
    assert_eq!(id.len(), "X509SHA256=".len() + 64, "{id}");

    let uid = ours.client("jane", &[], |params| {
        let oid = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        params.distinguished_name.push(oid, "1234");
    });
    node.ask(Some(&uid), "GET /pods", "").await;
    assert_eq!(node.reviews()[0]["uid"], "1234");

    let day = 24 * 3600;
    let expired = ours.client("jane", &["system:masters"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = params.not_before + Duration::from_secs(day);
    });
    let early = ours.client("jane", &["system:masters"], |params| {
        params.not_before = rcgen::date_time_ymd(2999, 1, 1);
        params.not_after = params.not_before + Duration::from_secs(day);
    });
    let server = ours.client("jane", &["system:masters"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    for (why, pair) in [
        (
            "another authority",
            theirs.client("jane", &["system:masters"], |_| {}),
        ),
        (
            "without a name",
            ours.client("", &["system:masters"], |_| {}),
        ),
        ("expired", expired),
        ("not yet", early),
        ("of a server", server),
    ] {
        let answer = node.ask(Some(&pair), "GET /pods", "").await;
        assert_eq!(answer, unauthorized(), "{why}");
    }
    assert!(node.reviews().is_empty());
}

#[tokio::test]
async fn a_wrong_credential_is_worse_than_none_but_not_beside_a_good_one() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let say: Say = Box::new(|spec| match spec["token"].as_str() {
        Some("good") => of(json!({"authenticated": true, "user": {"username": "bot"}})),
        Some(_) => of(json!({"error": "invalid bearer token"})),
        None => of(json!({"allowed": true})),
    });
    let node = Node::start(Some(&ours), say, |set| {
        set.anonymous = true;
        set.tokens = Some(MINUTE);
    })
    .await;
    let bad = theirs.client("jane", &[], |_| {});
    let good_token = "Authorization: Bearer good\r\n";
    let bad_token = "Authorization: Bearer bad\r\n";
    for (pair, headers, status) in [
        (None, "", 200),
        (None, "Authorization: Basic eDp5\r\n", 200),
        (None, bad_token, 401),
        (Some(&bad), "", 401),
        (Some(&bad), bad_token, 401),
        (Some(&bad), good_token, 200),
        (Some(&ours.client("jane", &[], |_| {})), bad_token, 200),
        // It says nothing of anybody.
        (Some(&ours.client("", &[], |_| {})), "", 200),
    ] {
        let answer = node.ask(pair, "GET /pods", headers).await;
        assert_eq!(answer.0, status, "{headers:?} {answer:?}");
    }
}

#[tokio::test]
async fn tokens_are_asked_about_once_and_go_no_further() {
    let reviewed = Arc::new(AtomicUsize::new(0));
    let counted = reviewed.clone();
    let say: Say = Box::new(move |spec| {
        let Some(token) = spec["token"].as_str() else {
            return of(json!({"allowed": spec["user"] == "system:serviceaccount:a:b"}));
        };
        counted.fetch_add(1, Ordering::Relaxed);
        match token {
            "good" => of(json!({"authenticated": true, "user": {
                "username": "system:serviceaccount:a:b", "uid": "7", "groups": ["system:serviceaccounts"], "extra": {"k": ["v"]},
            }})),
            _ => of(json!({"authenticated": false})),
        }
    });
    let node = Node::start(None, say, |set| {
        set.tokens = Some(MINUTE);
        set.authorization = Some(WEBHOOK);
    })
    .await;
    let headers = "Authorization: Bearer good\r\n";
    for _ in 0..3 {
        let (status, body) = node.ask(None, "GET /metrics/resource", headers).await;
        assert_eq!((status, &*body), (200, "/metrics/resource - -"));
    }
    assert_eq!(
        node.reviews(),
        [
            json!({"token": "good"}),
            json!({
                "resourceAttributes": {"verb": "get", "version": "v1", "resource": "nodes", "subresource": "metrics", "name": "node-1"},
                "user": "system:serviceaccount:a:b", "uid": "7",
                "groups": ["system:serviceaccounts", "system:authenticated"], "extra": {"k": ["v"]},
            }),
        ]
    );
    // "good" in base64.
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.Z29vZA\r\n";
    let (status, body) = node.ask(None, "GET /exec/a/b/c", upgrade).await;
    assert_eq!((status, &*body), (200, "/exec/a/b/c - v4.channel.k8s.io"));
    for _ in 0..2 {
        let bad = "Authorization: Bearer bad\r\n";
        assert_eq!(node.ask(None, "GET /pods", bad).await, unauthorized());
    }
    assert_eq!(reviewed.load(Ordering::Relaxed), 2, "a no holds, too");
}

#[tokio::test]
async fn fine_subresources_come_first_and_entering_takes_create() {
    let ours = Authority::new("ours");
    let say: Say = Box::new(|spec| {
        let asked = &spec["resourceAttributes"];
        let on = format!(
            "{} {} {}",
            spec["user"].as_str().unwrap(),
            asked["verb"].as_str().unwrap(),
            asked["subresource"].as_str().unwrap()
        );
        let rules = [
            "reader get pods",
            "reader get proxy",
            "admin create proxy",
            "old get proxy",
        ];
        match &*on {
            "odd get stats" => of(json!({"allowed": true, "denied": true})),
            on => of(json!({"allowed": rules.contains(&on)})),
        }
    });
    let node = Node::start(Some(&ours), say, |set| set.authorization = Some(WEBHOOK)).await;
    let pair = |name: &str| ours.client(name, &[], |_| {});
    let (reader, admin, old, odd) = (pair("reader"), pair("admin"), pair("old"), pair("odd"));
    let tried = |node: &Node| {
        let reviews = node.reviews().into_iter();
        let tried = reviews.map(|spec| {
            spec["resourceAttributes"]["subresource"]
                .as_str()
                .unwrap()
                .to_owned()
        });
        tried.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(node.ask(Some(&reader), "GET /pods", "").await.0, 200);
    assert_eq!(tried(&node), "pods");
    assert_eq!(node.ask(Some(&old), "GET /pods", "").await.0, 200);
    assert_eq!(tried(&node), "pods proxy");
    let (status, body) = node.ask(Some(&admin), "GET /pods", "").await;
    let said = "Forbidden (user=admin, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
    assert_eq!((status, &*body), (403, said));
    tried(&node);
    assert_eq!(node.ask(Some(&odd), "GET /stats/summary", "").await.0, 403);
    assert_eq!(tried(&node), "stats", "both yes and no is no");

    // Who may read everything enters nothing.
    assert_eq!(
        node.ask(Some(&reader), "GET /containerLogs/a/b/c", "")
            .await
            .0,
        200
    );
    for root in ["exec", "attach", "run", "portForward"] {
        for method in ["GET", "POST"] {
            let line = format!("{method} /{root}/a/b/c");
            let (status, body) = node.ask(Some(&reader), &line, "").await;
            assert_eq!(status, 403, "{line}");
            assert!(body.contains("verb=create"), "{body}");
            assert_eq!(node.ask(Some(&admin), &line, "").await.0, 200, "{line}");
        }
    }

    let say: Say =
        Box::new(|spec| of(json!({"allowed": spec["resourceAttributes"]["verb"] == "get"})));
    let upstream = Node::start(Some(&ours), say, |set| {
        set.authorization = Some(WEBHOOK);
        set.exec_verb = ExecVerb::Method;
    })
    .await;
    assert_eq!(
        upstream.ask(Some(&reader), "GET /exec/a/b/c", "").await.0,
        200
    );
    assert_eq!(
        upstream.ask(Some(&reader), "POST /exec/a/b/c", "").await.0,
        403
    );
}

#[tokio::test]
async fn without_an_answer_nobody_gets_in() {
    let ours = Authority::new("ours");
    let say: Say = Box::new(|_| Answer::failure(403, "Forbidden", "no"));
    let node = Node::start(Some(&ours), say, |set| {
        set.tokens = Some(MINUTE);
        set.authorization = Some(WEBHOOK);
    })
    .await;
    let jane = ours.client("jane", &["system:masters"], |_| {});
    let said = "Authorization error (user=jane, verb=get, resource=nodes, subresource=pods)";
    let (status, body) = node.ask(Some(&jane), "GET /pods", "").await;
    assert_eq!((status, &*body), (500, said));
    let token = "Authorization: Bearer abc\r\n";
    assert_eq!(node.ask(None, "GET /pods", token).await, unauthorized());

    node.api.send_replace(None);
    let (status, body) = node.ask(Some(&jane), "GET /pods", "").await;
    assert_eq!((status, &*body), (500, said), "no API server yet");
    assert_eq!(node.ask(None, "GET /pods", token).await, unauthorized());
    node.reviews();
    node.api.send_replace(Some(node.client.clone()));
    node.ask(Some(&jane), "GET /pods", "").await;
    assert_eq!(node.reviews().len(), 1, "what failed is asked again");

    let alone = Node::start(Some(&ours), nobody(), |set| set.authorization = None).await;
    let (status, body) = alone.ask(Some(&jane), "GET /configz", "").await;
    let said = "Forbidden (user=jane, verb=get, resource=nodes, subresource(s)=[configz proxy])\n";
    assert_eq!((status, &*body), (403, said));
    assert!(alone.reviews().is_empty());
}

#[tokio::test]
async fn an_api_server_in_trouble_is_asked_again() {
    let mut times = 0;
    let say: Say = Box::new(move |_| {
        times += 1;
        match times {
            1 => Answer::Broken,
            2 => Answer::failure(503, "ServiceUnavailable", "starting"),
            _ => of(json!({"allowed": true})),
        }
    });
    let node = Node::start(None, say, |set| {
        set.anonymous = true;
        set.authorization = Some(WEBHOOK);
    })
    .await;
    assert_eq!(node.ask(None, "GET /stats", "").await.0, 200);
    assert_eq!(node.reviews().len(), 3);
}
