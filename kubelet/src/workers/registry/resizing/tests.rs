use serde_json::json;

use super::*;
use crate::admission::{Amounts, Node};
use crate::managers::Managers;
use crate::workers::places::Seat;

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

/// A pod of the API server's with these requests of cpu.
fn pod(name: &str, cpu: &str, priority: i32) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "annotations": {"kubernetes.io/config.source": "api"}},
        "spec": {
            "priority": priority,
            "containers": [{"name": "main", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}}],
        },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// A node with two cpus, and pods that run on it with these requests.
fn places(pods: &[&Arc<Pod>]) -> Places {
    let allocatable = [("pods", 10), ("cpu", 2000), ("memory", 1 << 30)];
    let node = Node {
        allocatable: Amounts::from(allocatable.map(|(name, amount)| (name.to_owned(), amount))),
        ..Node::default()
    };
    let mut places = Places::new(Arc::new(node), Arc::new(Managers::none()));
    let fresh = Seat {
        wanted: Wanted::Wait,
        stage: Stage::Live,
        place: &Place::Granted,
    };
    for pod in pods {
        let asked = places.ask(&PodUid::of(pod).unwrap(), pod, fresh, false);
        assert!(matches!(
            asked,
            Some(crate::workers::places::Asked::Granted)
        ));
    }
    places
}

fn running(pod: &Arc<Pod>) -> (Asked, watch::Sender<Orders>) {
    let asked = Asked {
        pod: pod.clone(),
        given: Allocation::of(pod),
        refused: None,
    };
    let orders = Orders {
        pod: pod.clone(),
        wanted: Wanted::Run,
        place: Place::Granted,
        shown: true,
        resize: None,
    };
    (asked, watch::Sender::new(orders))
}

/// What the source has now, as the registry takes it over.
fn wants(asked: &mut Asked, orders: &watch::Sender<Orders>, pod: &Arc<Pod>) {
    let (given, refused) = asked.follow(pod, &orders.borrow());
    orders.send_modify(|orders| {
        orders.pod = given.unwrap();
        orders.resize = refused;
    });
}

fn waits(asked: &Asked, orders: &watch::Sender<Orders>) -> bool {
    asked.waits(&orders.borrow(), Stage::Live)
}

fn cpu(orders: &watch::Sender<Orders>) -> String {
    let pod = orders.borrow().pod.clone();
    let resources = pod::spec(&pod).containers[0].resources.clone().unwrap();
    resources.requests.unwrap()["cpu"].0.clone()
}

fn refusal(orders: &watch::Sender<Orders>) -> Option<(PendingReason, String)> {
    let why = orders.borrow().resize.clone()?;
    Some((why.reason, why.message.to_string()))
}

#[test]
fn a_worker_sees_what_its_pod_was_given_and_not_what_it_asks_for() {
    let before = pod("a", "500m", 0);
    let mut places = places(&[&before]);
    let (mut asked, orders) = running(&before);
    assert!(!waits(&asked, &orders));
    wants(&mut asked, &orders, &pod("a", "1500m", 0));
    assert_eq!(cpu(&orders), "500m");
    assert!(waits(&asked, &orders));
    // Nobody is given anything who does not run, or has no place.
    assert!(!asked.waits(&orders.borrow(), Stage::Terminating));
    for (wanted, place) in [
        (Wanted::Stop, Place::Granted),
        (Wanted::Run, Place::Preempted),
    ] {
        let mut other = orders.borrow().clone();
        (other.wanted, other.place) = (wanted, place);
        assert!(!asked.waits(&other, Stage::Live));
    }
    asked.resize(&uid("a"), &mut places, &orders);
    assert_eq!((cpu(&orders), refusal(&orders)), ("1500m".to_owned(), None));
    assert!(!waits(&asked, &orders));
    let mut worker = orders.subscribe();
    worker.mark_unchanged();
    asked.resize(&uid("a"), &mut places, &orders);
    assert!(!worker.has_changed().unwrap(), "it has it already");
}

