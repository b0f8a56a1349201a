//! The endpoints over a node of files: every answer through the strict reader, and every family against upstream's.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::{Method, Request};
use tower::ServiceExt as _;

use super::prometheus::{self, Metrics};
use super::*;
use crate::cgroups::Version;
use crate::stats::tests::{CONTAINER, Fixture, SANDBOX, UID, fixture};

/// Families of Kubernetes v1.36.2: endpoint, name, type, labels, help.
const UPSTREAM: &str = include_str!("upstream.txt");

const ENDPOINTS: [&str; 4] = [
    "/metrics",
    "/metrics/cadvisor",
    "/metrics/resource",
    "/metrics/probes",
];

/// The most that an answer may have, bytes.
const MOST: usize = 16 << 20;

fn api(fixture: &Fixture) -> Router {
    let routes = routes(MetricsApi {
        stats: fixture.stats.clone(),
        machine: MachineFacts {
            machine_id: "m".to_owned(),
            system_uuid: "s".to_owned(),
            boot_id: "b".to_owned(),
            kernel_version: "6.1".to_owned(),
            os_image: "Debian \"12\"".to_owned(),
            processors: 2,
        },
        gates: FeatureGates::default(),
        joined: true,
    });
    crate::server::node_api::finished(routes)
}

async fn ask(routes: &Router, method: Method, path: &str) -> (StatusCode, HeaderMap, String) {
    let request = Request::builder().method(method).uri(path);
    let request = request.body(Body::empty()).unwrap();
    let answer = routes.clone().oneshot(request).await.unwrap();
    let (head, body) = answer.into_parts();
    let bytes = axum::body::to_bytes(body, MOST).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    (head.status, head.headers, text)
}

async fn metrics(routes: &Router, path: &str) -> Metrics {
    let (status, headers, text) = ask(routes, Method::GET, path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {text}");
    assert_eq!(
        headers[header::CONTENT_TYPE],
        "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
    );
    assert!(headers.contains_key("process-start-time-unix"));
    prometheus::parse(&text).unwrap_or_else(|why| panic!("{path}: {why}\n{text}"))
}

/// Something is counted of all that only happens while an agent runs.
fn count_something() {
    let second = std::time::Duration::from_secs(1);
    let all = kubelet();
    all.runtime_call("ListContainers", second, true);
    all.relisted(second, Some(second), 1_795_302_148);
    all.worker_duration.observe(&["sync"], second);
    all.started_containers.inc(&["container"]);
    all.started_containers_errors
        .inc(&["ErrImagePull", "container"]);
    all.cgroup_duration.observe(&["create"], second);
    let volume = [
        "false",
        "volume_mount",
        "success",
        "kubernetes.io/empty-dir",
    ];
    all.storage_duration.observe(&volume, second);
    all.rest_requests.inc(&["200", "host:6443", "GET"]);
    all.rest_duration.observe(&["host:6443", "GET"], second);
    all.containers_per_pod.observe_number(3);
    all.image_pulled(20 << 20, second);
    all.provider_duration.observe(&["p"], second);
    all.provider_errors.inc(&["p"]);
    all.ensured_images.inc(&["true", "always", "false"]);
    all.must_pull_checks.inc(&["mustAuthenticate"]);
    all.pod_start_sli.observe(&[], second);
    all.pod_start_total.observe(&[], second);
    all.network_pod_started(second);
    all.run_sandbox_duration.observe(&[""], second);
    all.run_sandbox_errors.inc(&[""]);
    all.terminated_containers.inc(&["container", "1", "Error"]);
    all.certificates.client_until(1_795_302_148 + 3600);
    all.certificates.server_until(Some(1_795_302_148 + 7200));
    all.certificates.server_rotation.observe(second);
    // For as long as the process.
    std::mem::forget(all.pod_certificates.enter("signer.test/s"));
    all.managers.device_registrations.inc(&["example.com/dev"]);
    all.managers
        .device_allocations
        .observe(&["example.com/dev"], second);
    let pod_resources = &all.pod_resources;
    pod_resources.all.inc(&["v1"]);
    pod_resources.list.inc(&["v1"]);
    pod_resources.allocatable.inc(&["v1"]);
    pod_resources.get.inc(&["v1"]);
    pod_resources.get_errors.inc(&["v1"]);
    let probe = ["c", "ns", "p", "u", "Liveness", "successful"];
    all.probes.inc(&probe);
    all.probe_duration
        .observe(&["c", "ns", "p", "Liveness"], second);
}

#[tokio::test]
async fn every_family_is_upstreams() {
    count_something();
    let upstream: BTreeMap<(&str, &str), Vec<&str>> = UPSTREAM
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let parts: Vec<&str> = line.splitn(5, '|').collect();
            ((parts[0], parts[1]), parts[2..].to_vec())
        })
        .collect();
    for version in [Version::V1, Version::V2] {
        let fixture = fixture(version);
        let routes = api(&fixture);
        for endpoint in ENDPOINTS {
            let told = metrics(&routes, endpoint).await;
            for (name, family) in &told.families {
                let Some(known) = upstream.get(&(endpoint, name.as_str())) else {
                    panic!("{endpoint} has {name}, which upstream does not");
                };
                assert_eq!(family.kind, known[0], "{name}");
                let mut labels: BTreeSet<&str> = BTreeSet::new();
                for sample in &family.samples {
                    labels.extend(sample.labels.keys().map(String::as_str));
                }
                labels.remove("le");
                let known_labels = known[1].split(',').filter(|label| !label.is_empty());
                assert_eq!(labels, known_labels.collect(), "labels of {name}");
                assert_eq!(family.help, known[2], "{name}");
            }
        }
    }
}

