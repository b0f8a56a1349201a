//! The task, at an API server that answers by a script.

use super::*;

/// What an API server has of pods: enough to create, read and delete them.
#[derive(Default)]
struct Store {
    pods: BTreeMap<String, Value>,
    made: u32,
    /// Answered instead, while there is one.
    fault: Option<fn() -> Answer>,
    /// Names of pods that a finalizer holds.
    held: BTreeSet<String>,
}

impl Store {
    fn answer(&mut self, asked: &Asked) -> Answer {
        if let Some(fault) = self.fault {
            return fault();
        }
        let last = asked.path.rsplit('/').next().unwrap().to_owned();
        let missing = || Answer::failure(404, "NotFound", "no such pod");
        match asked.method.as_str() {
            "POST" => {
                let mut pod = asked.body.clone();
                let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
                if self.pods.contains_key(&name) {
                    let message = format!("pods \"{name}\" already exists");
                    return Answer::failure(409, "AlreadyExists", &message);
                }
                self.made += 1;
                pod["metadata"]["uid"] = json!(format!("made-{}", self.made));
                self.pods.insert(name, pod.clone());
                Answer::Json(201, pod)
            }
            "GET" => match self.pods.get(&last) {
                Some(pod) => Answer::Json(200, pod.clone()),
                None => missing(),
            },
            "DELETE" => {
                let Some(pod) = self.pods.get_mut(&last) else {
                    return missing();
                };
                if asked.body["preconditions"]["uid"] != pod["metadata"]["uid"] {
                    return Answer::failure(409, "Conflict", "the UID in the precondition …");
                }
                if self.held.contains(&last) {
                    pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
                    return Answer::Json(200, pod.clone());
                }
                Answer::Json(200, self.pods.remove(&last).unwrap())
            }
            other => panic!("{other}"),
        }
    }

    /// What a watch of them would have.
    fn shown(&self) -> ApiPods {
        let mirror = |(n, pod): (&String, &Value)| {
            let hash = pod["metadata"]["annotations"][CONFIG_MIRROR_ANNOTATION].as_str()?;
            let mirror = MirrorPod {
                uid: uid(pod["metadata"]["uid"].as_str().unwrap()),
                hash: hash.to_owned(),
                deleting: !pod["metadata"]["deletionTimestamp"].is_null(),
            };
            Some((name(n), mirror))
        };
        ApiPods {
            mirrors: self.pods.iter().filter_map(mirror).collect(),
            synced: true,
            ..ApiPods::default()
        }
    }

    /// A pod that somebody else has made.
    fn put(&mut self, name: &str, uid: &str, hash: Option<&str>) {
        let mut pod = json!({
            "metadata": { "name": name, "uid": uid, "annotations": {} },
            "spec": { "nodeName": "n1" },
        });
        if let Some(hash) = hash {
            pod["metadata"]["annotations"][CONFIG_MIRROR_ANNOTATION] = json!(hash);
        }
        self.pods.insert(name.to_owned(), pod);
    }
}

/// The task, and all that it follows.
struct Bed {
    store: Arc<Mutex<Store>>,
    log: Log,
    desired: watch::Sender<Arc<Desired>>,
    lives: watch::Sender<Option<Arc<Lives>>>,
    api: watch::Sender<Arc<ApiPods>>,
    node: watch::Sender<Option<Arc<NodeObject>>>,
}

impl Bed {
    /// With the static pods `pods`, which live, and `store`, whose pods the watch shows.
    fn new(pods: &[(&str, &str)], store: Store) -> Self {
        let shown = store.shown();
        let store = Arc::new(Mutex::new(store));
        let answering = store.clone();
        let (client, log) = scripted(move |asked| answering.lock().unwrap().answer(asked));
        let (desired, desired_seen) = watch::channel(Arc::new(desired(pods)));
        let (lives, lives_seen) = watch::channel(Some(Arc::new(lives(pods))));
        let (api, api_seen) = watch::channel(Arc::new(shown));
        let (node, node_seen) = watch::channel(Some(Arc::new(node("u1"))));
        let inputs = MirrorInputs {
            node_name: "n1".to_owned(),
            desired: desired_seen,
            lives: lives_seen,
            api: api_seen,
            node: node_seen,
            clock: Clock::manual("2026-01-02T03:04:05Z".parse().unwrap()).0,
        };
        tokio::spawn(run_mirrors(client, inputs));
        Self {
            store,
            log,
            desired,
            lives,
            api,
            node,
        }
    }

    /// Lets `time` pass, and says what was asked meanwhile.
    async fn after(&self, time: Duration) -> Vec<String> {
        tokio::time::sleep(time).await;
        self.log.lines()
    }

    /// The same for a millisecond: what is done at once.
    async fn at_once(&self) -> Vec<String> {
        self.after(Duration::from_millis(1)).await
    }

    fn fault(&self, fault: Option<fn() -> Answer>) {
        self.store.lock().unwrap().fault = fault;
    }

