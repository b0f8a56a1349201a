//! Emulated machines with systemd and cgroup v2, for what cannot be seen on a private node: the service, the package,
//! slices, reboots.
//!
//! Owns: the disks ([`image`], made once by `image.sh` and kept below `<target>/vm/`), the qemu process ([`machine`]),
//! the root shell on its second serial port ([`serial`]), packages made of the one that is tested ([`package`]), and
//! what is asked inside ([`guest`]). Inputs: this machine's Debian mirror, the image archive of [`crate::images`], the
//! package of `make deb`. Output: `<target>/vm/<system>-console.log`, everything that the machine, its kernel and its
//! shell said, of the last run. Threads: one a boot, which reads the serial port.
//!
//! Without hardware virtualization a machine is ten to twenty times slower than the one it runs on: limits are wide.
//! Deliberately not here: any scenario, and a network to the outside.

pub mod guest;
pub mod image;
pub mod machine;
pub mod package;
pub mod serial;

use std::fmt;

pub use machine::Machine;

/// A system that the agent is tried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// systemd 252, containerd 1.6, runc 1.1; no resolved.
    Debian12,
    /// systemd 257, containerd 1.7; resolved with its NSS module.
    Debian13,
    /// Whatever Debian's next release has today, with resolved.
    DebianTesting,
}

impl System {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Debian12, Self::Debian13, Self::DebianTesting];

    /// The name of Debian's distribution.
    #[must_use]
    pub fn suite(self) -> &'static str {
        match self {
            Self::Debian12 => "bookworm",
            Self::Debian13 => "trixie",
            Self::DebianTesting => "testing",
        }
    }

    /// Whether systemd-resolved and libnss-resolve are there.
    #[must_use]
    pub fn has_resolved(self) -> bool {
        self != Self::Debian12
    }

    /// Whether it can serve NFS to itself.
    #[must_use]
    pub fn has_nfs(self) -> bool {
        self == Self::DebianTesting
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian12 => "debian-12",
            Self::Debian13 => "debian-13",
            Self::DebianTesting => "debian-testing",
        })
    }
}