/// What metrics-server reads (its `pkg/scraper/client/resource`).
const METRICS_SERVER: [&str; 5] = [
    "node_cpu_usage_seconds_total",
    "node_memory_working_set_bytes",
    "container_cpu_usage_seconds_total",
    "container_memory_working_set_bytes",
    "container_start_time_seconds",
];

#[tokio::test]
async fn metrics_server_finds_what_it_reads() {
    for version in [Version::V1, Version::V2] {
        let fixture = fixture(version);
        let told = metrics(&api(&fixture), "/metrics/resource").await;
        for name in METRICS_SERVER {
            let sample = told.samples(name).next();
            let sample = sample.unwrap_or_else(|| panic!("{name} is missing"));
            if name != "container_start_time_seconds" {
                assert!(
                    sample.at.is_some(),
                    "{name} has no time: it is dropped without"
                );
            }
        }
        let of = [
            ("container", "web"),
            ("namespace", "default"),
            ("pod", "web-node"),
        ];
        let value = |name| told.value(name, &of);
        assert_eq!(value("container_cpu_usage_seconds_total"), Some(50.0));
        assert_eq!(value("container_memory_working_set_bytes"), Some(125_000.0));
        assert_eq!(value("container_swap_usage_bytes"), Some(50.0));
        assert_eq!(value("container_swap_limit_bytes"), Some(67_108_864.0));
        let start = value("container_start_time_seconds").unwrap();
        assert!((start - 1_795_302_078.802_050_6).abs() < 1e-6);
        assert_eq!(
            told.value("pod_cpu_usage_seconds_total", &of[1..]),
            Some(80.0)
        );
        assert_eq!(
            told.value("node_cpu_usage_seconds_total", &[]),
            Some(1000.0)
        );
        assert_eq!(told.value("resource_scrape_error", &[]), Some(0.0));
    }
}

