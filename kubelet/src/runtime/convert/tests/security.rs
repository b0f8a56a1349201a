//! Users and profiles.

use super::*;

#[test]
fn run_as_non_root_is_checked_before_a_container_is_made() {
    let uid = ImageUser::Uid;
    let named = ImageUser::Name("app".into());
    let check = |pod_sc: Value, own_sc: Value, user: &ImageUser| {
        let pod = pod_with(
            json!({"securityContext": pod_sc}),
            json!({"securityContext": own_sc}),
        );
        with_user(&pod, "c", &node(), user)
            .map(drop)
            .map_err(|e| e.to_string())
    };
    let required = || json!({"runAsNonRoot": true});
    let who = "(pod: \"p_ns(u1)\", container: c)";
    for (pod_sc, own_sc, user, error) in [
        (
            required(),
            json!({}),
            uid(0),
            Some(format!(
                "container has runAsNonRoot and image will run as root {who}"
            )),
        ),
        (
            required(),
            json!({}),
            named.clone(),
            Some(format!(
                "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root {who}"
            )),
        ),
        (
            json!({"runAsUser": 0}),
            required(),
            uid(5),
            Some(format!(
                "container's runAsUser breaks non-root policy {who}"
            )),
        ),
        (
            required(),
            json!({}),
            uid(1 << 31),
            Some(format!(
                "container has runAsNonRoot and image has an invalid user id (2147483648). (Must be 1-(2147483647)): must be between 0 and 2147483647, inclusive {who}"
            )),
        ),
        (required(), json!({"runAsUser": 7}), uid(0), None),
        (required(), json!({"runAsNonRoot": false}), uid(0), None),
        (required(), json!({}), uid(5), None),
        (json!({}), json!({}), uid(0), None),
    ] {
        assert_eq!(check(pod_sc, own_sc, &user).err(), error);
    }
}

#[test]
fn users_come_from_the_container_the_pod_or_the_image() {
    let user = |pod_sc: Value, own_sc: Value, user: ImageUser| {
        let pod = pod_with(
            json!({"securityContext": pod_sc}),
            json!({"securityContext": own_sc}),
        );
        let config = with_user(&pod, "c", &node(), &user).unwrap();
        let sc = config.linux.unwrap().security_context.unwrap();
        (sc.run_as_user.map(|uid| uid.value), sc.run_as_username)
    };
    let uid = |uid| (Some(uid), String::new());
    assert_eq!(
        user(
            json!({"runAsUser": 1}),
            json!({"runAsUser": 2}),
            ImageUser::Uid(3)
        ),
        uid(2)
    );
    assert_eq!(
        user(json!({"runAsUser": 1}), json!({}), ImageUser::Uid(3)),
        uid(1)
    );
    assert_eq!(user(json!({}), json!({}), ImageUser::Uid(3)), uid(3));
    assert_eq!(
        user(json!({}), json!({}), ImageUser::Name("www".into())),
        (None, "www".into())
    );
    assert_eq!(
        user(
            json!({"runAsUser": 1}),
            json!({}),
            ImageUser::Name("www".into())
        ),
        uid(1)
    );
}

