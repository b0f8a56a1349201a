//! All services of the cluster, in little memory: what containers find in their environment comes from them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kube::runtime::watcher::Event;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use super::cell::News;
use super::slim;

/// The namespace of the service by which pods reach the API server.
const MASTER_NAMESPACE: &str = "default";
/// Its name.
const MASTER_SERVICE: &str = "kubernetes";

/// A transport protocol, as services have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    fn of(text: Option<&str>) -> Self {
        match text {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }

    /// In lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A service that containers find in their environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLink {
    /// Its name.
    pub name: Box<str>,
    /// Where it is reached.
    pub cluster_ip: IpAddr,
    /// Its ports in the order of its spec.
    pub ports: Vec<ServiceLinkPort>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLinkPort {
    /// Its name; empty where it has none.
    pub name: Box<str>,
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// The services that a pod's containers find in their environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceLinks {
    /// The API server has not said yet which there are.
    NotYet,
    /// These.
    Known(Vec<ServiceLink>),
}

/// The services as they are now.
pub(super) struct Services {
    table: Mutex<Table>,
    synced: watch::Sender<bool>,
    /// Whom to tell once they have been read for the first time.
    waiting: Mutex<Vec<Weak<News>>>,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            synced: watch::Sender::new(false),
            waiting: Mutex::default(),
        }
    }
}

/// By namespace and name. One that has no cluster IP is not kept.
#[derive(Default)]
struct Table {
    services: BTreeMap<Box<str>, BTreeMap<Box<str>, Entry>>,
    /// Names of ports, each once: most services share a few. It only grows between two lists.
    port_names: Vec<Box<str>>,
}

struct Entry {
    cluster_ip: IpAddr,
    ports: Box<[Port]>,
}

struct Port {
    number: u16,
    /// Place in `port_names`; `u16::MAX` for none.
    name: u16,
    protocol: Protocol,
}

const NO_NAME: u16 = u16::MAX;

impl Table {
    fn put(&mut self, service: &slim::Service) {
        let metadata = &service.metadata;
        let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) else {
            return;
        };
        // Headless services say `None`, those that are a mere name say nothing.
        let address = service.spec.cluster_ip.as_deref().map(str::parse);
        let ports = service.spec.ports.as_deref().unwrap_or_default();
        let (Some(Ok(cluster_ip)), false) = (address, ports.is_empty()) else {
            self.remove(service);
            return;
        };
        let ports = ports.iter().map(|port| Port {
            number: u16::try_from(port.port).unwrap_or(0),
            name: self.intern(port.name.as_deref().unwrap_or_default()),
            protocol: Protocol::of(port.protocol.as_deref()),
        });
        let entry = Entry {
            cluster_ip,
            ports: ports.collect(),
        };
        let namespace = self.services.entry(namespace.as_str().into()).or_default();
        namespace.insert(name.as_str().into(), entry);
    }

    fn intern(&mut self, name: &str) -> u16 {
        if name.is_empty() {
            return NO_NAME;
        }
        let known = self.port_names.iter().position(|have| **have == *name);
        let at = known.unwrap_or_else(|| {
            self.port_names.push(name.into());
            self.port_names.len() - 1
        });
        // With so many different names the last ones go without.
        u16::try_from(at).unwrap_or(NO_NAME)
    }

    fn remove(&mut self, service: &slim::Service) {
        let metadata = &service.metadata;
        let name = metadata.name.as_deref().unwrap_or_default();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        if let Some(services) = self.services.get_mut(namespace) {
            services.remove(name);
            if services.is_empty() {
                self.services.remove(namespace);
            }
        }
    }

    fn link(&self, namespace: &str, name: &str) -> Option<ServiceLink> {
        let entry = self.services.get(namespace)?.get(name)?;
        Some(self.link_of(name, entry))
    }

    fn link_of(&self, name: &str, entry: &Entry) -> ServiceLink {
        let ports = entry.ports.iter().map(|port| ServiceLinkPort {
            name: self
                .port_names
                .get(usize::from(port.name))
                .cloned()
                .unwrap_or_default(),
            number: port.number,
            protocol: port.protocol,
        });
        ServiceLink {
            name: name.into(),
            cluster_ip: entry.cluster_ip,
            ports: ports.collect(),
        }
    }
}

impl Services {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics under this lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all have been read at least once.
    pub(super) fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Has `news` hear when they have been read for the first time.
    pub(super) fn tell_first(&self, news: &Arc<News>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Told under the lock, so that nobody is added who has missed it.
        if !*self.synced.borrow() {
            waiting.retain(|news| news.strong_count() > 0);
            waiting.push(Arc::downgrade(news));
        }
    }