/// What rules, alerts and dashboards of the kubernetes-mixin ask the kubelet for, where this agent has something to tell.
/// Not here, since there is nothing: claims of volumes (`kubelet_volume_stats_*`; a scenario has them), evictions (`kubelet_evictions`), Go's own
/// (`go_goroutines`), and what upstream itself has no more (`kubelet_node_config_error`, `storage_operation_errors_total`).
const MIXIN: [(&str, &[&str]); 2] = [
    (
        "/metrics",
        &[
            "kubelet_node_name",
            "kubelet_running_pods",
            "kubelet_running_containers",
            "kubelet_pleg_relist_duration_seconds_bucket",
            "kubelet_pleg_relist_duration_seconds_count",
            "kubelet_pleg_relist_interval_seconds_bucket",
            "kubelet_pod_worker_duration_seconds_bucket",
            "kubelet_pod_worker_duration_seconds_count",
            "kubelet_pod_start_duration_seconds_bucket",
            "kubelet_pod_start_duration_seconds_count",
            "kubelet_runtime_operations_total",
            "kubelet_runtime_operations_errors_total",
            "kubelet_runtime_operations_duration_seconds_bucket",
            "kubelet_cgroup_manager_duration_seconds_bucket",
            "kubelet_cgroup_manager_duration_seconds_count",
            "kubelet_certificate_manager_client_ttl_seconds",
            "kubelet_certificate_manager_client_expiration_renew_errors",
            "kubelet_certificate_manager_server_ttl_seconds",
            "kubelet_server_expiration_renew_errors",
            "storage_operation_duration_seconds_bucket",
            "storage_operation_duration_seconds_count",
            "volume_manager_total_volumes",
            "rest_client_requests_total",
            "rest_client_request_duration_seconds_bucket",
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
            "kubernetes_build_info",
        ],
    ),
    (
        "/metrics/cadvisor",
        &[
            "container_cpu_usage_seconds_total",
            "container_cpu_cfs_periods_total",
            "container_cpu_cfs_throttled_periods_total",
            "container_memory_working_set_bytes",
            "container_memory_rss",
            "container_memory_cache",
            "container_memory_swap",
            "container_memory_usage_bytes",
            "container_network_receive_bytes_total",
            "container_network_transmit_bytes_total",
            "container_network_receive_packets_total",
            "container_network_transmit_packets_total",
            "container_network_receive_packets_dropped_total",
            "container_network_transmit_packets_dropped_total",
            "container_fs_reads_total",
            "container_fs_writes_total",
            "container_fs_reads_bytes_total",
            "container_fs_writes_bytes_total",
        ],
    ),
];

#[tokio::test]
async fn the_mixin_finds_what_it_asks_for() {
    count_something();
    for version in [Version::V1, Version::V2] {
        let fixture = fixture(version);
        let volumes = fixture
            .temp
            .path()
            .join(format!("agent/pods/{UID}/volumes"));
        std::fs::create_dir_all(volumes.join("kubernetes.io~empty-dir/data")).unwrap();
        let routes = api(&fixture);
        for (endpoint, names) in MIXIN {
            let told = metrics(&routes, endpoint).await;
            for name in names {
                assert!(
                    told.samples(name).next().is_some(),
                    "{endpoint} has no {name}"
                );
            }
        }
    }
}

