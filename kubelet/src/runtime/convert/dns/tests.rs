use serde_json::{Value, json};

use super::*;

fn node() -> DnsSettings {
    DnsSettings {
        cluster_dns: vec!["10.96.0.10".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        resolv_conf: Some(ResolvConf {
            servers: vec!["192.0.2.53".into()],
            searches: vec!["example.com".into(), "svc.cluster.local".into()],
            options: vec!["timeout:1".into()],
        }),
        node_ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
    }
}

fn pod(spec: Value) -> Pod {
    let mut whole = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec});
    whole["spec"]["containers"] = json!([]);
    serde_json::from_value(whole).unwrap()
}

/// Servers, searches and options, each joined by spaces, and the warnings.
fn of(node: &DnsSettings, spec: Value) -> ([String; 3], Vec<DnsWarning>) {
    let (dns, warnings) = pod_dns(&pod(spec), node);
    (
        [dns.servers, dns.searches, dns.options].map(|list| list.join(" ")),
        warnings,
    )
}

fn quiet(node: &DnsSettings, spec: Value) -> [String; 3] {
    let (dns, warnings) = of(node, spec);
    assert_eq!(warnings, []);
    dns
}

const CLUSTER: [&str; 3] = [
    "10.96.0.10",
    "ns.svc.cluster.local svc.cluster.local cluster.local example.com",
    "ndots:5",
];
const OF_NODE: [&str; 3] = ["192.0.2.53", "example.com svc.cluster.local", "timeout:1"];

#[test]
fn each_policy_has_its_source() {
    for (spec, dns) in [
        (json!({}), CLUSTER),
        (json!({"dnsPolicy": "ClusterFirst"}), CLUSTER),
        (
            json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
            CLUSTER,
        ),
        (
            json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}),
            OF_NODE,
        ),
        (json!({"dnsPolicy": "Default"}), OF_NODE),
        (json!({"dnsPolicy": "None"}), ["", "", ""]),
    ] {
        assert_eq!(quiet(&node(), spec.clone()), dns, "{spec}");
    }
}

#[test]
fn a_pods_own_settings_are_added() {
    let own = json!({
        "nameservers": ["1.1.1.1", "10.96.0.10"],
        "searches": ["corp", "cluster.local"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    });
    assert_eq!(
        quiet(&node(), json!({"dnsConfig": own})),
        [
            "10.96.0.10 1.1.1.1",
            &format!("{} corp", CLUSTER[1]),
            "ndots:2 edns0"
        ]
    );
    assert_eq!(
        quiet(&node(), json!({"dnsPolicy": "None", "dnsConfig": own})),
        ["1.1.1.1 10.96.0.10", "corp cluster.local", "ndots:2 edns0"]
    );
}

#[test]
fn without_cluster_dns_the_nodes_is_used_and_said_so() {
    let node = DnsSettings {
        cluster_dns: Vec::new(),
        ..node()
    };
    let (dns, warnings) = of(&node, json!({"dnsPolicy": "ClusterFirst"}));
    assert_eq!(dns, OF_NODE);
    assert_eq!(
        warnings,
        [DnsWarning {
            reason: "MissingClusterDNS",
            message: "pod: \"p_ns(u)\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.".into(),
            of_node: Some("kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.".into()),
        }]
    );
    assert_eq!(quiet(&node, json!({"dnsPolicy": "Default"})), OF_NODE);
}

#[test]
fn an_empty_resolv_conf_setting_disables_look_ups() {
    let mut node = DnsSettings {
        resolv_conf: None,
        ..node()
    };
    let policy = || json!({"dnsPolicy": "Default"});
    assert_eq!(quiet(&node, policy()), ["127.0.0.1 ::1", ".", ""]);
    node.node_ips.clear();
    assert_eq!(quiet(&node, policy()), ["127.0.0.1", ".", ""]);
    assert_eq!(
        quiet(&node, json!({}))[1],
        "ns.svc.cluster.local svc.cluster.local cluster.local"
    );
}

#[test]
fn what_resolvers_do_not_bear_is_cut() {
    let (dns, warnings) = of(
        &node(),
        json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}}),
    );
    assert_eq!(dns[0], "1.1.1.1 1.1.1.2 1.1.1.3");
    assert_eq!(
        warnings,
        [DnsWarning {
            reason: "DNSConfigForming",
            message: "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 1.1.1.1 1.1.1.2 1.1.1.3".into(),
            of_node: None,
        }]
    );
    let searches = |domains: Vec<String>| {
        let (dns, warnings) = of(
            &node(),
            json!({"dnsPolicy": "None", "dnsConfig": {"searches": domains}}),
        );
        let said = warnings.into_iter().map(|warning| {
            let start = "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: ";
            assert_eq!(warning.message.strip_prefix(start), Some(dns[1].as_str()));
        });
        (dns[1].split(' ').count(), said.count())
    };
    let numbered = |count: usize, length: usize| {
        (0..count)
            .map(|n| format!("{n:0length$}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(searches(numbered(32, 3)), (32, 0));
    assert_eq!(searches(numbered(33, 3)), (32, 1));
    // 32 of 63 bytes and 31 spaces are 2047.
    assert_eq!(searches(numbered(32, 63)), (32, 0));
    assert_eq!(searches(numbered(32, 64)), (31, 1));
    assert_eq!(searches(numbered(2, 253)), (2, 0));
    assert_eq!(searches(["a".repeat(254), "b".into()].into()), (1, 1));
}

#[test]
fn resolv_conf_files() {
    let text = "# comment\n; other\nnameserver 1.1.1.1 \n\tnameserver 1.1.1.2 extra\nsearch a b\nsearch c. . d\n\
                options ndots:2 edns0\noptions ndots:3\ndomain x\n";
    assert_eq!(
        ResolvConf::parse(text),
        Ok(ResolvConf {
            servers: vec!["1.1.1.1".into(), "1.1.1.2".into()],
            searches: vec!["c".into(), "d".into()],
            options: vec!["ndots:3".into(), "edns0".into()],
        })
    );
    let error = ResolvConf::parse("search a\nnameserver\n").unwrap_err();
    assert_eq!(error.to_string(), "line 2: a nameserver without an address");
}

#[test]
fn what_is_too_much_in_the_nodes_own_file_is_said() {
    let conf = |searches: &[String]| ResolvConf {
        searches: searches.to_vec(),
        ..ResolvConf::default()
    };
    let said = |searches: &[String], domain: &str| excess("/r".as_ref(), &conf(searches), domain);
    let many = |n: usize| vec!["a.test".to_owned(); n];
    assert_eq!(said(&many(32), ""), None);
    assert_eq!(said(&many(29), "cluster.local"), None);
    assert_eq!(
        said(&many(30), "cluster.local").unwrap(),
        "Resolv.conf file '/r' contains search line consisting of more than 29 domains!"
    );
    assert_eq!(
        said(&["x".repeat(254)], "").unwrap(),
        "Resolv.conf file \"/r\" contains a search path which length is more than allowed 253 chars!"
    );
    // Eight of 255 characters with their spaces, and eight more: 2048.
    let mut full = vec!["x".repeat(253); 8];
    full.push("y".repeat(16));
    assert_eq!(said(&full, ""), None);
    full.push("z".to_owned());
    assert_eq!(
        said(&full, "").unwrap(),
        "Resolv.conf file '/r' contains search line which length is more than allowed 2048 chars!"
    );
}
