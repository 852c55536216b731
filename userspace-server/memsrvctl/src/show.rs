// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Tables for people.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use memsrv_protocol::PAGE_SIZE;
use memsrvd::persist::PersistReport;
use memsrvd::size::Size;
use memsrvd::stats::Report;

use crate::module::{self, Value};
use crate::server::{self, key, Rates};

/// Widest bar of a histogram.
const BAR: u64 = 40;

/// So many pages, as bytes with a unit.
pub fn size(pages: u64) -> String {
    let page = u64::try_from(PAGE_SIZE).unwrap_or(4096);
    Size(pages.saturating_mul(page)).to_string()
}

/// A table with its first `left` columns to the left and the others, numbers, to the right.
fn table(header: &[&str], left: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header);
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}

/// What a server said.
pub fn server(sample: &server::Sample, rates: Option<&Rates>) -> String {
    let report = &sample.report;
    let mut text = format!(
        "server {}: memsrvd {}, protocol {}, up {}{}\n",
        sample.address,
        report.version,
        report.protocol,
        duration(report.uptime_s),
        if report.draining {
            ", about to stop"
        } else {
            ""
        },
    );
    text.push_str(&format!("instance {}\n\n", report.instance));
    if let Some(log) = &report.persist {
        text.push_str(&format!("{}\n\n", persist(log)));
    }
    let mut memory = table(&["memory", "pages", "size"], 1);
    memory.add_row([
        "capacity".into(),
        report.capacity_pages.to_string(),
        size(report.capacity_pages),
    ]);
    memory.add_row([
        "used".into(),
        report.used_pages.to_string(),
        size(report.used_pages),
    ]);
    memory.add_row([
        "free".into(),
        report.free_pages.to_string(),
        size(report.free_pages),
    ]);
    if report.stored_pages > report.used_pages {
        // What they would take if they had not come compressed.
        memory.add_row([
            "stored in it".into(),
            report.stored_pages.to_string(),
            size(report.stored_pages),
        ]);
    }
    let tables = Size(report.overhead_bytes).to_string();
    memory.add_row(["tables beside".into(), "-".into(), tables]);
    text.push_str(&format!(
        "{memory}\n\npage tables used {}/{}\n",
        report.clusters.saturating_sub(report.free_clusters),
        report.clusters
    ));
    if !report.regions.is_empty() {
        text.push_str(&format!(
            "\n{}\n\n{}\n",
            regions(sample, rates),
            connections(sample)
        ));
    }
    if report.regions_omitted > 0 {
        text.push_str(&format!("and {} regions more\n", report.regions_omitted));
    }
    text.push_str(&format!("\nconnections {}, refused:", report.connections));
    if report.refused.is_empty() {
        text.push_str(" none");
    }
    for (reason, count) in &report.refused {
        text.push_str(&format!(" {reason} {count}"));
    }
    text.push_str(&pulls(report));
    if let Some(mirror) = &report.mirror {
        text.push_str(&format!(
            "\nmirror {}: streams forwarded {}, operations {}, lost {}",
            mirror.address, mirror.streams, mirror.forwarded, mirror.lost
        ));
    }
    text
}

/// What the server has fetched from others, where it ever was asked to.
fn pulls(report: &Report) -> String {
    let (done, failed) = (report.pulls, report.pull_failures);
    if (done, failed, report.pulls_waiting) == (0, 0, 0) {
        return String::new();
    }
    format!(
        "\nfetched from other servers {} pages; pulls: done {done} failed {failed} waiting {}",
        report.pulled_pages, report.pulls_waiting
    )
}

/// The log, in one line.
fn persist(log: &PersistReport) -> String {
    let mut text = format!(
        "log {}{}: {} in {} segments, {} dead, {} waiting, last sync {:.1} ms",
        log.health,
        if log.ack { ", acknowledged" } else { "" },
        Size(log.bytes),
        log.segments,
        Size(log.dead_bytes),
        Size(log.queue_bytes),
        Duration::from_micros(log.last_sync_us).as_secs_f64() * 1000.0,
    );
    if log.compacting {
        text.push_str(", compacting");
    }
    if log.damaged_pages > 0 {
        text.push_str(&format!(", {} pages damaged", log.damaged_pages));
    }
    text
}

fn regions(sample: &server::Sample, rates: Option<&Rates>) -> Table {
    let header = [
        "client",
        "region",
        "stored",
        "quota",
        "streams",
        "stores",
        "loads",
        "frees",
        "not found",
        "refused",
        "bad crc",
        "stores/s",
        "loads/s",
        "frees/s",
    ];
    let columns = if rates.is_some() {
        header.len()
    } else {
        header.len().saturating_sub(3)
    };
    let mut table = table(header.get(..columns).unwrap_or(&header), 2);
    for region in &sample.report.regions {
        let done = &region.operations;
        let refused = [done.refused_full, done.refused_quota, done.refused_draining];
        let mut row = vec![
            region.client.clone(),
            region.region.clone(),
            size(region.pages),
            size(region.quota_pages),
            format!("{}/{}", region.connected.len(), region.streams),
            done.stores.to_string(),
            done.loads.to_string(),
            done.frees.to_string(),
            done.not_found.to_string(),
            refused.iter().sum::<u64>().to_string(),
            done.crc_errors.to_string(),
        ];
        if let Some(rates) = rates {
            let of_region = rates.regions.get(&key(region)).copied().unwrap_or_default();
            row.extend(of_region.map(|number| rate(Some(number))));
        }
        table.add_row(row);
    }
    table
}

