//! All services of the cluster, in little memory: what containers find in their environment comes from them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kube::runtime::watcher::Event;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use super::cell::News;
use super::kept::KeptServices;
use super::service_links::{Protocol, ServiceLink, ServiceLinkPort};
use super::slim;

/// The namespace of the service by which pods reach the API server.
const MASTER_NAMESPACE: &str = "default";
/// Its name.
const MASTER_SERVICE: &str = "kubernetes";

/// The services as they are now.
pub(super) struct Services {
    table: Mutex<Table>,
    synced: watch::Sender<bool>,
    /// Whom to tell once they have been read for the first time.
    waiting: Mutex<Vec<Weak<News>>>,
    /// Told after each change.
    changed: watch::Sender<()>,
}

impl Services {
    /// None yet; `changed` is told of each change.
    pub(super) fn new(changed: watch::Sender<()>) -> Self {
        Self {
            table: Mutex::default(),
            synced: watch::Sender::new(false),
            waiting: Mutex::default(),
            changed,
        }
    }
}

/// By namespace and name. One that has no cluster IP is not kept.
///
/// A list is read into the table that is there: of the many services of a big cluster few have changed, and two tables at
/// once, and the pieces that the older one leaves in memory, would be the most that the agent holds.
#[derive(Default)]
struct Table {
    services: BTreeMap<Box<str>, BTreeMap<Box<str>, Entry>>,
    /// Names of ports, each once: most services share a few.
    port_names: Vec<Box<str>>,
}

struct Entry {
    cluster_ip: IpAddr,
    ports: Box<[Port]>,
    /// The list that is being read has it, too.
    listed: bool,
}

#[derive(PartialEq)]
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
        let ports: Vec<_> = ports.collect();
        let services = match self.services.get_mut(namespace.as_str()) {
            Some(services) => services,
            None => self.services.entry(namespace.as_str().into()).or_default(),
        };
        match services.get_mut(name.as_str()) {
            Some(entry) => {
                entry.cluster_ip = cluster_ip;
                entry.listed = true;
                if *entry.ports != *ports {
                    entry.ports = ports.into();
                }
            }
            None => {
                let entry = Entry {
                    cluster_ip,
                    ports: ports.into(),
                    listed: true,
                };
                services.insert(name.as_str().into(), entry);
            }
        }
    }

    /// A list begins.
    fn begin(&mut self) {
        for entry in self.services.values_mut().flat_map(BTreeMap::values_mut) {
            entry.listed = false;
        }
    }

    /// The list is whole: what it does not have is gone.
    fn sweep(&mut self) {
        self.services.retain(|_, services| {
            services.retain(|_, entry| entry.listed);
            !services.is_empty()
        });
        let mut used = vec![false; self.port_names.len()];
        let ports = self.services.values_mut().flat_map(BTreeMap::values_mut);
        for port in ports.flat_map(|entry| &mut entry.ports) {
            if let Some(used) = used.get_mut(usize::from(port.name)) {
                *used = true;
            }
        }
        if used.iter().all(|used| *used) {
            return;
        }
        let mut place = 0;
        let places: Vec<u16> = used
            .iter()
            .map(|used| {
                let own = place;
                place += u16::from(*used);
                own
            })
            .collect();
        let mut kept = used.iter();
        self.port_names
            .retain(|_| kept.next().copied().unwrap_or(false));
        let ports = self.services.values_mut().flat_map(BTreeMap::values_mut);
        for port in ports.flat_map(|entry| &mut entry.ports) {
            if let Some(place) = places.get(usize::from(port.name)) {
                port.name = *place;
            }
        }
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

    /// A list is whole.
    fn listed(&self) {
        self.table().sweep();
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
    ///
    /// None before the first list is whole.
    pub(super) fn links(&self, namespace: &str, links: bool) -> Vec<ServiceLink> {
        if !*self.synced.borrow() {
            return Vec::new();
        }
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

    /// What pods of `namespaces` find; none before the first list is whole.
    pub(super) fn kept<'a>(
        &self,
        namespaces: impl Iterator<Item = &'a str>,
    ) -> Option<KeptServices> {
        if !*self.synced.borrow() {
            return None;
        }
        let table = self.table();
        let own = namespaces.map(|namespace| {
            let services = table.services.get(namespace).into_iter().flatten();
            let links = services.map(|(name, entry)| table.link_of(name, entry));
            (namespace.into(), links.collect())
        });
        Some(KeptServices {
            own: own.collect(),
            master: table.link(MASTER_NAMESPACE, MASTER_SERVICE),
        })
    }

    /// Takes in what the watch of services says, for as long as it does.
    pub(super) async fn follow(
        &self,
        mut events: impl tokio_stream::Stream<Item = Event<slim::Service>> + Unpin,
    ) {
        while let Some(event) = events.next().await {
            match event {
                Event::Init => self.table().begin(),
                Event::InitApply(service) | Event::Apply(service) => self.table().put(&service),
                Event::InitDone => self.listed(),
                Event::Delete(service) => self.table().remove(&service),
            }
            self.changed.send_replace(());
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
        let services = Services::new(watch::Sender::default());
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
        // What the list before it had, and this one has not, is gone.
        let left = services.table().services["default"].len();
        assert_eq!(left, 1);
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
        let services = Services::new(watch::Sender::default());
        told(
            &services,
            vec![
                Event::Init,
                Event::InitDone,
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

    #[tokio::test]
    async fn a_list_goes_into_the_table_that_is_there_and_names_that_nobody_has_go() {
        let with = |name: &str, ports: &[&str]| {
            let ports: Vec<_> = ports
                .iter()
                .zip(80..)
                .map(|(name, port)| json!({"name": name, "port": port}))
                .collect();
            let json = json!({"metadata": {"namespace": "ns", "name": name},
                "spec": {"clusterIP": "10.0.0.1", "ports": ports}});
            serde_json::from_value::<slim::Service>(json).unwrap()
        };
        let services = Services::new(watch::Sender::default());
        let first = [
            with("a", &["one", "two"]),
            with("b", &["three", ""]),
            with("c", &["four", "two"]),
        ];
        let list = |of: &[slim::Service]| {
            let all = of.iter().cloned().map(Event::InitApply);
            let mut events = vec![Event::Init];
            events.extend(all);
            events.push(Event::InitDone);
            events
        };
        told(&services, list(&first)).await;
        let place = |name: &str| services.table().services["ns"][name].ports.as_ptr() as usize;
        let (a, c) = (place("a"), place("c"));
        let second = [with("a", &["one", "two"]), with("c", &["two", "five"])];
        told(&services, list(&second)).await;
        assert_eq!(place("a"), a, "what has not changed is as it was");
        assert_ne!(place("c"), c);
        assert_eq!(
            services.table().port_names,
            ["one", "two", "five"].map(Box::from)
        );
        let links = services.links("ns", true);
        let ports = |link: &ServiceLink| -> Vec<String> {
            link.ports
                .iter()
                .map(|port| port.name.to_string())
                .collect()
        };
        let found: Vec<_> = links
            .iter()
            .map(|link| (&*link.name, ports(link)))
            .collect();
        let text = |of: &[&str]| of.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            found,
            [("a", text(&["one", "two"])), ("c", text(&["two", "five"]))]
        );
    }
}
