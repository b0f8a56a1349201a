//! Waiting for something to become true: a predicate asked again and again, with a limit. Never a sleep and a hope.

use std::path::Path;
use std::time::Duration;
use std::{fmt, fs};

use anyhow::{Result, anyhow, ensure};
use tokio::time::{Instant, sleep};

/// From one ask to the next.
const PAUSE: Duration = Duration::from_millis(50);

/// An error after which asking again is of no use: [`eventually`] ends at once.
#[derive(Debug)]
pub struct Never(pub String);

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Never {}

/// Asks until the answer is `Ok`, 50 ms apart. An error says why it is not so yet.
///
/// # Errors
/// When it is not so within `limit`, with what was waited for and the last error; or at once with a [`Never`].
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    ask: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    eventually_asking_each(PAUSE, what, limit, ask).await
}

/// Waits until the file at `path` has exactly `text`.
///
/// # Errors
/// As [`eventually`].
pub async fn reads(path: &Path, text: &str, limit: Duration) -> Result<()> {
    let what = format!("{} has {text}", path.display());
    eventually(&what, limit, async || {
        let found = fs::read_to_string(path)?;
        ensure!(found == text, "{found:?}");
        Ok(())
    })
    .await
}

/// As [`eventually`], with `pause` from one ask to the next: for measuring.
///
/// # Errors
/// As [`eventually`].
pub async fn eventually_asking_each<T>(
    pause: Duration,
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(value) => return Ok(value),
            Err(error) if error.is::<Never>() => {
                return Err(error.context(format!("waited for: {what}")));
            }
            Err(error) if start.elapsed() >= limit => {
                return Err(error.context(format!("not within {limit:?}: {what}")));
            }
            Err(_) => sleep(pause).await,
        }
    }
}

/// Watches that something stays true for `span`.
///
/// # Errors
/// The first error of `ask`, with how long it held.
pub async fn throughout(
    what: &str,
    span: Duration,
    mut ask: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < span {
        if let Err(error) = ask().await {
            let held = start.elapsed();
            return Err(error.context(anyhow!("ceased after {held:?}: {what}")));
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{bail, ensure};

    #[tokio::test]
    async fn the_last_reason_is_in_the_error() {
        let mut asked = 0;
        let error = eventually("three asks", Duration::from_millis(120), async || {
            asked += 1;
            ensure!(asked > 100, "asked {asked} times");
            Ok(())
        })
        .await
        .unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.starts_with("not within 120ms: three asks: asked"),
            "{text}"
        );
        assert!(asked > 1);
    }

    #[tokio::test]
    async fn never_ends_the_wait_at_once() {
        let mut asked = 0;
        let wait = eventually("a dead thing", Duration::from_secs(600), async || {
            asked += 1;
            Err::<(), _>(Never("it died".to_owned()).into())
        });
        assert!(wait.await.is_err());
        assert_eq!(asked, 1);
    }

    #[tokio::test]
    async fn throughout_reports_the_first_failure() {
        let mut asked = 0;
        let watch = throughout("calm", Duration::from_secs(600), async || {
            asked += 1;
            if asked == 3 {
                bail!("noise");
            }
            Ok(())
        });
        assert!(format!("{:#}", watch.await.unwrap_err()).ends_with("calm: noise"));
    }
}
