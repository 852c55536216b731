// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Reads the module's statistics: a file in debugfs with a line `key value` for each.
//!
//! Keys that we do not know are shown as they are, so that a newer module needs no newer tool.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::error::Error;
use crate::server::number;

/// One statistic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A count.
    Number(u64),
    /// A histogram's counts.
    Buckets(Vec<u64>),
    /// Anything else.
    Text(String),
}

/// What the module said, in its order.
#[derive(Debug, Default)]
pub struct Sample(pub Vec<(String, Value)>);

impl Serialize for Sample {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl Sample {
    /// The statistic of that name.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(other, _)| other == key)
            .map(|(_, value)| value)
    }
}

/// Reads the file.
///
/// # Errors
///
/// debugfs is not mounted, the module is not loaded, or the file is not for us.
pub fn take(debugfs: &Path) -> Result<Sample, Error> {
    let path = debugfs.join("memsrv/stats");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A mounted debugfs is never empty.
            let entries = std::fs::read_dir(debugfs).map(|mut entries| entries.next().is_some());
            match entries {
                Ok(true) => Err(Error::NotLoaded(path.display().to_string())),
                _ => Err(Error::NotMounted(debugfs.display().to_string())),
            }
        }
        Err(error) => Err(Error::Read { path, error }),
    }
}

/// Takes the lines apart; a line without a value has an empty one.
pub fn parse(text: &str) -> Sample {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Sample(
        lines
            .map(|line| {
                let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
                (key.to_owned(), value_of(key, value.trim()))
            })
            .collect(),
    )
}

fn value_of(key: &str, text: &str) -> Value {
    let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
    match numbers.as_deref() {
        Ok([number]) if !key.ends_with("_log2") => Value::Number(*number),
        Ok(numbers) if !numbers.is_empty() => Value::Buckets(numbers.to_vec()),
        _ => Value::Text(text.to_owned()),
    }
}

/// Whether a number goes up and down, so that a rate of it says nothing.
fn is_level(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    let levels = ["inflight", "remote", "granted", "leftover", "behind"];
    levels.iter().any(|level| name.starts_with(level))
        || [
            "degraded",
            "mirror_forwarded",
            "mirror_strict",
            "failover_us_max",
        ]
        .contains(&name)
}

/// How much each counter grew per second between two looks.
pub fn rates(before: &Sample, now: &Sample, elapsed: Duration) -> BTreeMap<String, f64> {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = |(key, value): &(String, Value)| match (before.get(key), value) {
        (Some(Value::Number(before)), Value::Number(now)) if !is_level(key) => {
            Some((key.clone(), number(now.saturating_sub(*before)) / seconds))
        }
        _ => None,
    };
    now.0.iter().filter_map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_number_a_histogram_or_text() {
        let sample =
            parse("stored_pages 17\n\nload_us_log2 1 2 3\nx_log2 5\nlink.0.state up\nodd\n");
        assert_eq!(sample.get("stored_pages"), Some(&Value::Number(17)));
        assert_eq!(
            sample.get("load_us_log2"),
            Some(&Value::Buckets(vec![1, 2, 3]))
        );
        assert_eq!(sample.get("x_log2"), Some(&Value::Buckets(vec![5])));
        assert_eq!(sample.get("link.0.state"), Some(&Value::Text("up".into())));
        assert_eq!(sample.get("odd"), Some(&Value::Text(String::new())));
    }

    #[test]
    fn counters_have_rates_and_levels_have_none() {
        let before = parse("stored_pages 10\nremote_pages 5\nrestarted 9\n");
        let now = parse("stored_pages 30\nremote_pages 9\nrestarted 1\nnew 3\n");
        let rates = rates(&before, &now, Duration::from_secs(2));
        assert_eq!(rates.get("stored_pages"), Some(&10.0));
        assert_eq!(rates.get("restarted"), Some(&0.0));
        assert_eq!(rates.len(), 2, "{rates:?}");
    }

    #[test]
    fn what_is_said_of_the_mirror_has_rates_only_where_it_counts() {
        let before = parse("failovers 1\nhedged_loads 10\n");
        let text = "mirror_strict 1\nmirror_forwarded 1\ndegraded 1\nbehind_clusters_primary 3\n\
            behind_clusters_mirror 4\nfailovers 2\nfailover_us_max 900\nhedged_loads 14\n";
        let levels = rates(&parse(text), &parse(text), Duration::from_secs(1));
        assert_eq!(
            levels.keys().collect::<Vec<_>>(),
            ["failovers", "hedged_loads"]
        );
        let rates = rates(&before, &parse(text), Duration::from_secs(2));
        assert_eq!(rates.get("failovers"), Some(&0.5));
        assert_eq!(rates.get("hedged_loads"), Some(&2.0));
    }
}
