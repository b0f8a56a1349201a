//! The node's API on its port: for each path who is let in and who is not, as the API server's double says, and what a
//! node without an API server does.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::agent::NODE_NAME;
use tests::apiserver::User;
use tests::cluster::{Authority, Client, Cluster, Refused, with_double};
use tests::in_process::{FakeNode, LIMIT, with_node};
use tests::wait::eventually;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// What reviews were asked, in the double's log.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// One path: method, path, the verb and the subresources that upstream asks for, and what the node says to who may.
struct Way(
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    u16,
);

const WAYS: [Way; 31] = [
    Way("GET", "/healthz", "get", &["healthz", "proxy"], 200),
    Way("GET", "/healthz/ping", "get", &["healthz", "proxy"], 200),
    Way("GET", "/healthz/log", "get", &["healthz", "proxy"], 200),
    Way(
        "GET",
        "/healthz/syncloop",
        "get",
        &["healthz", "proxy"],
        200,
    ),
    Way("GET", "/healthz/nothing", "get", &["healthz", "proxy"], 404),
    Way("GET", "/pods", "get", &["pods", "proxy"], 200),
    Way("GET", "/pods/", "get", &["pods", "proxy"], 200),
    Way("POST", "/pods", "create", &["pods", "proxy"], 405),
    Way("GET", "/pods/x", "get", &["pods", "proxy"], 404),
    Way("GET", "/runningpods/", "get", &["pods", "proxy"], 200),
    Way("GET", "/configz", "get", &["configz", "proxy"], 200),
    // The client wants JSON, which these two have only where kind and version are named.
    Way("GET", "/flagz", "get", &["configz"], 406),
    Way("GET", "/statusz", "get", &["statusz"], 406),
    Way("GET", "/stats/summary", "get", &["stats"], 0),
    Way("GET", "/metrics", "get", &["metrics"], 0),
    Way("GET", "/metrics/cadvisor", "get", &["metrics"], 0),
    Way("GET", "/metrics/resource", "get", &["metrics"], 0),
    Way("GET", "/metrics/probes", "get", &["metrics"], 0),
    Way("GET", "/logs/", "get", &["log"], 200),
    Way("GET", "/logs/../../etc/passwd", "get", &["log"], 404),
    Way(
        "POST",
        "/checkpoint/default/a/main",
        "create",
        &["checkpoint"],
        404,
    ),
    Way(
        "GET",
        "/containerLogs/default/a-node/main",
        "get",
        &["proxy"],
        0,
    ),
    Way("GET", "/exec/default/a-node/main", "create", &["proxy"], 0),
    Way("POST", "/exec/default/a-node/main", "create", &["proxy"], 0),
    Way(
        "GET",
        "/attach/default/a-node/main",
        "create",
        &["proxy"],
        0,
    ),
    Way("POST", "/run/default/a-node/main", "create", &["proxy"], 0),
    Way(
        "POST",
        "/portForward/default/a-node",
        "create",
        &["proxy"],
        0,
    ),
    Way("GET", "/debug/pprof/heap", "get", &["proxy"], 404),
    Way("PUT", "/debug/flags/v", "update", &["proxy"], 400),
    Way("DELETE", "/pods", "delete", &["pods", "proxy"], 405),
    Way("GET", "/nothing", "get", &["proxy"], 404),
];

/// A port of the loopback that nobody has, and an agent that serves its API there.
fn with_port(node: &FakeNode) -> Result<SocketAddr> {
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    node.configure("enableServer", json!(true));
    node.configure("address", json!("127.0.0.1"));
    node.configure("port", json!(address.port()));
    Ok(address)
}

/// A node that believes clients of the cluster's authority, and asks the cluster about the rest.
fn join(cluster: &Cluster, node: &FakeNode) -> Result<SocketAddr> {
    let address = with_port(node)?;
    fs::write(node.path("ca.crt"), cluster.authority.certificate())?;
    let pair = cluster.authority.server(&[NODE_NAME])?;
    fs::write(node.path("tls.crt"), pair.certificate())?;
    fs::write(node.path("tls.key"), pair.key())?;
    node.configure("tlsCertFile", json!(node.path("tls.crt")));
    node.configure("tlsPrivateKeyFile", json!(node.path("tls.key")));
    let authentication = json!({
        "x509": { "clientCAFile": node.path("ca.crt") },
        "webhook": { "enabled": true },
        "anonymous": { "enabled": false },
    });
    node.configure("authentication", authentication);
    node.configure("authorization", json!({ "mode": "Webhook" }));
    Ok(address)
}

