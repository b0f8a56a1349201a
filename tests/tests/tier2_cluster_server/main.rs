//! What a kubelet relies on in an API server: the same of the double and of a real one, so that the double stays honest.

mod credentials;
mod storage;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::cluster::{Client, Cluster, path, refusal};

fn with_server(test: impl AsyncFnOnce(&Cluster, &Client) -> Result<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap_or_else(|error| panic!("no tokio runtime: {error}"));
    let done = runtime.block_on(async {
        let cluster = Cluster::start().await?;
        test(&cluster, cluster.client()).await
    });
    if let Err(error) = done {
        panic!("{error:?}");
    }
}

fn pod(name: &str, node: &str) -> Value {
    let mut pod = json!({
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{ "name": "main", "image": "busybox:1" }],
        },
    });
    if !node.is_empty() {
        pod["spec"]["nodeName"] = json!(node);
    }
    pod
}

fn pods(name: &str) -> String {
    path("pods", "default", name)
}

fn code(result: Result<Value>) -> Result<u16> {
    match result {
        Ok(value) => Err(anyhow::anyhow!("not refused: {value}")),
        Err(error) => refusal(&error).with_context(|| format!("no refusal: {error:#}")),
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default()
}

fn message(result: Result<Value>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn objects_are_created_once_and_complete() {
    with_server(async |_, client| {
        let made = client.create(&pods(""), &pod("a", "n")).await?;
        ensure!(text(&made, "/metadata/uid").len() == 36, "{made}");
        ensure!(made["metadata"]["generation"] == 1, "{made}");
        ensure!(text(&made, "/status/phase") == "Pending", "{made}");
        ensure!(text(&made, "/status/qosClass") == "BestEffort", "{made}");
        let spec = &made["spec"];
        ensure!(spec["restartPolicy"] == "Always", "{made}");
        ensure!(spec["terminationGracePeriodSeconds"] == 30, "{made}");
        ensure!(spec["serviceAccountName"] == "default", "{made}");
        ensure!(
            spec["containers"][0]["imagePullPolicy"] == "IfNotPresent",
            "{made}"
        );
        let tolerations = spec["tolerations"].as_array().context("tolerations")?;
        ensure!(tolerations.len() == 2, "{made}");
        let again = client.create(&pods(""), &pod("a", "n")).await;
        let again = message(again);
        ensure!(again == "409: pods \"a\" already exists", "{again}");
        let missing = message(client.get(&pods("b")).await);
        ensure!(missing == "404: pods \"b\" not found", "{missing}");
        let lease = path("leases", "kube-node-lease", "x");
        let missing = message(client.get(&lease).await);
        ensure!(
            missing == "404: leases.coordination.k8s.io \"x\" not found",
            "{missing}"
        );
        let mut generated = pod("", "n");
        generated["metadata"] = json!({ "generateName": "gen-" });
        let made = client.create(&pods(""), &generated).await?;
        let name = text(&made, "/metadata/name");
        ensure!(name.starts_with("gen-") && name.len() == 9, "{name}");
        let nowhere = path("pods", "nowhere", "");
        let refused = message(client.create(&nowhere, &pod("a", "n")).await);
        ensure!(
            refused == "404: namespaces \"nowhere\" not found",
            "{refused}"
        );
        let mut stranger = pod("s", "n");
        stranger["spec"]["serviceAccountName"] = json!("nobody");
        ensure!(code(client.create(&pods(""), &stranger).await)? == 403);
        Ok(())
    });
}

#[test]
fn who_is_late_meets_a_conflict() {
    with_server(async |_, client| {
        let made = client.create(&pods(""), &pod("a", "n")).await?;
        let label = json!({ "metadata": { "labels": { "x": "1" } } });
        let newer = client.merge(&pods("a"), &label).await?;
        ensure!(made["metadata"]["resourceVersion"] != newer["metadata"]["resourceVersion"]);
        let same = client.merge(&pods("a"), &label).await?;
        ensure!(same["metadata"]["resourceVersion"] == newer["metadata"]["resourceVersion"]);
        ensure!(code(client.replace(&pods("a"), &made).await)? == 409);
        let uid = json!({ "metadata": { "uid": "00000000-0000-4000-8000-000000000000" },
            "status": { "phase": "Running" } });
        let status = pods("a/status");
        let refused = client.strategic(&status, &uid).await;
        let refused = message(refused);
        ensure!(
            refused.starts_with("422: Pod \"a\" is invalid: metadata.uid"),
            "{refused}"
        );
        let mut other = newer.clone();
        other["metadata"]["uid"] = uid["metadata"]["uid"].clone();
        ensure!(code(client.replace(&pods("a"), &other).await)? == 409);
        let leases = path("leases", "kube-node-lease", "");
        let lease = json!({ "metadata": { "name": "n" }, "spec": { "holderIdentity": "n" } });
        let own = format!("{leases}/n");
        let made = client.replace(&own, &lease).await?;
        ensure!(text(&made, "/spec/holderIdentity") == "n", "{made}");
        ensure!(code(client.replace(&own, &lease).await)? == 422);
        client.replace(&own, &made).await.map(drop)
    });
}

#[test]
fn lists_come_in_pages_of_one_moment() {
    with_server(async |_, client| {
        for name in ["a", "b", "c", "d", "e"] {
            client.create(&pods(""), &pod(name, "n")).await?;
        }
        client.create(&pods(""), &pod("other", "m")).await?;
        let all = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn";
        let first = client.get(&format!("{all}&limit=2")).await?;
        ensure!(first["kind"] == "PodList", "{first}");
        ensure!(first["items"][0].get("kind").is_none(), "{first}");
        let next = text(&first, "/metadata/continue").to_owned();
        client.delete(&pods("c"), Some(0)).await?;
        let second = client
            .get(&format!("{all}&limit=2&continue={next}"))
            .await?;
        let names = |list: &Value| -> Vec<String> {
            let items = list["items"].as_array().into_iter().flatten();
            items
                .map(|p| text(p, "/metadata/name").to_owned())
                .collect()
        };
        ensure!(names(&first) == ["a", "b"], "{:?}", names(&first));
        ensure!(names(&second) == ["c", "d"], "{:?}", names(&second));
        let version = |list: &Value| text(list, "/metadata/resourceVersion").to_owned();
        ensure!(version(&first) == version(&second));
        let next = text(&second, "/metadata/continue").to_owned();
        let third = client
            .get(&format!("{all}&limit=2&continue={next}"))
            .await?;
        ensure!(names(&third) == ["e"], "{:?}", names(&third));
        ensure!(text(&third, "/metadata/continue").is_empty());
        let labelled = client
            .get(&format!("{}?labelSelector=app+in+(a,b)", pods("")))
            .await?;
        ensure!(names(&labelled) == ["a", "b"], "{:?}", names(&labelled));
        let odd = "/api/v1/pods?fieldSelector=spec.priority%3D1";
        ensure!(code(client.get(odd).await)? == 400);
        Ok(())
    });
}

#[test]
fn a_watch_tells_what_its_selector_sees_and_resumes() {
    with_server(async |_, client| {
        client.create(&pods(""), &pod("a", "n")).await?;
        let list = client.get("/api/v1/pods").await?;
        let from = text(&list, "/metadata/resourceVersion").to_owned();
        client.create(&pods(""), &pod("b", "")).await?;
        let bound = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "b" },
            "target": { "kind": "Node", "name": "n" },
        });
        client.create(&pods("b/binding"), &bound).await?;
        client.create(&pods(""), &pod("c", "m")).await?;
        let label = json!({ "metadata": { "labels": { "x": "1" } } });
        client.merge(&pods("a"), &label).await?;
        client.delete(&pods("a"), Some(0)).await?;
        let query = format!("fieldSelector=spec.nodeName%3Dn&resourceVersion={from}");
        let events = client.watch("/api/v1/pods", &query, 2).await?;
        // Deleting at once is marking and removing.
        let seen: Vec<String> = events
            .iter()
            .map(|e| format!("{} {}", text(e, "/type"), text(e, "/object/metadata/name")))
            .collect();
        ensure!(
            seen == ["ADDED b", "MODIFIED a", "MODIFIED a", "DELETED a"],
            "{seen:?}"
        );
        let version = |event: &Value| text(event, "/object/metadata/resourceVersion").to_owned();
        let query = format!(
            "fieldSelector=spec.nodeName%3Dn&resourceVersion={}",
            version(&events[2])
        );
        let rest = client.watch("/api/v1/pods", &query, 2).await?;
        ensure!(rest.len() == 1 && rest[0] == events[3], "{rest:?}");
        let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true\
                       &fieldSelector=spec.nodeName%3Dn";
        let events = client.watch("/api/v1/pods", initial, 2).await?;
        ensure!(text(&events[0], "/type") == "ADDED", "{events:?}");
        let mark = events.iter().find(|e| e["type"] == "BOOKMARK");
        let mark = mark.with_context(|| format!("{events:?}"))?;
        let end = "/object/metadata/annotations/k8s.io~1initial-events-end";
        ensure!(text(mark, end) == "true", "{mark}");
        Ok(())
    });
}

