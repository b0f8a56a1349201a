//! Ends a process of somebody else's, and never another that has got its pid meanwhile.

use rustix::io::Errno;
use rustix::process::{self, Pid, PidfdFlags, Signal};

/// Sends SIGKILL to `pid` if it is `still` the one that is meant: by the time a pid is read, it may be another's. The agent
/// itself is never meant. A process that has gone is fine.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn kill(pid: i32, still: impl FnOnce(Pid) -> bool) -> Result<(), Errno> {
    let Some(pid) = Pid::from_raw(pid).filter(|pid| *pid != process::getpid()) else {
        return Ok(());
    };
    let handle = match process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Some(handle),
        Err(Errno::NOSYS) => None,
        Err(_) => return Ok(()),
    };
    // Asked after the handle was taken: whoever is meant now is whom the handle holds, or that one is dead and the handle
    // reaches nobody.
    if !still(pid) {
        return Ok(());
    }
    let sent = match &handle {
        Some(handle) => process::pidfd_send_signal(handle, Signal::KILL),
        None => process::kill_process(pid, Signal::KILL),
    };
    match sent {
        Err(Errno::SRCH) => Ok(()),
        sent => sent,
    }
}