/// A client of the node with a certificate of `authority` for this user.
fn user(authority: &Authority, address: SocketAddr, name: &str, group: &str) -> Result<Client> {
    let pair = authority.client(name, group, YEAR)?;
    Client::of_node(address, NODE_NAME, authority.client_tls(Some(&pair))?)
}

/// Status and body of an answer.
async fn ask(client: &Client, method: &str, path: &str) -> Result<(u16, Value)> {
    match client.request(method, path, "text/plain", None).await {
        Ok(body) => Ok((200, body)),
        Err(error) => match error.downcast::<Refused>() {
            Ok(refused) => Ok((refused.code, refused.status)),
            Err(error) => Err(error),
        },
    }
}

async fn serves(client: &Client) -> Result<()> {
    let what = "the node's API answers about the API server's users";
    eventually(what, LIMIT, async || {
        let (code, body) = ask(client, "GET", "/pods").await?;
        ensure!(code != 500, "{body}");
        Ok(())
    })
    .await
}

fn text(body: &Value) -> &str {
    body["message"].as_str().unwrap_or_default()
}

#[test]
fn every_path_is_open_to_who_may_and_to_nobody_else() {
    with_double(async |cluster, double, node| {
        let address = join(cluster, node)?;
        node.put("a.yaml", "# YAML\n{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: main, image: 'busybox:1'}]}}")?;
        node.start_agent()?;
        node.ready("a").await?;
        let authority = &cluster.authority;
        let unknown = Client::of_node(address, NODE_NAME, authority.client_tls(None)?)?;
        let denied = user(authority, address, "denied", "devs")?;
        serves(&denied).await?;
        for (index, Way(method, path, verb, subresources, code)) in WAYS.iter().enumerate() {
            let what = format!("{method} {path}");
            let answer = ask(&unknown, method, path).await?;
            ensure!(
                answer == (401, json!({ "message": "Unauthorized" })),
                "{what}: {answer:?}"
            );

            let (status, body) = ask(&denied, method, path).await?;
            let said = format!(
                "Forbidden (user=denied, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
                subresources.join(" ")
            );
            ensure!(
                (status, text(&body)) == (403, &*said),
                "{what}: {status} {body}"
            );

            // Leave for any one of the subresources is enough; with a token as with a certificate.
            for subresource in *subresources {
                let name = format!("{subresource}-{index}");
                double.allow(&name, verb, &format!("nodes/{subresource}"));
                double.token(&format!("token-{name}"), User::new(&name, &[]));
                let by_token = Client::of_node(address, NODE_NAME, authority.client_tls(None)?)?;
                let by_token = by_token.with_token(&format!("token-{name}"));
                for client in [user(authority, address, &name, "devs")?, by_token] {
                    let (status, body) = ask(&client, method, path).await?;
                    let right = match code {
                        // Another room's: it is let through.
                        0 => {
                            ![401, 403].contains(&status)
                                && !text(&body).starts_with("Authorization error")
                        }
                        code => status == *code,
                    };
                    ensure!(right, "{what} with {subresource}: {status} {body}");
                }
            }
        }
        Ok(())
    });
}

#[test]
fn reading_is_not_executing_unless_upstreams_rule_is_asked_for() {
    with_double(async |cluster, double, node| {
        let address = join(cluster, node)?;
        node.start_agent()?;
        double.allow("reader", "get", "nodes/*");
        let reader = user(&cluster.authority, address, "reader", "devs")?;
        serves(&reader).await?;
        ensure!(ask(&reader, "GET", "/pods").await?.0 == 200);
        for root in ["exec", "attach", "run", "portForward"] {
            let (code, body) = ask(&reader, "GET", &format!("/{root}/a/b/c")).await?;
            ensure!(
                code == 403 && text(&body).contains("verb=create"),
                "{root}: {code} {body}"
            );
        }
        node.kill_agent()?;
        node.with_socket("execVerb: method\n")?;
        node.start_agent()?;
        serves(&reader).await?;
        let (code, body) = ask(&reader, "GET", "/exec/a/b/c").await?;
        ensure!(code != 403, "{code} {body}");
        Ok(())
    });
}