#[test]
fn what_there_is_no_room_for_is_given_when_another_has_shrunk() {
    let (a, b) = (pod("a", "900m", 0), pod("b", "900m", 0));
    let mut places = places(&[&a, &b]);
    let ((mut a_asks, a_orders), (mut b_asks, b_orders)) = (running(&a), running(&b));
    wants(&mut a_asks, &a_orders, &pod("a", "1500m", 0));
    a_asks.resize(&uid("a"), &mut places, &a_orders);
    let why = "Node didn't have enough resource: cpu, requested: 1500, used: 900, capacity: 2000";
    assert_eq!(cpu(&a_orders), "900m");
    assert_eq!(
        refusal(&a_orders),
        Some((PendingReason::Deferred, why.to_owned()))
    );
    assert!(waits(&a_asks, &a_orders), "it is asked about again");
    let mut worker = a_orders.subscribe();
    worker.mark_unchanged();
    a_asks.resize(&uid("a"), &mut places, &a_orders);
    assert!(
        !worker.has_changed().unwrap(),
        "the same refusal is no news"
    );

    wants(&mut b_asks, &b_orders, &pod("b", "400m", 0));
    b_asks.resize(&uid("b"), &mut places, &b_orders);
    assert_eq!(
        (cpu(&b_orders), refusal(&b_orders)),
        ("400m".to_owned(), None)
    );
    a_asks.resize(&uid("a"), &mut places, &a_orders);
    assert_eq!(
        (cpu(&a_orders), refusal(&a_orders)),
        ("1500m".to_owned(), None)
    );
    // The room is taken.
    wants(&mut b_asks, &b_orders, &pod("b", "600m", 0));
    b_asks.resize(&uid("b"), &mut places, &b_orders);
    assert_eq!(cpu(&b_orders), "400m");
    assert!(refusal(&b_orders).is_some());
}

#[test]
fn who_asks_for_something_else_is_no_longer_refused() {
    let before = pod("a", "900m", 0);
    let mut places = places(&[&before]);
    let (mut asked, orders) = running(&before);
    wants(&mut asked, &orders, &pod("a", "3", 0));
    asked.resize(&uid("a"), &mut places, &orders);
    assert!(refusal(&orders).is_some());
    // Anything but the resources leaves it as it is.
    wants(&mut asked, &orders, &pod("a", "3000m", 7));
    assert!(refusal(&orders).is_some());
    wants(&mut asked, &orders, &before);
    assert_eq!((cpu(&orders), refusal(&orders)), ("900m".to_owned(), None));
    assert!(!waits(&asked, &orders));
}

#[test]
fn resources_of_the_whole_pod_are_refused_once() {
    let before = pod("a", "900m", 0);
    let mut places = places(&[&before]);
    let (mut asked, orders) = running(&before);
    let mut whole = Pod::clone(&before);
    let resources = json!({"requests": {"cpu": "1"}});
    whole.spec.as_mut().unwrap().resources = serde_json::from_value(resources).unwrap();
    wants(&mut asked, &orders, &Arc::new(whole));
    assert!(waits(&asked, &orders));
    asked.resize(&uid("a"), &mut places, &orders);
    assert_eq!(
        refusal(&orders),
        Some((PendingReason::Infeasible, WHOLE_POD.to_owned()))
    );
    assert!(pod::spec(&orders.borrow().pod).resources.is_none());
    assert!(!waits(&asked, &orders));
}

#[test]
fn who_shrinks_comes_first_and_then_who_is_more_important() {
    let turn = |name: &str, to: &str, priority| {
        let before = pod(name, "500m", priority);
        let (mut asked, orders) = running(&before);
        wants(&mut asked, &orders, &pod(name, to, priority));
        let turn = asked.turn(&orders.borrow().pod);
        (turn, name.to_owned())
    };
    let mut turns = [
        turn("grows", "600m", 0),
        turn("grows-and-matters", "600m", 9),
        turn("shrinks", "400m", 0),
    ];
    turns.sort();
    let names = turns.map(|(_, name)| name);
    assert_eq!(names, ["shrinks", "grows-and-matters", "grows"]);
}