fn connections(sample: &server::Sample) -> Table {
    let mut table = table(&["client", "region", "peer", "stream", "executed"], 3);
    for region in &sample.report.regions {
        for stream in &region.connected {
            table.add_row([
                region.client.clone(),
                region.region.clone(),
                stream.peer.clone(),
                stream.stream.to_string(),
                stream.executed.to_string(),
            ]);
        }
    }
    table
}

/// With a mirror: the two servers, and what is not as it should be.
fn mirror(sample: &module::Sample) -> Option<String> {
    let address = plain(sample.get("mirror")?);
    let number = |key: &str| match sample.get(key) {
        Some(Value::Number(number)) => *number,
        _ => 0,
    };
    let primary = sample.get("server").map_or_else(String::new, plain);
    let forwarded = number("mirror_forwarded") > 0;
    let mut text = format!("primary {primary}, mirror {address}\n");
    if forwarded {
        let states = sample.0.iter().filter(|(key, _)| {
            let rest = key.strip_prefix("mirror_link.");
            rest.is_some_and(|rest| rest.ends_with(".state"))
        });
        let (read, all) = states.fold((0, 0), |(read, all), (_, state)| {
            (read + usize::from(plain(state) == "reads"), all + 1)
        });
        text.push_str(&format!(
            "the primary forwards to the mirror; {read} of {all} links from here can read there, too\n"
        ));
    }
    if number("mirror_strict") > 0 {
        text.push_str("mirror_strict: no page is stored that only one of them would hold\n");
    }
    let mut missing = Vec::new();
    for (name, prefix, key) in [
        ("primary", "link.", "behind_clusters_primary"),
        ("mirror", "mirror_link.", "behind_clusters_mirror"),
    ] {
        let of_it = |(key, _): &&(String, Value)| {
            let rest = key.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.ends_with(".state"))
        };
        let links: Vec<_> = sample.0.iter().filter(of_it).collect();
        let up = links.iter().filter(|(_, state)| plain(state) == "up");
        let up = up.count();
        if up < links.len() && (name == "primary" || !forwarded) {
            missing.push(format!("{name}: {up} of {} links are up", links.len()));
        }
        let behind = number(key);
        if behind > 0 {
            missing.push(format!(
                "{name}: lacks pages of {behind} clusters of swap (of 2 MiB each), which are being copied \
                 from the other server while both are there"
            ));
        }
    }
    if number("degraded") > 0 {
        text.push_str("degraded: not every page is on both servers, or a server is away\n");
    }
    for line in missing {
        text.push_str(&format!("  {line}\n"));
    }
    Some(text)
}

/// What the module said.
pub fn module(sample: &module::Sample, rates: Option<&BTreeMap<String, f64>>) -> String {
    let mut counters = table(&["module", "count", "size", "per second"], 1);
    let mut links: BTreeMap<(u64, String), BTreeMap<String, String>> = BTreeMap::new();
    let mut histograms = String::new();
    for (key, value) in &sample.0 {
        match (link_of(key), value) {
            (Some((number, name)), value) => {
                // By number where it is one, so that 10 comes after 9.
                let number = (number.parse().unwrap_or(u64::MAX), number.to_owned());
                links.entry(number).or_default().insert(name, plain(value));
            }
            (None, Value::Buckets(counts)) => histograms.push_str(&histogram(key, counts)),
            (None, Value::Number(count)) => {
                let bytes = match key.ends_with("_pages") {
                    true => size(*count),
                    false if key.ends_with("_bytes") => Size(*count).to_string(),
                    false => "-".to_owned(),
                };
                let rate = rate(rates.and_then(|rates| rates.get(key)).copied());
                counters.add_row([key.clone(), count.to_string(), bytes, rate]);
            }
            (None, Value::Text(text)) => {
                counters.add_row([key.clone(), text.clone(), "-".into(), "-".into()]);
            }
        }
    }
    let mut text = mirror(sample).map_or_else(String::new, |text| format!("{text}\n"));
    if let Some(line) = compression(sample) {
        text.push_str(&format!("{line}\n"));
    }
    text.push_str(&format!("{counters}\n"));
    if !links.is_empty() {
        text.push_str(&format!("\n{}\n", link_table(&links)));
    }
    text.push_str(&histograms);
    text
}

/// What compressing has saved, in one line; `None` where there is none.
fn compression(sample: &module::Sample) -> Option<String> {
    let number = |key| match sample.get(key) {
        Some(Value::Number(number)) => Some(*number),
        _ => None,
    };
    let (pages, bytes) = (number("compressed_pages")?, number("compressed_bytes")?);
    let page = u64::try_from(PAGE_SIZE).unwrap_or(4096);
    let whole = pages.saturating_mul(page);
    let percent = bytes.saturating_mul(100).checked_div(whole).unwrap_or(0);
    let rest = number("incompressible_pages")?;
    Some(format!(
        "lz4: {pages} pages sent in {}, {percent}% of what they are; {rest} sent as they are",
        Size(bytes)
    ))
}

