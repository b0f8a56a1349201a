use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use hyper::Response;
use serde_json::Value;

use super::*;
use crate::objects::tests::api::Api;

fn key() -> TokenKey {
    TokenKey {
        pod: PodName {
            namespace: "ns".into(),
            name: "p".into(),
        },
        uid: PodUid::parse("u").unwrap(),
        service_account: "robot".into(),
        wish: TokenWish {
            audience: "vault".into(),
            expiration_seconds: 3607,
        },
    }
}

/// Path and body of each request.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// What was asked for, and an API that grants it with a number behind `token-`; while `fails` it refuses.
fn granting(seconds: i64) -> (Api, Asked, Arc<AtomicBool>) {
    let (api, asked, fails) = (
        Api::default(),
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(AtomicBool::new(false)),
    );
    let (log, refuses) = (asked.clone(), fails.clone());
    api.on_post(move |path, body| {
        let mut log = log.lock().unwrap();
        log.push((path.to_owned(), body));
        if refuses.load(Ordering::Relaxed) {
            let status = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound",
                "message": "serviceaccounts \"robot\" not found"});
            let mut answer = Response::new(Body::from(status.to_string()));
            *answer.status_mut() = hyper::StatusCode::NOT_FOUND;
            return answer;
        }
        let number = log.len();
        let granted = json!({"spec": {"expirationSeconds": seconds},
            "status": {"token": format!("token-{number}"), "expirationTimestamp": "2030-01-01T00:00:00Z"}});
        Response::new(Body::from(granted.to_string()))
    });
    (api, asked, fails)
}

fn text(cell: &Cell<Token>) -> Result<String, String> {
    match cell.get() {
        Found::There(token) => Ok(String::from_utf8(token.reveal().to_vec()).unwrap()),
        Found::Unknown(Some(why)) => Err(why.to_string()),
        _ => Err("nothing".to_owned()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_bound_to_its_pod_and_renewed_at_four_fifths_of_its_life() {
    let (api, asked, _) = granting(3607);
    let cell = Arc::new(Cell::default());
    let client = api.client();
    let task = tokio::spawn(keep_token(async move { client }, key(), cell.clone()));
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(text(&cell), Ok("token-1".to_owned()));
    let (path, body) = asked.lock().unwrap()[0].clone();
    assert_eq!(path, "/api/v1/namespaces/ns/serviceaccounts/robot/token");
    assert_eq!(
        body["spec"],
        json!({"audiences": ["vault"], "expirationSeconds": 3607,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}})
    );
    // 80 % of 3607 s are 2885.6 s; it is spread over the ten seconds before.
    tokio::time::sleep_until(begun + Duration::from_secs(2875)).await;
    assert_eq!(asked.lock().unwrap().len(), 1);
    tokio::time::sleep_until(begun + Duration::from_secs(2887)).await;
    assert_eq!(text(&cell), Ok("token-2".to_owned()));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_long_lived_token_is_renewed_each_day() {
    let (api, asked, _) = granting(90 * 24 * 3600);
    let client = api.client();
    let task = tokio::spawn(keep_token(
        async move { client },
        key(),
        Arc::new(Cell::default()),
    ));
    tokio::time::sleep(Duration::from_secs(24 * 3600 - 20)).await;
    assert_eq!(asked.lock().unwrap().len(), 1);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(asked.lock().unwrap().len(), 2);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_renewed_is_used_for_as_long_as_it_is_good() {
    let (api, asked, fails) = granting(1000);
    let cell = Arc::new(Cell::default());
    let client = api.client();
    let task = tokio::spawn(keep_token(async move { client }, key(), cell.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    fails.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(990)).await;
    assert_eq!(text(&cell), Ok("token-1".to_owned()));
    let tries = asked.lock().unwrap().len();
    assert!(
        (3..40).contains(&tries),
        "{tries} attempts, further and further apart"
    );
    tokio::time::sleep(Duration::from_secs(200)).await;
    let gone = "token of service account ns/robot expired and refresh failed: serviceaccounts \"robot\" not found";
    assert_eq!(text(&cell), Err(gone.to_owned()));
    fails.store(false, Ordering::Relaxed);
    tokio::time::sleep(RETRY_MOST * 2).await;
    assert!(text(&cell).is_ok());
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_never_there_says_why() {
    let (api, _, fails) = granting(3607);
    fails.store(true, Ordering::Relaxed);
    let cell = Arc::new(Cell::default());
    let client = api.client();
    let task = tokio::spawn(keep_token(async move { client }, key(), cell.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let why = "failed to fetch token: serviceaccounts \"robot\" not found";
    assert_eq!(text(&cell), Err(why.to_owned()));
    fails.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(text(&cell).is_ok());
    task.abort();
}

#[test]
fn no_debug_output_shows_a_token() {
    let found = Found::There(Token::new("hush"));
    assert!(!format!("{found:?}").contains("hush"));
}

#[tokio::test(start_paused = true)]
async fn a_token_from_an_earlier_life_stays_until_there_is_another_or_none() {
    let known = |cell: &Cell<Token>| cell.set(Found::There(Token::new("from before")));
    let api = Api::default();
    let busy = Arc::new(AtomicBool::new(true));
    let is_busy = busy.clone();
    api.on_post(move |_, _| {
        let code = if is_busy.load(Ordering::Relaxed) {
            503
        } else {
            404
        };
        let status = json!({"kind": "Status", "status": "Failure", "code": code, "message": "no"});
        let mut answer = Response::new(Body::from(status.to_string()));
        *answer.status_mut() = hyper::StatusCode::from_u16(code).unwrap();
        answer
    });
    let cell = Arc::new(Cell::default());
    known(&cell);
    let client = api.client();
    let task = tokio::spawn(keep_token(async move { client }, key(), cell.clone()));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(text(&cell), Ok("from before".to_owned()));
    busy.store(false, Ordering::Relaxed);
    tokio::time::sleep(RETRY_MOST * 2).await;
    assert_eq!(text(&cell), Err("failed to fetch token: no".to_owned()));
    task.abort();

    let (api, _, _) = granting(3607);
    let cell = Arc::new(Cell::default());
    known(&cell);
    let client = api.client();
    let task = tokio::spawn(keep_token(async move { client }, key(), cell.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(text(&cell), Ok("token-1".to_owned()));
    task.abort();
}