#[test]
fn answers_hold_for_their_time_and_while_the_api_server_is_away() {
    with_double(async |cluster, double, node| {
        let address = join(cluster, node)?;
        let ttl = json!({ "cacheAuthorizedTTL": "1h", "cacheUnauthorizedTTL": "1s" });
        node.configure(
            "authorization",
            json!({ "mode": "Webhook", "webhook": ttl }),
        );
        node.start_agent()?;
        double.allow("known", "get", "nodes/pods");
        let known = user(&cluster.authority, address, "known", "devs")?;
        let late = user(&cluster.authority, address, "late", "devs")?;
        serves(&known).await?;
        ensure!(ask(&late, "GET", "/pods").await?.0 == 403);
        double.allow("late", "get", "nodes/pods");
        eventually("a no is forgotten", LIMIT, async || {
            let (code, body) = ask(&late, "GET", "/pods").await?;
            ensure!(code == 200, "{body}");
            Ok(())
        })
        .await?;
        let reviews = |user: &str| -> usize {
            let requests = double.requests().into_iter();
            let of_user = requests
                .filter(|request| request.path == REVIEWS && request.body["spec"]["user"] == user);
            of_user.count()
        };
        let before = reviews("known");
        for _ in 0..5 {
            ensure!(ask(&known, "GET", "/pods").await?.0 == 200);
        }
        ensure!(reviews("known") == before, "a yes is asked for again");
        cluster.line.refuse();
        ensure!(ask(&known, "GET", "/pods").await?.0 == 200);
        let (code, body) = ask(&known, "GET", "/stats/summary").await?;
        let said = "Authorization error (user=known, verb=get, resource=nodes, subresource=stats)";
        ensure!((code, text(&body)) == (500, said), "{code} {body}");
        let nobody = Client::of_node(address, NODE_NAME, cluster.authority.client_tls(None)?)?;
        let (code, _) = ask(&nobody.with_token("abc"), "GET", "/pods").await?;
        ensure!(code == 401, "{code}");
        cluster.line.open();
        eventually("the API server is asked again", LIMIT, async || {
            let (code, body) = ask(&known, "GET", "/stats/summary").await?;
            ensure!(code == 403, "{body}");
            Ok(())
        })
        .await
    });
}

/// TLS that believes the certificate that the node `name` made itself.
fn of_own_making(node: &FakeNode, pair: Option<(&Authority, &str)>) -> Result<ClientConfig> {
    let text = fs::read(node.path("pki").join("kubelet.crt")).context("the certificate")?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let mut roots = RootCertStore::empty();
    roots.add(chain?.pop().context("the certificate's authority")?)?;
    let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match pair {
        None => tls.with_no_client_auth(),
        Some((authority, name)) => {
            let (chain, key) = authority.client(name, "devs", YEAR)?.der();
            tls.with_client_auth_cert(chain, key)?
        }
    })
}