/// A link's number and what is said of it; of the mirror's link of the same number, as `mirror ...`.
fn link_of(key: &str) -> Option<(&str, String)> {
    let (rest, of) = match key.strip_prefix("mirror_link.") {
        Some(rest) => (rest, "mirror "),
        None => (key.strip_prefix("link.")?, ""),
    };
    let (number, name) = rest.split_once('.')?;
    Some((number, format!("{of}{name}")))
}

/// A value as text.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Buckets(counts) => format!("{counts:?}"),
    }
}

fn link_table(links: &BTreeMap<(u64, String), BTreeMap<String, String>>) -> Table {
    let mut names: Vec<&str> = Vec::new();
    // State and peer first: they are what one looks for.
    let known: Vec<&str> = ["state", "peer", "mirror state", "mirror peer"]
        .into_iter()
        .filter(|name| links.values().any(|l| l.contains_key(*name)))
        .collect();
    let left = known.len().saturating_add(1);
    let all = links
        .values()
        .flat_map(|link| link.keys().map(String::as_str));
    for name in known.into_iter().chain(all) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let header: Vec<&str> = std::iter::once("link")
        .chain(names.iter().copied())
        .collect();
    let mut table = table(&header, left);
    for ((_, number), link) in links {
        let values = names
            .iter()
            .map(|name| link.get(*name).cloned().unwrap_or_else(|| "-".into()));
        table.add_row(std::iter::once(number.clone()).chain(values));
    }
    table
}

/// A histogram by powers of two: bucket `i` counts from 2^(i-1) up to 2^i, bucket 0 what is below 1.
fn histogram(key: &str, counts: &[u64]) -> String {
    let (Some(first), Some(last)) = (
        counts.iter().position(|&n| n > 0),
        counts.iter().rposition(|&n| n > 0),
    ) else {
        return format!("\n{key}: none\n");
    };
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let units = ["ns", "us"];
    let unit = units
        .into_iter()
        .find(|unit| key.contains(&format!("_{unit}")));
    let unit = unit.unwrap_or_default();
    let mut text = format!("\n{key}\n");
    for (bucket, count) in counts
        .iter()
        .enumerate()
        .take(last.saturating_add(1))
        .skip(first)
    {
        let below = u32::try_from(bucket)
            .ok()
            .and_then(|bucket| 1_u64.checked_shl(bucket));
        let width = count.saturating_mul(BAR).div_ceil(most);
        let bar = "#".repeat(usize::try_from(width).unwrap_or(0));
        let label = below.map_or_else(|| "more".to_owned(), |below| format!("< {below} {unit}"));
        text.push_str(&format!("{label:>16} {count:>10} {bar}\n"));
    }
    text
}

fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compressing_saves_is_said_in_a_line() {
        let text = "compressed_pages 100\ncompressed_bytes 204800\nincompressible_pages 7\n";
        let line = compression(&module::parse(text)).unwrap();
        assert!(
            line.starts_with("lz4: 100 pages sent in 200 KiB, 50% "),
            "{line}"
        );
        assert!(line.ends_with("; 7 sent as they are"), "{line}");
        let none = "compressed_pages 0\ncompressed_bytes 0\nincompressible_pages 0\n";
        assert!(compression(&module::parse(none)).unwrap().contains(" 0% "));
        assert_eq!(compression(&module::parse("stored_pages 1\n")), None);
    }

    #[test]
    fn pages_that_came_compressed_are_counted_beside_what_they_take() {
        let report = Report {
            capacity_pages: 1024,
            used_pages: 100,
            ..Report::default()
        };
        let shown = |stored_pages| {
            let report = Report {
                stored_pages,
                ..report.clone()
            };
            let sample = server::Sample {
                address: ([127, 0, 0, 1], 7170).into(),
                report,
            };
            server(&sample, None)
        };
        assert!(!shown(100).contains("stored in it"));
        assert!(shown(230).contains("stored in it"));
        assert!(shown(230).contains(" 230 "));
    }

    #[test]
    fn a_histogram_has_a_bar_for_each_bucket_between_the_first_and_the_last_used() {
        let text = histogram("load_us_log2", &[0, 0, 10, 0, 5, 0]);
        let lines: Vec<&str> = text.trim().lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(
            lines[1].contains("< 4 us") && lines[1].ends_with(&"#".repeat(40)),
            "{text}"
        );
        assert!(
            lines[2].contains("< 8 us") && lines[2].trim_end().ends_with('0'),
            "{text}"
        );
        assert!(
            lines[3].contains("< 16 us") && lines[3].ends_with(&"#".repeat(20)),
            "{text}"
        );
        assert!(histogram("fault_answer_ns_log2", &[0, 1]).contains("< 2 ns"));
        assert!(histogram("x_log2", &[0; 64]).contains("none"));
        assert!(histogram("x_log2", &[1; 70]).contains("more"));
    }
}