    fn read(&self, table: Table) {
        *self.table() = table;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.synced.send_replace(true);
        for news in std::mem::take(&mut *waiting)
            .iter()
            .filter_map(Weak::upgrade)
        {
            news.send_modify(|count| *count += 1);
        }
    }

    /// Those of `namespace` where `links` says so, and always the one of the API server.
    pub(super) fn links(&self, namespace: &str, links: bool) -> Vec<ServiceLink> {
        let table = self.table();
        let own = table.services.get(namespace).filter(|_| links);
        let own = own.into_iter().flatten();
        let mut found: Vec<_> = own
            .map(|(name, entry)| table.link_of(name, entry))
            .collect();
        // As upstream: a service of the same name in the pod's own namespace comes first.
        if !found.iter().any(|link| *link.name == *MASTER_SERVICE) {
            found.extend(table.link(MASTER_NAMESPACE, MASTER_SERVICE));
        }
        found
    }

    /// Takes in what the watch of services says, for as long as it does.
    pub(super) async fn follow(
        &self,
        mut events: impl tokio_stream::Stream<Item = Event<slim::Service>> + Unpin,
    ) {
        // A new list replaces what was there once it is whole.
        let mut list: Option<Table> = None;
        while let Some(event) = events.next().await {
            match event {
                Event::Init => list = Some(Table::default()),
                Event::InitApply(service) => list.get_or_insert_default().put(&service),
                Event::InitDone => self.read(list.take().unwrap_or_default()),
                Event::Apply(service) => self.table().put(&service),
                Event::Delete(service) => self.table().remove(&service),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(namespace: &str, name: &str, ip: &str) -> slim::Service {
        let json = json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": ip,
            "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}});
        serde_json::from_value(json).unwrap()
    }

    fn names(services: &Services, namespace: &str, links: bool) -> Vec<String> {
        let links = services.links(namespace, links).into_iter();
        links
            .map(|link| format!("{} {}", link.name, link.cluster_ip))
            .collect()
    }

    async fn told(services: &Services, events: Vec<Event<slim::Service>>) {
        services.follow(tokio_stream::iter(events)).await;
    }

    #[tokio::test]
    async fn services_are_those_of_the_last_whole_list_and_what_came_since() {
        let services = Services::default();
        told(
            &services,
            vec![
                Event::Init,
                Event::InitApply(service("ns", "a", "10.0.0.1")),
                Event::InitApply(service("ns", "headless", "None")),
                Event::InitApply(service("default", "kubernetes", "10.0.0.9")),
                Event::InitApply(service("default", "other", "10.0.0.8")),
            ],
        )
        .await;
        assert!(!*services.synced().borrow());
        assert!(names(&services, "ns", true).is_empty());
        let list = [
            ("ns", "a", "10.0.0.1"),
            ("ns", "headless", "None"),
            ("default", "kubernetes", "10.0.0.9"),
        ];
        let mut events = vec![Event::Init];
        events.extend(list.map(|(ns, name, ip)| Event::InitApply(service(ns, name, ip))));
        events.push(Event::InitDone);
        told(&services, events).await;
        assert!(*services.synced().borrow());
        assert_eq!(
            names(&services, "ns", true),
            ["a 10.0.0.1", "kubernetes 10.0.0.9"]
        );
        assert_eq!(names(&services, "ns", false), ["kubernetes 10.0.0.9"]);
        told(
            &services,
            vec![
                Event::Apply(service("ns", "kubernetes", "fd00::1")),
                Event::Apply(service("ns", "a", "")),
                Event::Delete(service("default", "kubernetes", "10.0.0.9")),
            ],
        )
        .await;
        assert_eq!(names(&services, "ns", true), ["kubernetes fd00::1"]);
        assert!(names(&services, "ns", false).is_empty());
    }

    #[tokio::test]
    async fn ports_keep_their_order_names_and_protocols() {
        let services = Services::default();
        told(
            &services,
            vec![
                Event::Apply(service("ns", "a", "10.0.0.1")),
                Event::Apply(service("ns", "b", "10.0.0.2")),
            ],
        )
        .await;
        for link in services.links("ns", true) {
            let ports: Vec<_> = link
                .ports
                .iter()
                .map(|p| (&*p.name, p.number, p.protocol))
                .collect();
            assert_eq!(
                ports,
                [("http", 80, Protocol::Tcp), ("dns", 53, Protocol::Udp)]
            );
        }
        assert_eq!(services.table().port_names.len(), 2);
    }
}
