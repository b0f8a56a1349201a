use cri_proto::deviceplugin::ContainerAllocateResponse;
use serde_json::json;

use super::*;
use crate::managers::devices::plugin::Plugin;

const DEV: &str = "example.com/dev";

fn ids(names: &str) -> Ids {
    names.split_whitespace().map(str::to_owned).collect()
}

fn device(id: &str) -> Device {
    // A name that ends with an exclamation mark is of one that does not work.
    let (id, health) = match id.strip_suffix('!') {
        Some(id) => (id, "Unhealthy"),
        None => (id, HEALTHY),
    };
    Device {
        id: id.to_owned(),
        health: health.to_owned(),
        topology: None,
    }
}

fn devices(names: &str) -> Vec<Device> {
    names.split_whitespace().map(device).collect()
}

fn pod(limits: &[(&str, &str, i32)]) -> Pod {
    // A container each: its name, `init`, `sidecar` or nothing, and how many devices it wants.
    let container = |(name, kind, wanted): &(&str, &str, i32)| {
        let restart = (*kind == "sidecar").then_some("Always");
        json!({"name": name, "restartPolicy": restart, "resources": {"limits": {DEV: wanted.to_string()}}})
    };
    let of = |first: bool| -> Vec<_> {
        let some = limits
            .iter()
            .filter(|(_, kind, _)| kind.is_empty() != first);
        some.map(container).collect()
    };
    serde_json::from_value(json!({"spec": {"initContainers": of(true), "containers": of(false)}}))
        .unwrap()
}

fn reserve(inventory: &mut Inventory, uid: &str, pod: &Pod) -> Result<(), String> {
    for (_, container) in pod::containers(pod) {
        inventory.reserve(uid, pod, container, None)?;
    }
    Ok(())
}

/// Does what a plugin would that gives what it is asked for; the devices by container.
fn fetch(inventory: &mut Inventory, uid: &str, pod: &Pod) -> BTreeMap<String, Ids> {
    while let Some(request) = inventory.next_request(uid) {
        let planned = inventory.plan(uid, pod, &request).unwrap();
        let (_, choice) = planned.expect("something to ask for");
        let ids = choice.made(&Ids::new()).unwrap();
        assert!(inventory.promise(uid, &request, ids.clone()));
        let response = ContainerAllocateResponse::default();
        assert!(inventory.given(uid, &request, Some((ids, response))));
    }
    let names = pod::containers(pod).map(|(_, c)| c.name.clone());
    let held = names.map(|name| {
        let ids = inventory.holdings.ids(uid, &name, DEV).unwrap_or_default();
        (name, ids)
    });
    held.collect()
}