#[test]
fn a_node_by_itself_serves_whom_its_configuration_names() {
    with_node(async |node| {
        let address = with_port(node)?;
        node.start_agent()?;
        eventually("it is said why the port is closed", LIMIT, async || {
            let why = format!("port: {address} stays closed");
            ensure!(node.log().contains(&why), "nothing is said");
            Ok(())
        })
        .await?;
        ensure!(std::net::TcpStream::connect(address).is_err(), "it is open");
        ensure!(!node.path("pki").exists(), "a certificate for nobody");
        node.kill_agent()?;

        // By default the API server decides, and there is none.
        let authority = Authority::new()?;
        fs::write(node.path("ca.crt"), authority.certificate())?;
        let x509 = json!({ "clientCAFile": node.path("ca.crt") });
        node.configure("authentication", json!({ "x509": x509 }));
        node.start_agent()?;
        let listening = async || {
            eventually("it listens", LIMIT, async || {
                Ok(std::net::TcpStream::connect(address)?)
            })
            .await
        };
        listening().await?;
        let jane = |node: &FakeNode| -> Result<Client> {
            let tls = of_own_making(node, Some((&authority, "jane")))?;
            Client::of_node(address, NODE_NAME, tls)
        };
        let (code, body) = ask(&jane(node)?, "GET", "/pods").await?;
        ensure!(code == 403, "{code} {body}");
        node.kill_agent()?;

        let made = fs::read(node.path("pki").join("kubelet.crt"))?;
        node.configure("authorization", json!({ "mode": "AlwaysAllow" }));
        node.start_agent()?;
        listening().await?;
        let (code, body) = ask(&jane(node)?, "GET", "/pods").await?;
        ensure!(code == 200 && body["kind"] == "PodList", "{code} {body}");
        let (code, body) = ask(&jane(node)?, "GET", "/configz").await?;
        let port = json!(address.port());
        ensure!(
            code == 200 && body["kubeletconfig"]["port"] == port,
            "{code} {body}"
        );
        let nobody = Client::of_node(address, NODE_NAME, of_own_making(node, None)?)?;
        ensure!(ask(&nobody, "GET", "/pods").await?.0 == 401);
        ensure!(ask(&nobody.with_token("abc"), "GET", "/pods").await?.0 == 401);
        ensure!(fs::read(node.path("pki").join("kubelet.crt"))? == made);
        Ok(())
    });
}

#[test]
fn switches_of_the_configuration_close_their_paths() {
    with_node(async |node| {
        let address = with_port(node)?;
        let authority = Authority::new()?;
        fs::write(node.path("ca.crt"), authority.certificate())?;
        let x509 = json!({ "clientCAFile": node.path("ca.crt") });
        node.configure("authentication", json!({ "x509": x509 }));
        node.configure("authorization", json!({ "mode": "AlwaysAllow" }));
        for (fields, closed, open) in [
            (
                &["enableDebuggingHandlers"][..],
                &[
                    ("/run/a/b/c", "Debug endpoints are disabled.\n"),
                    ("/exec/a/b/c", "Debug endpoints are disabled.\n"),
                    ("/attach/a/b/c", "Debug endpoints are disabled.\n"),
                    ("/portForward/a/b", "Debug endpoints are disabled.\n"),
                    ("/containerLogs/a/b/c", "Debug endpoints are disabled.\n"),
                    ("/runningpods/", "Debug endpoints are disabled.\n"),
                    ("/debug/pprof/heap", "Debug endpoints are disabled.\n"),
                    ("/logs/", "Debug endpoints are disabled.\n"),
                ][..],
                &["/healthz", "/pods"][..],
            ),
            (
                &[
                    "enableSystemLogHandler",
                    "enableProfilingHandler",
                    "enableDebugFlagsHandler",
                ],
                &[
                    ("/logs/syslog", "logs endpoint is disabled.\n"),
                    ("/debug/pprof/heap", "profiling endpoint is disabled.\n"),
                    ("/debug/flags/v", "flags endpoint is disabled.\n"),
                ],
                &["/healthz", "/pods", "/configz", "/runningpods/"],
            ),
        ] {
            fields
                .iter()
                .for_each(|field| node.configure(field, json!(false)));
            node.start_agent()?;
            let what = "it listens";
            let listening = async || Ok(std::net::TcpStream::connect(address)?);
            eventually(what, LIMIT, listening).await?;
            let tls = of_own_making(node, Some((&authority, "jane")))?;
            let jane = Client::of_node(address, NODE_NAME, tls)?;
            for (path, said) in closed {
                let (code, body) = ask(&jane, "GET", path).await?;
                ensure!((code, text(&body)) == (405, *said), "{path}: {code} {body}");
            }
            for path in open {
                let (code, body) = ask(&jane, "GET", path).await?;
                ensure!(code == 200, "{path}: {code} {body}");
            }
            node.kill_agent()?;
            fields
                .iter()
                .for_each(|field| node.configure(field, json!(true)));
        }
        Ok(())
    });
}