#[test]
fn pods_are_deleted_in_two_steps() {
    with_server(async |_, client| {
        let mut held = pod("a", "n");
        held["metadata"]["finalizers"] = json!(["example.org/hold"]);
        client.create(&pods(""), &held).await?;
        let marked = client.delete(&pods("a"), None).await?;
        ensure!(
            marked["metadata"]["deletionGracePeriodSeconds"] == 30,
            "{marked}"
        );
        ensure!(marked["metadata"]["generation"] == 2, "{marked}");
        let longer = client.delete(&pods("a"), Some(60)).await?;
        ensure!(
            longer["metadata"]["deletionGracePeriodSeconds"] == 30,
            "{longer}"
        );
        let sooner = client.delete(&pods("a"), Some(5)).await?;
        ensure!(
            sooner["metadata"]["deletionGracePeriodSeconds"] == 5,
            "{sooner}"
        );
        let at = |pod: &Value| text(pod, "/metadata/deletionTimestamp").to_owned();
        ensure!(at(&sooner) < at(&marked));
        let wrong = json!({ "preconditions": { "uid": "00000000-0000-4000-8000-000000000000" } });
        let refused = client
            .request("DELETE", &pods("a"), "application/json", Some(&wrong))
            .await;
        ensure!(code(refused)? == 409);
        client.delete(&pods("a"), Some(0)).await?;
        let kept = client.get(&pods("a")).await?;
        ensure!(
            kept["metadata"]["deletionGracePeriodSeconds"] == 0,
            "{kept}"
        );
        let free = json!({ "metadata": { "finalizers": null } });
        client.merge(&pods("a"), &free).await?;
        ensure!(code(client.get(&pods("a")).await)? == 404);

        client.create(&pods(""), &pod("unbound", "")).await?;
        client.delete(&pods("unbound"), None).await?;
        ensure!(code(client.get(&pods("unbound")).await)? == 404);

        client.create(&pods(""), &pod("ended", "n")).await?;
        let ended = json!({ "status": { "phase": "Succeeded" } });
        client.merge(&pods("ended/status"), &ended).await?;
        client.delete(&pods("ended"), None).await?;
        ensure!(code(client.get(&pods("ended")).await)? == 404);
        Ok(())
    });
}