#[test]
fn seccomp_and_app_armor_profiles_come_from_the_nearest() {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let context = |default: bool, pod_sc: Value, own_sc: Value| {
        let pod = pod_with(
            json!({"securityContext": pod_sc}),
            json!({"securityContext": own_sc}),
        );
        let node = NodeSettings {
            seccomp_default: default,
            ..node()
        };
        container_of(&pod, "c", &node).map(|config| config.linux.unwrap().security_context.unwrap())
    };
    let seccomp = |default, pod_sc, own_sc| {
        let profile = context(default, pod_sc, own_sc).unwrap().seccomp.unwrap();
        (profile.profile_type(), profile.localhost_ref)
    };
    let asks = |kind: &str| json!({"seccompProfile": {"type": kind, "localhostProfile": "a.json"}});
    let none = String::new;
    assert_eq!(seccomp(false, json!({}), json!({})), (Unconfined, none()));
    assert_eq!(
        seccomp(true, json!({}), json!({})),
        (RuntimeDefault, none())
    );
    assert_eq!(
        seccomp(true, asks("Unconfined"), json!({})),
        (Unconfined, none())
    );
    assert_eq!(
        seccomp(false, asks("Unconfined"), asks("RuntimeDefault")),
        (RuntimeDefault, none())
    );
    assert_eq!(
        seccomp(false, asks("Localhost"), json!({})),
        (Localhost, "/var/lib/kubelet/seccomp/a.json".to_owned())
    );
    let nameless = json!({"seccompProfile": {"type": "Localhost"}});
    assert_eq!(
        context(false, nameless, json!({})).unwrap_err().to_string(),
        "localhostProfile must be set if seccompProfile type is Localhost."
    );
    let armor = |pod_sc: Value, own_sc: Value| {
        let sc = context(false, pod_sc, own_sc).unwrap();
        (
            sc.apparmor.map(|profile| profile.profile_type()),
            sc.apparmor_profile,
        )
    };
    let asks = |kind: &str| json!({"appArmorProfile": {"type": kind, "localhostProfile": "x"}});
    assert_eq!(armor(json!({}), json!({})), (None, none()));
    assert_eq!(
        armor(asks("Localhost"), json!({})),
        (Some(Localhost), "localhost/x".into())
    );
    assert_eq!(
        armor(asks("Localhost"), asks("Unconfined")),
        (Some(Unconfined), "unconfined".into())
    );
    assert_eq!(
        armor(json!({}), asks("RuntimeDefault")),
        (Some(RuntimeDefault), "runtime/default".into())
    );
}

#[test]
fn users_of_its_own_are_the_same_in_all_of_a_pod() {
    let of = |pod: &Pod| {
        let sandbox = sandbox_of(pod, &node()).unwrap().linux.unwrap();
        let sandbox = sandbox.security_context.unwrap().namespace_options.unwrap();
        let container = container_of(pod, "c", &node()).unwrap();
        let linux = container.linux.unwrap().security_context.unwrap();
        let own = linux.namespace_options.unwrap();
        assert_eq!(own.userns_options, sandbox.userns_options);
        (own.userns_options.unwrap(), container.mounts)
    };
    let mounted = || json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}], "terminationMessagePath": "/dev/log"});
    let volumes = || json!([{"name": "v", "emptyDir": {}}]);
    let (users, mounts) = of(&pod_with(
        json!({"hostUsers": false, "volumes": volumes()}),
        mounted(),
    ));
    let ids = [v1::IdMapping {
        host_id: 131_072,
        container_id: 0,
        length: 65_536,
    }];
    assert_eq!(users.mode(), v1::NamespaceMode::Pod);
    assert_eq!((&users.uids[..], &users.gids[..]), (&ids[..], &ids[..]));
    assert_eq!(mounts.len(), 3, "the volume, the hosts file, the message");
    for mount in mounts {
        assert_eq!(mount.uid_mappings, ids, "{}", mount.container_path);
        assert_eq!(mount.gid_mappings, ids, "{}", mount.container_path);
    }

    for host_users in [json!(null), json!(true)] {
        let pod = pod_with(
            json!({"hostUsers": host_users, "volumes": volumes()}),
            mounted(),
        );
        let (users, mounts) = of(&pod);
        // As upstream: said, and not left open.
        assert_eq!(users.mode(), v1::NamespaceMode::Node);
        assert!(users.uids.is_empty() && users.gids.is_empty());
        assert!(mounts.iter().all(|mount| mount.uid_mappings.is_empty()));
    }
}

#[test]
fn an_unmasked_proc_hides_nothing() {
    let paths = |mount: Value| {
        let own = json!({"securityContext": {"procMount": mount}});
        let pod = pod_with(json!({"hostUsers": false}), own);
        let config = container_of(&pod, "c", &node()).unwrap();
        let sc = config.linux.unwrap().security_context.unwrap();
        (sc.masked_paths.is_empty(), sc.readonly_paths.is_empty())
    };
    assert_eq!(paths(json!("Unmasked")), (true, true));
    assert_eq!(paths(json!("Default")), (false, false));
    assert_eq!(paths(json!(null)), (false, false));
}
