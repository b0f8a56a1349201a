use std::net::UdpSocket;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;

/// A name server on an address of its own in 127.0.0.0/8, which says what `answer` says.
struct NameServer {
    address: Ipv4Addr,
    asked: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
    socket: UdpSocket,
}

/// What is said of a name: its addresses, or `None` for silence. No addresses means that there is no such name.
type Answer = fn(&str) -> Option<Vec<IpAddr>>;

impl NameServer {
    fn start(last: u8, answer: Answer) -> Self {
        // Each test process has a network of addresses of its own.
        let [_, _, high, low] = parent_id()
            .wrapping_mul(31)
            .wrapping_add(std::process::id())
            .to_be_bytes();
        let address = Ipv4Addr::new(127, high.max(1), low, last);
        let socket = UdpSocket::bind((address, 53)).unwrap();
        let served = socket.try_clone().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = served.recv_from(&mut buffer) {
                if length == 0 {
                    return;
                }
                let (name, kind, end) = question(&buffer[..length]);
                log.lock().unwrap().push(format!("{name} {kind}"));
                if let Some(addresses) = answer(&name) {
                    let message = reply(&buffer[..end], kind, &addresses);
                    served.send_to(&message, from).unwrap();
                }
            }
        });
        Self {
            address,
            asked,
            thread: Some(thread),
            socket,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        // An empty datagram ends the thread.
        let _ = self.socket.send_to(&[], (self.address, 53));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The name and type of the one question of a message (RFC 1035, section 4.1.2), and where it ends.
fn question(message: &[u8]) -> (String, u16, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while message[at] != 0 {
        let length = usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..][..length]).to_lowercase());
        at += length + 1;
    }
    let kind = u16::from_be_bytes([message[at + 1], message[at + 2]]);
    (labels.join("."), kind, at + 5)
}

