//! Samples and what is made of them.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::time::Instant;

use super::events::TaskEvents;

/// How long one burst may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Pods started at once.
#[derive(Clone, Debug, Serialize)]
pub struct Burst {
    /// From its beginning to each container's start, sorted, in seconds.
    pub started: Vec<f64>,
}

impl Burst {
    /// The burst that began at `start` and started the containers `ids`.
    ///
    /// # Errors
    /// When the start of one is not heard of.
    pub async fn of(events: &TaskEvents, start: Instant, ids: &[String]) -> Result<Self> {
        let mut started = events
            .wait("every container's start", LIMIT, |lives| {
                let one = |id: &String| Some((lives.get(id)?.started - start).as_secs_f64());
                ids.iter().map(one).collect::<Option<Vec<f64>>>()
            })
            .await?;
        started.sort_by(f64::total_cmp);
        Ok(Self { started })
    }

    /// Until the last container ran, in seconds.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.started.last().copied().unwrap_or_default()
    }
}

/// The middle of some samples, and how far they lie apart. The unit is that of the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// How many samples.
    pub samples: usize,
}

impl Spread {
    /// Of `samples`; all zeros when there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let median = match count {
            0 => 0.0,
            _ if count % 2 == 1 => sorted[count / 2],
            _ => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
        };
        Self {
            median,
            min: sorted.first().copied().unwrap_or_default(),
            max: sorted.last().copied().unwrap_or_default(),
            samples: count,
        }
    }

    /// Of durations, in seconds.
    #[must_use]
    pub fn of_durations(samples: &[Duration]) -> Self {
        let seconds: Vec<f64> = samples.iter().map(Duration::as_secs_f64).collect();
        Self::of(&seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        let spread = Spread::of(&[5.0, 1.0]);
        assert_eq!((spread.min, spread.max, spread.samples), (1.0, 5.0, 2));
        assert_eq!(Spread::of(&[]).samples, 0);
    }
}