#[test]
fn status_and_spec_are_written_apart() {
    with_server(async |_, client| {
        client.create(&pods(""), &pod("a", "n")).await?;
        let both = json!({
            "metadata": { "annotations": { "note": "1" } },
            "spec": { "activeDeadlineSeconds": 5 },
            "status": {
                "phase": "Running",
                "conditions": [
                    { "type": "Initialized", "status": "True" },
                    { "type": "Ready", "status": "False", "reason": "x" },
                ],
                "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }],
            },
        });
        let status = client.strategic(&pods("a/status"), &both).await?;
        ensure!(status["spec"].get("activeDeadlineSeconds").is_none());
        ensure!(text(&status, "/metadata/annotations/note") == "1");
        ensure!(text(&status, "/status/phase") == "Running");
        let ready = json!({ "status": {
            "$setElementOrder/conditions": [
                { "type": "Initialized" }, { "type": "Ready" }, { "type": "PodScheduled" },
            ],
            "conditions": [
                { "type": "Ready", "status": "True", "reason": null },
                { "type": "PodScheduled", "status": "True" },
            ],
        } });
        let status = client.strategic(&pods("a/status"), &ready).await?;
        let conditions = status["status"]["conditions"].as_array().cloned();
        let conditions = conditions.unwrap_or_default();
        let kinds: Vec<&str> = conditions.iter().map(|c| text(c, "/type")).collect();
        ensure!(
            kinds == ["Initialized", "Ready", "PodScheduled"],
            "{kinds:?}"
        );
        ensure!(conditions[1].get("reason").is_none(), "{conditions:?}");
        let spec = client.merge(&pods("a"), &both).await?;
        ensure!(spec["spec"]["activeDeadlineSeconds"] == 5, "{spec}");
        ensure!(spec["metadata"]["generation"] == 2, "{spec}");
        let env = json!({ "spec": { "containers": [
            { "name": "main", "env": [{ "name": "E", "value": "1" }] },
        ] } });
        ensure!(code(client.strategic(&pods("a"), &env).await)? == 422);
        let debugger = json!({ "spec": { "ephemeralContainers": [
            { "name": "debug", "image": "busybox:1" },
        ] } });
        let place = pods("a/ephemeralcontainers");
        let debugged = client.strategic(&place, &debugger).await?;
        let added = &debugged["spec"]["ephemeralContainers"][0];
        ensure!(added["imagePullPolicy"] == "IfNotPresent", "{debugged}");

        let node = json!({ "metadata": { "name": "n" } });
        client.create(&path("nodes", "", ""), &node).await?;
        let addresses = |list: Value| json!({ "status": { "addresses": list } });
        let place = path("nodes", "", "n/status");
        let first = json!([
            { "type": "InternalIP", "address": "10.0.0.1" },
            { "type": "Hostname", "address": "n" },
        ]);
        client.strategic(&place, &addresses(first)).await?;
        let second = json!([
            { "$patch": "replace" },
            { "type": "InternalIP", "address": "10.0.0.2" },
            { "type": "InternalIP", "address": "fd00::2" },
        ]);
        let node = client.strategic(&place, &addresses(second)).await?;
        ensure!(
            node["status"]["addresses"].as_array().map(Vec::len) == Some(2),
            "{node}"
        );
        Ok(())
    });
}