/// Header and question of a query turned into an answer.
fn reply(query: &[u8], kind: u16, addresses: &[IpAddr]) -> Vec<u8> {
    let mut records = Vec::new();
    let mut count = 0u16;
    for address in addresses {
        let (its_kind, data) = match address {
            IpAddr::V4(ip) => (1, ip.octets().to_vec()),
            IpAddr::V6(ip) => (28, ip.octets().to_vec()),
        };
        if its_kind != kind {
            continue;
        }
        count += 1;
        // The name is that of the question; class IN, a minute to live.
        records.extend([0xc0, 12]);
        records.extend(kind.to_be_bytes());
        records.extend([0, 1, 0, 0, 0, 60]);
        records.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        records.extend(data);
    }
    let mut message = query.to_vec();
    // A response, recursion desired and available; NXDOMAIN where there is nothing at all.
    message[2] = 0x81;
    message[3] = if addresses.is_empty() { 0x83 } else { 0x80 };
    message[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    message[6..8].copy_from_slice(&count.to_be_bytes());
    message.extend(records);
    message
}

struct Files(tempfile::TempDir);

impl Files {
    fn new(hosts: &str, resolv_conf: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("hosts", hosts);
        files.write("resolv.conf", resolv_conf);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    async fn addresses(&self, host: &str) -> io::Result<Vec<String>> {
        let found = addresses(host, &self.path("hosts"), &self.path("resolv.conf")).await?;
        Ok(found.iter().map(ToString::to_string).collect())
    }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_nobody_is_asked() {
    let server = NameServer::start(1, |_| Some(ips(&["192.0.2.9"])));
    let hosts = "# own names\n10.0.0.1 db db.example # 10.0.0.9 db\n\nnonsense db\nfd00::1\tDB\n10.0.0.1 db\n10.0.0.2 dbx\n";
    let files = Files::new(hosts, &format!("nameserver {}\n", server.address));
    for name in ["db", "Db", "db."] {
        assert_eq!(
            files.addresses(name).await.unwrap(),
            ["10.0.0.1", "fd00::1"]
        );
    }
    assert_eq!(files.addresses("10.1.2.3").await.unwrap(), ["10.1.2.3"]);
    assert_eq!(files.addresses("fd00::2").await.unwrap(), ["fd00::2"]);
    let here = ["127.0.0.1", "::1"];
    assert_eq!(files.addresses("localhost").await.unwrap(), here);
    assert_eq!(files.addresses("a.LocalHost.").await.unwrap(), here);
    assert_eq!(server.asked(), Vec::<String>::new());
    assert_eq!(
        files.addresses("other.example").await.unwrap(),
        ["192.0.2.9"]
    );
}

#[tokio::test]
async fn name_servers_are_asked_for_both_kinds_of_address() {
    let server = NameServer::start(2, |name| {
        Some(match name {
            "web.example" => ips(&["2001:db8::1", "192.0.2.1", "192.0.2.2"]),
            "six.example" => ips(&["2001:db8::6"]),
            _ => Vec::new(),
        })
    });
    let files = Files::new("", &format!("nameserver {}\n", server.address));
    let mut found = files.addresses("web.example").await.unwrap();
    found[..2].sort();
    assert_eq!(found, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    assert_eq!(
        files.addresses("six.example").await.unwrap(),
        ["2001:db8::6"]
    );
    let error = files.addresses("gone.example").await.unwrap_err();
    assert!(error.to_string().contains("no records found"), "{error}");
}

#[tokio::test]
async fn search_domains_and_dots_are_those_of_the_file() {
    let server = NameServer::start(3, |name| {
        Some(match name {
            "web.shop.example" | "a.b.shop.example" => ips(&["192.0.2.3"]),
            _ => Vec::new(),
        })
    });
    let text = format!(
        "search shop.example\nnameserver {}\noptions ndots:1 timeout:1 edns0 trust-ad\n",
        server.address
    );
    let files = Files::new("", &text);
    assert_eq!(files.addresses("web").await.unwrap(), ["192.0.2.3"]);
    assert_eq!(server.asked().len(), 2, "{:?}", server.asked());
    assert_eq!(files.addresses("a.b").await.unwrap(), ["192.0.2.3"]);
    let asked = server.asked();
    assert!(asked[2].starts_with("a.b "), "dots enough: {asked:?}");
    files.addresses("web.").await.unwrap_err();
}

#[tokio::test]
async fn changes_of_the_files_are_seen() {
    let first = NameServer::start(4, |_| Some(ips(&["192.0.2.4"])));
    let second = NameServer::start(5, |_| Some(ips(&["192.0.2.5"])));
    let files = Files::new("", &format!("nameserver {}\n", first.address));
    assert_eq!(files.addresses("web.example").await.unwrap(), ["192.0.2.4"]);
    files.write("resolv.conf", &format!("nameserver {}\n", second.address));
    assert_eq!(files.addresses("web.example").await.unwrap(), ["192.0.2.5"]);
    files.write("hosts", "192.0.2.6 web.example\n");
    assert_eq!(files.addresses("web.example").await.unwrap(), ["192.0.2.6"]);
}

#[tokio::test]
async fn the_second_server_is_asked_when_the_first_is_silent() {
    let silent = NameServer::start(6, |_| None);
    let second = NameServer::start(7, |_| Some(ips(&["192.0.2.7"])));
    let text = format!(
        "nonsense\nnameserver {}\nnameserver none\nnameserver {}\noptions timeout:1 attempts:1\n",
        silent.address, second.address
    );
    let files = Files::new("", &text);
    assert_eq!(files.addresses("web.example").await.unwrap(), ["192.0.2.7"]);
    assert!(!silent.asked().is_empty(), "the order is that of the file");

    // One that is not there at all, and all of them: twice, by default.
    let text = format!("nameserver 127.0.0.0\nnameserver {}\n", second.address);
    files.write("resolv.conf", &text);
    assert_eq!(files.addresses("web.example").await.unwrap(), ["192.0.2.7"]);
    let asked = silent.asked().len();
    let text = format!(
        "nameserver {}\noptions timeout:1 attempts:2\n",
        silent.address
    );
    files.write("resolv.conf", &text);
    files.addresses("web.example").await.unwrap_err();
    assert!(silent.asked().len() >= asked + 4, "{:?}", silent.asked());
}

#[tokio::test]
async fn whoever_has_less_time_gives_up() {
    let silent = NameServer::start(8, |_| None);
    let files = Files::new("", &format!("nameserver {}\n", silent.address));
    let asked = tokio::time::timeout(Duration::from_millis(200), files.addresses("web.example"));
    assert!(
        asked.await.is_err(),
        "the patience of resolv.conf is longer"
    );
}

#[test]
fn a_file_that_names_no_server_means_this_host() {
    for text in ["", "search a.example\n", "nameserver nonsense\n"] {
        let (config, _) = servers(text.as_bytes()).unwrap();
        let servers: Vec<_> = config.name_servers().iter().map(|s| s.ip).collect();
        assert_eq!(servers, ips(&["127.0.0.1"]), "{text}");
    }
    let many: String = (1..=5)
        .map(|i| format!("nameserver 192.0.2.{i}\n"))
        .collect();
    let (config, _) = servers(many.as_bytes()).unwrap();
    assert_eq!(config.name_servers().len(), MOST_SERVERS);
}

#[tokio::test]
async fn absent_files_are_empty_ones() {
    let nowhere = tempfile::tempdir().unwrap().path().join("gone");
    let found = addresses("localhost", &nowhere, &nowhere).await.unwrap();
    assert_eq!(found.len(), 2);
}