#[tokio::test]
async fn rows_of_cgroups_have_upstreams_labels() {
    let fixture = fixture(Version::V2);
    let told = metrics(&api(&fixture), "/metrics/cadvisor").await;
    let of_pod = format!("/kubepods/burstable/pod{UID}");
    let rows: Vec<[String; 6]> = told
        .samples("container_cpu_usage_seconds_total")
        .map(|sample| {
            assert_eq!(sample.label("cpu"), "total");
            ["id", "container", "name", "image", "namespace", "pod"]
                .map(|label| sample.label(label).to_owned())
        })
        .collect();
    let row = |id: &str, rest: [&str; 5]| {
        let [container, name, image, namespace, pod] = rest.map(str::to_owned);
        [id.to_owned(), container, name, image, namespace, pod]
    };
    let image = "docker.io/library/busybox:1.35";
    assert_eq!(
        rows,
        [
            row("/", [""; 5]),
            row("/kubepods", [""; 5]),
            row("/kubepods/burstable", [""; 5]),
            row(&of_pod, ["", "", "", "default", "web-node"]),
            row(
                &format!("{of_pod}/{SANDBOX}"),
                ["", SANDBOX, "", "default", "web-node"]
            ),
            row(
                &format!("{of_pod}/{CONTAINER}"),
                ["web", CONTAINER, image, "default", "web-node"]
            ),
        ]
    );
    let quota = told.samples("container_spec_cpu_quota").count();
    assert_eq!(quota, 1, "one container has one");
    let network: Vec<&str> = told
        .samples("container_network_receive_bytes_total")
        .map(|sample| sample.label("id"))
        .collect();
    assert_eq!(
        network,
        ["/", &format!("{of_pod}/{SANDBOX}")],
        "a pod's are its sandbox's"
    );
    assert_eq!(
        told.value("container_spec_memory_limit_bytes", &[("id", "/")]),
        Some(1_024_000.0)
    );
    assert_eq!(
        told.value(
            "container_pressure_cpu_waiting_seconds_total",
            &[("container", "web")]
        ),
        Some(1.0)
    );
    assert_eq!(
        told.value("machine_cpu_cores", &[("boot_id", "b")]),
        Some(2.0)
    );
}

#[tokio::test]
async fn version_1_tells_of_no_pressure() {
    let fixture = fixture(Version::V1);
    let told = metrics(&api(&fixture), "/metrics/cadvisor").await;
    let named = |name: &&String| name.contains("pressure");
    assert_eq!(told.families.keys().find(named), None);
}

#[tokio::test]
async fn methods_and_paths_are_answered_as_upstream_does() {
    let fixture = fixture(Version::V2);
    let routes = api(&fixture);
    for (method, path, status, body) in [
        (Method::POST, "/metrics/resource", 200, None),
        (Method::POST, "/stats/summary", 200, None),
        (
            Method::GET,
            "/stats/summary/?only_cpu_and_memory=true",
            200,
            None,
        ),
        (
            Method::PUT,
            "/stats/summary",
            405,
            Some("405: Method Not Allowed"),
        ),
        (
            Method::GET,
            "/stats/container",
            404,
            Some("404: Page Not Found"),
        ),
        (Method::GET, "/stats/", 404, Some("404: Page Not Found")),
        (Method::GET, "/stats", 307, None),
        (
            Method::GET,
            "/metrics/nothing",
            404,
            Some("404 page not found\n"),
        ),
        (Method::GET, "/metrics/slis", 200, None),
    ] {
        let (code, headers, text) = ask(&routes, method.clone(), path).await;
        assert_eq!(code.as_u16(), status, "{method} {path}: {text}");
        if let Some(body) = body {
            assert_eq!(text, body, "{method} {path}");
        }
        if status == 307 {
            assert_eq!(headers[header::LOCATION], "/stats/");
        }
    }
    let (_, headers, text) = ask(&routes, Method::GET, "/stats/summary").await;
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    assert!(
        text.starts_with("{\n \"node\": {\n  \"nodeName\": \"node\","),
        "{text}"
    );
}

#[tokio::test]
async fn a_scraper_that_takes_gzip_gets_it() {
    use std::io::Read as _;

    let fixture = fixture(Version::V2);
    let routes = api(&fixture);
    let request = Request::builder()
        .uri("/metrics/cadvisor")
        .header(header::ACCEPT_ENCODING, "gzip")
        .body(Body::empty())
        .unwrap();
    let answer = routes.oneshot(request).await.unwrap();
    assert_eq!(answer.headers()[header::CONTENT_ENCODING], "gzip");
    let bytes = axum::body::to_bytes(answer.into_body(), MOST)
        .await
        .unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*bytes)
        .read_to_string(&mut text)
        .unwrap();
    let told = prometheus::parse(&text).unwrap();
    assert!(told.families.len() > 50);
}