/// With a plugin of these devices.
fn with(names: &str) -> (Inventory, Arc<Plugin>) {
    let mut inventory = Inventory::default();
    let plugin = Arc::new(Plugin::unasked(DEV));
    inventory.connected(plugin.clone());
    assert_eq!(inventory.listed(&plugin, devices(names)), Some(true));
    assert_eq!(inventory.listed(&plugin, devices(names)), Some(false));
    (inventory, plugin)
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_resource_is_counted_until_its_plugin_has_been_gone_for_too_long() {
    let (mut inventory, plugin) = with("a b c!");
    let (counts, _) = inventory.counts(SECOND);
    assert_eq!((counts.capacity[DEV], counts.allocatable[DEV]), (3, 2));
    assert!(inventory.disconnected(&plugin, 10 * SECOND));
    // Once is enough.
    assert!(!inventory.disconnected(&plugin, 20 * SECOND));
    let (counts, _) = inventory.counts(10 * SECOND + GRACE);
    assert_eq!((counts.capacity[DEV], counts.allocatable[DEV]), (3, 0));
    assert!(inventory.is_known(DEV));
    let (counts, forgotten) = inventory.counts(11 * SECOND + GRACE);
    assert!(forgotten);
    assert!(counts.capacity.is_empty());
    assert!(counts.removed.contains(DEV) && !inventory.is_known(DEV));
    // It comes back.
    let again = Arc::new(Plugin::unasked(DEV));
    inventory.connected(again.clone());
    assert_eq!(inventory.listed(&plugin, devices("old")), None);
    assert_eq!(inventory.listed(&again, devices("a")), Some(true));
    let (counts, _) = inventory.counts(700 * SECOND);
    assert!(counts.removed.is_empty());
    assert_eq!(counts.capacity[DEV], 1);
}

#[tokio::test]
async fn what_is_promised_is_nobody_elses() {
    let (mut inventory, _plugin) = with("a b c");
    let (two, one) = (pod(&[("x", "", 2)]), pod(&[("x", "", 1)]));
    reserve(&mut inventory, "first", &two).unwrap();
    assert!(inventory.is_pending("first"));
    // Asked again, as after a restart between admission and start, nothing more is taken.
    reserve(&mut inventory, "first", &two).unwrap();
    let refused = reserve(&mut inventory, "second", &two).unwrap_err();
    assert_eq!(
        refused,
        "requested number of devices unavailable for example.com/dev. Requested: 2, Available: 1"
    );
    inventory.release("second");
    reserve(&mut inventory, "third", &one).unwrap();
    let first = fetch(&mut inventory, "first", &two);
    let third = fetch(&mut inventory, "third", &one);
    assert_eq!(first["x"].union(&third["x"]).count(), 3);
    assert_eq!(
        inventory.holders(),
        ["first", "third"].map(str::to_owned).into()
    );
    inventory.release("first");
    assert!(inventory.take_unsaved() && !inventory.take_unsaved());
    assert_eq!(inventory.available("new", DEV).len(), 2);
}

#[tokio::test]
async fn init_containers_pass_their_devices_on_and_sidecars_do_not() {
    let (mut inventory, _plugin) = with("a b c d");
    let pod = pod(&[
        ("one", "init", 2),
        ("side", "sidecar", 1),
        ("two", "init", 2),
        ("app", "", 2),
        ("more", "", 1),
    ]);
    reserve(&mut inventory, "u", &pod).unwrap();
    let held = fetch(&mut inventory, "u", &pod);
    assert!(held["side"].is_subset(&held["one"]), "{held:?}");
    assert!(held["side"].is_disjoint(&held["two"]), "{held:?}");
    assert!(held["side"].is_disjoint(&held["app"]), "{held:?}");
    assert!(held["app"].is_disjoint(&held["more"]), "{held:?}");
    let lasting = held["side"].iter().chain(&held["app"]).chain(&held["more"]);
    assert_eq!(lasting.collect::<BTreeSet<_>>().len(), 4);
}

#[tokio::test]
async fn refusals_are_in_upstreams_words() {
    let mut inventory = Inventory::new(
        Kept {
            registered: BTreeMap::from([(DEV.to_owned(), vec!["a".to_owned()])]),
            ..Kept::default()
        },
        Duration::ZERO,
    );
    // Until its plugin has come back.
    let (counts, _) = inventory.counts(SECOND);
    assert_eq!((counts.capacity[DEV], counts.allocatable[DEV]), (0, 0));
    let one = pod(&[("x", "", 1)]);
    assert_eq!(
        reserve(&mut inventory, "u", &one).unwrap_err(),
        "no healthy devices present; cannot allocate unhealthy devices example.com/dev"
    );
    let plugin = Arc::new(Plugin::unasked(DEV));
    inventory.connected(plugin.clone());
    inventory.listed(&plugin, devices("a b"));
    reserve(&mut inventory, "u", &one).unwrap();
    let held = fetch(&mut inventory, "u", &one);
    let two = pod(&[("x", "", 2)]);
    assert_eq!(
        reserve(&mut inventory, "u", &two).unwrap_err(),
        "pod \"u\" container \"x\" changed request for resource \"example.com/dev\" from 1 to 2"
    );
    // It has what it asks for, until that breaks.
    reserve(&mut inventory, "u", &one).unwrap();
    assert!(!inventory.is_pending("u"));
    assert_eq!(held["x"], ids("a"));
    inventory.listed(&plugin, devices("a! b"));
    assert_eq!(
        reserve(&mut inventory, "u", &one).unwrap_err(),
        "previously allocated devices are no longer healthy; cannot allocate unhealthy devices example.com/dev"
    );
    assert!(inventory.take_changed().contains("u"));
    assert!(!inventory.is_healthy(DEV, "a") && inventory.is_healthy(DEV, "b"));
    // Another resource is not the agent's affair.
    assert!(!inventory.is_known("example.com/other"));
}

#[tokio::test]
async fn a_pod_that_goes_meanwhile_leaves_nothing() {
    let (mut inventory, _plugin) = with("a");
    let one = pod(&[("x", "", 1)]);
    reserve(&mut inventory, "u", &one).unwrap();
    let request = inventory.next_request("u").unwrap();
    inventory.release("u");
    assert!(!inventory.promise("u", &request, ids("a")));
    let response = ContainerAllocateResponse::default();
    assert!(!inventory.given("u", &request, Some((ids("a"), response))));
    assert!(inventory.holders().is_empty());
    assert_eq!(inventory.available("v", DEV), ids("a"));
}
