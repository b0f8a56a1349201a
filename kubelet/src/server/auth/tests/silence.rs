//! An API server that does not answer, or not yet.

use super::*;

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