    /// The watch shows what the store has.
    fn show(&self) {
        let shown = self.store.lock().unwrap().shown();
        self.api.send_replace(Arc::new(shown));
    }

    fn want(&self, pods: &[(&str, &str)]) {
        self.desired.send_replace(Arc::new(desired(pods)));
    }

    fn live(&self, pods: &[(&str, &str)]) {
        self.lives.send_replace(Some(Arc::new(lives(pods))));
    }
}

fn on(method: &str, pod: &str) -> String {
    format!("{method} {PODS}/{pod}")
}

#[tokio::test(start_paused = true)]
async fn a_mirror_is_made_once_however_late_the_watch_is() {
    let bed = Bed::new(&[("a-n1", "h1")], Store::default());
    assert_eq!(bed.at_once().await, [format!("POST {PODS}")]);
    assert!(bed.after(Duration::from_secs(50)).await.is_empty());
    bed.show();
    assert!(bed.after(Duration::from_secs(3600)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_the_watch_never_shows_is_asked_for_again_and_is_there() {
    let bed = Bed::new(&[("a-n1", "h1")], Store::default());
    bed.at_once().await;
    let asked = bed.after(Duration::from_secs(61)).await;
    assert_eq!(asked, [format!("POST {PODS}"), on("GET", "a-n1")]);
    assert!(bed.after(Duration::from_secs(30)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_somebody_deletes_comes_back() {
    let bed = Bed::new(&[("a-n1", "h1")], Store::default());
    bed.at_once().await;
    bed.show();
    assert!(bed.at_once().await.is_empty());
    bed.store.lock().unwrap().pods.clear();
    bed.show();
    assert_eq!(bed.at_once().await, [format!("POST {PODS}")]);
}

#[tokio::test(start_paused = true)]
async fn an_edited_pod_has_another_mirror_as_soon_as_its_predecessor_has_ended() {
    let mut store = Store::default();
    store.put("a-n1", "m1", Some("h1"));
    let bed = Bed::new(&[("a-n1", "h1")], store);
    bed.want(&[("a-n1", "h2")]);
    bed.live(&[("a-n1", "h1"), ("a-n1", "h2")]);
    assert!(bed.at_once().await.is_empty());
    bed.live(&[("a-n1", "h2")]);
    let replaced = [on("DELETE", "a-n1"), format!("POST {PODS}")];
    assert_eq!(
        bed.at_once().await,
        replaced,
        "the watch has not shown the deletion"
    );
    bed.show();
    assert!(bed.at_once().await.is_empty());
    let store = bed.store.lock().unwrap();
    let made = &store.pods["a-n1"]["metadata"];
    assert_eq!(made["annotations"][CONFIG_MIRROR_ANNOTATION], "h2");
    assert_eq!(made["ownerReferences"][0]["uid"], "u1");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_at_once_and_of_that_uid_alone() {
    let mut store = Store::default();
    store.put("a-n1", "m1", Some("h1"));
    let bed = Bed::new(&[], store);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let asked = bed.log.take();
    assert_eq!(asked[0].body["gracePeriodSeconds"], 0);
    assert_eq!(asked[0].body["preconditions"]["uid"], "m1");
    assert!(bed.store.lock().unwrap().pods.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_is_another_by_now_is_left_alone() {
    let mut store = Store::default();
    store.put("a-n1", "m1", Some("h1"));
    let bed = Bed::new(&[("a-n1", "h1")], store);
    bed.at_once().await;
    bed.store.lock().unwrap().put("a-n1", "m2", Some("h2"));
    bed.want(&[]);
    bed.live(&[]);
    assert_eq!(bed.at_once().await, [on("DELETE", "a-n1")]);
    assert!(bed.store.lock().unwrap().pods.contains_key("a-n1"));
    // Once the watch shows the other one, that is an orphan too.
    bed.show();
    assert_eq!(bed.at_once().await, [on("DELETE", "a-n1")]);
    assert!(bed.store.lock().unwrap().pods.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_mirror_is_one_event_and_is_tried_again_with_rests() {
    let store = Store {
        fault: Some(|| Answer::failure(403, "Forbidden", "exceeded quota: pods")),
        ..Store::default()
    };
    let bed = Bed::new(&[("refused-n1", "h-refused")], store);
    let asked = bed.after(Duration::from_secs(600)).await;
    assert!((8..=20).contains(&asked.len()), "{}", asked.len());
    let told = events::recorder().list(|event| &*event.object.uid == "h-refused");
    assert_eq!(told.len(), 1);
    assert_eq!(
        (&*told[0].reason, told[0].count),
        ("FailedCreateMirrorPod", 1)
    );
    assert_eq!(
        &*told[0].message,
        "Failed creating a mirror pod: exceeded quota: pods"
    );
    bed.fault(None);
    bed.after(Duration::from_secs(91)).await;
    assert!(bed.store.lock().unwrap().pods.contains_key("refused-n1"));
    // Another version of the pod is another matter, without a rest.
    bed.fault(Some(|| Answer::failure(422, "Invalid", "spec: no")));
    bed.want(&[("refused-n1", "h3")]);
    bed.live(&[("refused-n1", "h3")]);
    bed.show();
    assert_eq!(bed.at_once().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_refusal_holds_up_nobody_else() {
    let store = Arc::new(Mutex::new(Store::default()));
    let answering = store.clone();
    let bed = Bed::new(&[], Store::default());
    let (client, log) = scripted(move |asked| match asked.body["metadata"]["name"].as_str() {
        Some("a-n1") => Answer::failure(500, "InternalError", "failed calling webhook"),
        _ => answering.lock().unwrap().answer(asked),
    });
    let inputs = MirrorInputs {
        node_name: "n1".to_owned(),
        desired: bed.desired.subscribe(),
        lives: bed.lives.subscribe(),
        api: bed.api.subscribe(),
        node: bed.node.subscribe(),
        clock: Clock::manual("2026-01-02T03:04:05Z".parse().unwrap()).0,
    };
    bed.want(&[("a-n1", "h1"), ("b-n1", "h2")]);
    tokio::spawn(run_mirrors(client, inputs));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(log.lines().len(), 2);
    assert!(store.lock().unwrap().pods.contains_key("b-n1"));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_tried_by_one_request_at_a_time() {
    let store = Store {
        fault: Some(|| Answer::Broken),
        ..Store::default()
    };
    let pods = [("a-n1", "h1"), ("b-n1", "h2"), ("c-n1", "h3")];
    let bed = Bed::new(&pods, store);
    let asked = bed.after(Duration::from_secs(90)).await.len();
    assert!((9..=26).contains(&asked), "{asked} requests in 90 s");
    bed.fault(None);
    // The watch of the pods is back before the rest is over.
    bed.show();
    assert_eq!(bed.at_once().await.len(), 3);
    assert_eq!(bed.store.lock().unwrap().pods.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_is_given_up() {
    let store = Store {
        fault: Some(|| Answer::Never),
        ..Store::default()
    };
    let bed = Bed::new(&[("a-n1", "h1")], store);
    bed.at_once().await;
    bed.fault(None);
    assert_eq!(
        bed.after(Duration::from_secs(11)).await,
        [format!("POST {PODS}")]
    );
    assert_eq!(bed.store.lock().unwrap().pods.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_was_there_unseen_is_taken_or_replaced() {
    for (hash, requests) in [("h1", 2), ("h0", 4)] {
        let bed = Bed::new(&[], Store::default());
        bed.store.lock().unwrap().put("a-n1", "m1", Some(hash));
        bed.live(&[("a-n1", "h1")]);
        bed.want(&[("a-n1", "h1")]);
        let asked = bed.at_once().await;
        assert_eq!(asked.len(), requests, "{asked:?}");
        let store = bed.store.lock().unwrap();
        let annotations = &store.pods["a-n1"]["metadata"]["annotations"];
        assert_eq!(annotations[CONFIG_MIRROR_ANNOTATION], "h1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_no_mirror_is_never_deleted() {
    let bed = Bed::new(&[], Store::default());
    bed.store.lock().unwrap().put("foreign-n1", "m1", None);
    bed.live(&[("foreign-n1", "h-foreign")]);
    bed.want(&[("foreign-n1", "h-foreign")]);
    let asked = bed.after(Duration::from_secs(300)).await;
    assert!(
        asked.iter().all(|line| !line.starts_with("DELETE")),
        "{asked:?}"
    );
    assert!(asked.len() < 20, "{}", asked.len());
    let told = events::recorder().list(|event| &*event.object.uid == "h-foreign");
    assert_eq!(told.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_on_a_mirror_costs_no_storm() {
    let mut store = Store::default();
    store.put("a-n1", "m1", Some("h0"));
    store.held.insert("a-n1".to_owned());
    let bed = Bed::new(&[("a-n1", "h1")], store);
    let asked = bed.after(Duration::from_secs(300)).await;
    assert!(asked.len() < 80, "{}", asked.len());
    bed.store.lock().unwrap().pods.clear();
    bed.show();
    bed.after(Duration::from_secs(31)).await;
    assert!(bed.store.lock().unwrap().pods.contains_key("a-n1"));
}

#[tokio::test(start_paused = true)]
async fn a_new_node_object_owns_the_mirrors_made_from_then_on() {
    let bed = Bed::new(&[("a-n1", "h1")], Store::default());
    bed.node.send_replace(None);
    assert!(bed.after(Duration::from_secs(300)).await.is_empty());
    bed.node.send_replace(Some(Arc::new(node("u2"))));
    assert_eq!(bed.at_once().await.len(), 1);
    let store = bed.store.lock().unwrap();
    assert_eq!(
        store.pods["a-n1"]["metadata"]["ownerReferences"][0]["uid"],
        "u2"
    );
}
