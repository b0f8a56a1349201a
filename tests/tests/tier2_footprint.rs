//! What the agent may take: bounds that hold on any machine, and that a careless change would break. `make bench` has the
//! figures themselves.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use tests::bench::crowd;

/// Bytes of the binary as it is shipped: release profile, stripped.
const MOST_BYTES: u64 = 22_500_000;
/// System calls a minute of an agent at rest with 50 pods, in its first minutes: a relist, and looks at the sizes of logs.
/// One look a second at each container would make 3,000 of the cheapest kind.
const MOST_CALLS: f64 = 2_000.0;

#[tokio::test]
async fn a_binary_of_bounded_size_that_rests_while_its_pods_run() -> Result<()> {
    let binary = tests::release_binary()?;
    let size = fs::metadata(&binary)?.len();
    assert!(size <= MOST_BYTES, "the binary has {size} bytes");
    // Between two relists lie 75 s.
    let crowd = crowd::measure(&binary, 50, Duration::from_secs(80)).await?;
    println!(
        "{size} bytes\n{}",
        crowd::table(std::slice::from_ref(&crowd))
    );
    assert!(
        crowd.idle_syscalls <= MOST_CALLS,
        "{} system calls a minute",
        crowd.idle_syscalls
    );
    Ok(())
}