#[test]
fn a_node_sees_and_does_what_is_its_own() {
    with_server(async |cluster, admin| {
        let node = cluster.client_as("system:node:n", "system:nodes")?;
        let own = json!({ "metadata": { "name": "n" } });
        let object = node.create(&path("nodes", "", ""), &own).await?;
        ensure!(
            text(&object, "/spec/taints/0/key") == "node.kubernetes.io/not-ready",
            "{object}"
        );
        let other = json!({ "metadata": { "name": "m" } });
        ensure!(code(node.create(&path("nodes", "", ""), &other).await)? == 403);
        ensure!(code(node.get("/api/v1/pods").await)? == 403);
        node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn")
            .await?;
        ensure!(code(node.get("/api/v1/nodes").await)? == 403);
        node.get("/api/v1/nodes?fieldSelector=metadata.name%3Dn")
            .await?;
        node.get("/api/v1/services").await?;
        // It does not even learn whether there is a pod that is not its own.
        ensure!(code(node.get(&pods("missing")).await)? == 403);
        let patch = json!({ "status": { "phase": "Running" } });
        let missing = node.strategic(&pods("missing/status"), &patch).await;
        ensure!(code(missing)? == 404);
        ensure!(code(node.delete(&pods("missing"), Some(0)).await)? == 404);

        let secret = json!({ "metadata": { "name": "s" }, "stringData": { "k": "v" } });
        admin
            .create(&path("secrets", "default", ""), &secret)
            .await?;
        let place = path("secrets", "default", "s");
        ensure!(code(node.get(&place).await)? == 403);
        let mut user = pod("a", "n");
        user["spec"]["volumes"] = json!([{ "name": "v", "secret": { "secretName": "s" } }]);
        admin.create(&pods(""), &user).await?;
        let read = tests::wait::eventually(
            "the secret of a pod of its own",
            std::time::Duration::from_secs(10),
            async || node.get(&place).await,
        )
        .await?;
        ensure!(STANDARD.decode(text(&read, "/data/k"))? == b"v", "{read}");

        ensure!(code(node.create(&pods(""), &pod("plain", "n")).await)? == 403);
        let mut mirror = pod("mirror", "n");
        mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "hash" });
        ensure!(code(node.create(&pods(""), &mirror).await)? == 403);
        mirror["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "v1", "kind": "Node", "name": "n",
            "uid": object["metadata"]["uid"], "controller": true,
        }]);
        node.create(&pods(""), &mirror).await?;
        node.delete(&pods("mirror"), Some(0)).await?;
        ensure!(code(admin.get(&pods("mirror")).await)? == 404);

        let taints = json!({ "spec": { "taints": [] } });
        let refused = node.strategic(&path("nodes", "", "n"), &taints).await;
        ensure!(code(refused)? == 403);
        Ok(())
    });
}

