//! What went over the interfaces of a network namespace.

use std::path::Path;

/// Interfaces that upstream leaves out: loopback, and the host's ends of the pods' links.
const LEFT_OUT: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// What went over one interface since it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// What came.
    pub received: Traffic,
    /// What went.
    pub sent: Traffic,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were damaged.
    pub errors: u64,
    /// Packets that there was no room for.
    pub dropped: u64,
}

/// The interfaces of the namespace that the process `pid` is in; none where it has gone.
pub(super) fn of_process(proc: &Path, pid: u32) -> Option<Vec<Interface>> {
    let path = proc.join(pid.to_string()).join("net/dev");
    Some(parse(&std::fs::read_to_string(path).ok()?))
}

/// Two lines of heads, then a line an interface: eight numbers of what came, eight of what went.
fn parse(text: &str) -> Vec<Interface> {
    let interfaces = text.lines().skip(2).filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let name = name.trim();
        if LEFT_OUT.iter().any(|prefix| name.starts_with(prefix)) {
            return None;
        }
        let words = numbers.split_whitespace();
        let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        let traffic = |at: usize| {
            let &[bytes, packets, errors, dropped] = numbers.get(at..at + 4)? else {
                return None;
            };
            Some(Traffic {
                bytes,
                packets,
                errors,
                dropped,
            })
        };
        Some(Interface {
            name: name.to_owned(),
            received: traffic(0)?,
            sent: traffic(8)?,
        })
    });
    interfaces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_but_for_loopback_and_links_of_pods() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
            lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n  \
            eth0:   11352     162    1    2    0     0          0         0     6288      90    3    4    0     0       0          0\n \
            vethab:   11352     162    1    2    0     0          0         0     6288      90    3    4    0     0       0          0\n \
            short: 1 2 3\n";
        let found = parse(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "eth0");
        assert_eq!(
            found[0].received,
            Traffic {
                bytes: 11352,
                packets: 162,
                errors: 1,
                dropped: 2
            }
        );
        assert_eq!((found[0].sent.bytes, found[0].sent.dropped), (6288, 4));
    }

    #[test]
    fn this_process_has_a_namespace() {
        assert!(of_process(Path::new("/proc"), std::process::id()).is_some());
        assert_eq!(of_process(Path::new("/proc"), u32::MAX), None);
    }
}
