//! From the parameters of a request to what is wanted of a log: `v1.PodLogOptions`, decoded and checked as upstream does.

use jiff::{SignedDuration, Timestamp};

use super::super::query::Query;
use crate::logs::{LogOptions, Streams};

/// What is wanted of which log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogQuery {
    pub(super) options: LogOptions,
    /// That of the instance before.
    pub(super) previous: bool,
}

/// Parameters that mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadQuery {
    /// A number or a time that is none.
    Undecodable,
    /// One that is out of range, or two that exclude each other.
    Invalid,
}

impl LogQuery {
    pub(super) fn parse(query: &Query, now: Timestamp) -> Result<Self, BadQuery> {
        let tail = match query.first("tail").filter(|tail| !tail.is_empty()) {
            // The name it had before.
            Some("all") => None,
            Some(tail) => Some(integer(tail)?),
            None => number(query, "tailLines")?,
        };
        let limit = number(query, "limitBytes")?;
        let since_seconds = number(query, "sinceSeconds")?;
        let since_time = query.first("sinceTime").map(time).transpose()?;
        let streams = query.first("stream");
        let wanted = match streams {
            None | Some("All") => Streams::All,
            Some("Stdout") => Streams::Stdout,
            Some("Stderr") => Streams::Stderr,
            Some(_) => return Err(BadQuery::Invalid),
        };
        let positive = |number: Option<i64>| number.is_none_or(|number| number > 0);
        let is_valid = tail.is_none_or(|tail| tail >= 0)
            && positive(limit)
            && positive(since_seconds)
            && (since_seconds.is_none() || since_time.is_none())
            && (tail.is_none() || wanted == Streams::All);
        if !is_valid {
            return Err(BadQuery::Invalid);
        }
        let before = |seconds| {
            let since = now.saturating_sub(SignedDuration::from_secs(seconds));
            since.unwrap_or(Timestamp::MIN)
        };
        let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
        Ok(Self {
            options: LogOptions {
                tail: tail.map(unsigned),
                limit_bytes: limit.map(unsigned),
                since: since_seconds.map(before).or(since_time.flatten()),
                follow: flag(query, "follow"),
                timestamps: flag(query, "timestamps"),
                streams: wanted,
                rotated: flag(query, "rotated"),
            },
            previous: flag(query, "previous"),
        })
    }
}

/// Anything but nothing, `0` and `false`.
fn flag(query: &Query, name: &str) -> bool {
    let value = query.first(name);
    value.is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
}

fn number(query: &Query, name: &str) -> Result<Option<i64>, BadQuery> {
    query.first(name).map(integer).transpose()
}

fn integer(text: &str) -> Result<i64, BadQuery> {
    text.parse().map_err(|_| BadQuery::Undecodable)
}

/// An RFC 3339 time; none where it is empty.
fn time(text: &str) -> Result<Option<Timestamp>, BadQuery> {
    if text.is_empty() || text == "null" {
        return Ok(None);
    }
    let time = text.parse().map_err(|_| BadQuery::Undecodable)?;
    Ok(Some(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2024-01-01T00:01:00Z";

    fn parse(query: &str) -> Result<LogQuery, BadQuery> {
        LogQuery::parse(&Query::parse(Some(query)), NOW.parse().unwrap())
    }

    fn options(query: &str) -> LogOptions {
        parse(query).unwrap().options
    }

    #[test]
    fn nothing_asked_for_is_all() {
        assert_eq!(parse(""), Ok(LogQuery::default()));
        assert_eq!(
            parse("container=c&insecureSkipTLSVerifyBackend=true"),
            Ok(LogQuery::default())
        );
    }

    #[test]
    fn each_parameter_has_its_place() {
        let query = parse("follow=true&previous=1&timestamps&tailLines=0&limitBytes=7").unwrap();
        assert!(query.previous);
        let expected = LogOptions {
            tail: Some(0),
            limit_bytes: Some(7),
            follow: true,
            timestamps: true,
            ..LogOptions::default()
        };
        assert_eq!(query.options, expected);
        assert!(!options("follow=False").follow);
        assert!(!options("follow=0").follow);
        assert_eq!(options("tail=5&tailLines=9").tail, Some(5));
        assert_eq!(options("tail=all&tailLines=9").tail, None);
        assert_eq!(options("stream=Stderr").streams, Streams::Stderr);
        assert!(options("rotated=true").rotated && !options("").rotated);
    }

    #[test]
    fn since_counts_back_from_now() {
        let since = |query: &str| options(query).since.map(|since| since.to_string());
        assert_eq!(
            since("sinceSeconds=30").as_deref(),
            Some("2024-01-01T00:00:30Z")
        );
        assert!(since(&format!("sinceSeconds={}", i64::MAX)).is_some());
        let time = "sinceTime=2023-12-31T23%3A00%3A00%2B01%3A00";
        assert_eq!(since(time).as_deref(), Some("2023-12-31T22:00:00Z"));
        assert_eq!(since("sinceTime="), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for query in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceSeconds=1&sinceTime=2024-01-01T00:00:00Z",
            "stream=stdout",
            "stream=Stdout&tailLines=1",
        ] {
            assert_eq!(parse(query), Err(BadQuery::Invalid), "{query}");
        }
        for query in [
            "tailLines=x",
            "tailLines=",
            "tail=x",
            "sinceTime=today",
            "limitBytes=1.5",
        ] {
            assert_eq!(parse(query), Err(BadQuery::Undecodable), "{query}");
        }
    }
}