#[test]
fn a_full_quota_refuses_pods() {
    with_server(async |_, client| {
        let quota = json!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": "0" } } });
        let quotas = path("resourcequotas", "default", "");
        client.create(&quotas, &quota).await?;
        let status = json!({ "status": { "hard": { "pods": "0" }, "used": { "pods": "0" } } });
        client.merge(&format!("{quotas}/q/status"), &status).await?;
        let refused = tests::wait::eventually(
            "the quota counts",
            std::time::Duration::from_secs(10),
            async || {
                let refused = message(client.create(&pods(""), &pod("a", "n")).await);
                ensure!(refused.contains("exceeded quota"), "{refused}");
                Ok(refused)
            },
        )
        .await?;
        ensure!(
            refused
                == "403: pods \"a\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0",
            "{refused}"
        );
        Ok(())
    });
}

#[test]
fn a_node_gets_the_claims_of_its_pods_and_their_volumes_and_watches_none() {
    with_server(async |cluster, client| {
        let node = cluster.client_as("system:node:n1", "system:nodes")?;
        let claims = |name: &str| path("persistentvolumeclaims", "default", name);
        let volumes = |name: &str| path("persistentvolumes", "", name);
        for name in ["own", "other"] {
            let claim = json!({
                "metadata": { "name": name },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": { "requests": { "storage": "1Gi" } },
                    "storageClassName": "",
                    "volumeName": format!("pv-{name}"),
                },
            });
            client.create(&claims(""), &claim).await?;
            let volume = json!({
                "metadata": { "name": format!("pv-{name}") },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "capacity": { "storage": "1Gi" },
                    "claimRef": { "namespace": "default", "name": name },
                    "hostPath": { "path": "/data" },
                },
            });
            client.create(&volumes(""), &volume).await?;
        }
        let mut with_claim = pod("a", "n1");
        with_claim["spec"]["volumes"] =
            json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "own" } }]);
        client.create(&pods(""), &with_claim).await?;
        tests::wait::eventually(
            "the node may get them",
            std::time::Duration::from_secs(20),
            async || {
                let claim = node.get(&claims("own")).await?;
                ensure!(text(&claim, "/spec/volumeName") == "pv-own");
                let volume = node.get(&volumes("pv-own")).await?;
                ensure!(text(&volume, "/spec/hostPath/path") == "/data");
                Ok(())
            },
        )
        .await?;
        for refused in [
            claims("other"),
            volumes("pv-other"),
            claims(""),
            volumes(""),
        ] {
            ensure!(code(node.get(&refused).await)? == 403, "{refused}");
        }
        let bound = json!({ "status": { "phase": "Bound" } });
        let status = format!("{}/status", claims("own"));
        client.merge(&status, &bound).await?;
        let claim = node.get(&claims("own")).await?;
        ensure!(text(&claim, "/status/phase") == "Bound", "{claim}");
        Ok(())
    });
}
