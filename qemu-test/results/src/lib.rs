// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `build/bench/results.json`: all that was measured, raw, with the machine that it was measured on.
//!
//! There is a part for each of the benchmarks, and a part that is run again takes the place of the older one. Tables,
//! pictures and the copy in `Documentation/benchmarks/run` are made of this file alone. It is a crate of its own
//! because the harness writes the file and another program draws it.

pub mod figures;
pub mod race;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
pub use qemu_test_wire::Samples;
use serde::{Deserialize, Serialize};

use crate::figures::float;
use crate::race::Raced;

/// All that was measured; a part that was never run is not there.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// `bench`: what a page takes, beside others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<Part<Vec<Samples>>>,
    /// `bench-links`: what a page takes over narrow links, beside others; `fault_at_100_ns` is at 100 Mb/s both ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<Part<Vec<Samples>>>,
    /// `bench-server`: the server natively, beside others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Part<Raced>>,
    /// How long applications take with less and less memory: samples such as `redis_50_ns`, nanoseconds of redis with
    /// 50% of what it needs. With all of it, `redis_100_ns`, nobody is swapped to, and `who` is `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apps: Option<Part<Vec<Samples>>>,
}

/// One part, and how it came about.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part<T> {
    /// How it came about.
    #[serde(flatten)]
    pub about: About,
    /// The raw values.
    pub samples: T,
}

/// How a part came about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// What was checked out, as `git describe --always --dirty` says it; `unknown` without git.
    pub commit: String,
    /// When it began, UTC, such as `2026-01-31T12:00:00Z`.
    pub date: String,
    /// Whether it was a first look only, with fewer rounds and contenders.
    pub quick: bool,
    /// Where it ran.
    pub machine: Machine,
    /// The load averages of 1, 5 and 15 minutes before it began: near 0 if the machine had nothing else to do.
    pub load_before: [f64; 3],
    /// The same at its end, when what was measured counts, too.
    pub load_after: [f64; 3],
}

/// The machine that measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name, as /proc/cpuinfo tells it.
    pub cpu: String,
    /// How many of them there are.
    pub cpus: usize,
    /// All of its RAM, in MiB.
    pub ram_mib: u64,
    /// Its kernel's release.
    pub kernel: String,
    /// QEMU, which runs the guests, without KVM; the part `server` has no guests.
    pub qemu: String,
    /// The release of the guests' kernel.
    pub guest_kernel: String,
}

impl Results {
    /// Of a file; empty if there is none yet.
    ///
    /// # Errors
    /// The file cannot be read, or is none of this version's results.
    pub fn read(place: &Path) -> Result<Self> {
        let text = match fs::read(place) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default())
            }
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", place.display()))
            }
        };
        serde_json::from_slice(&text).with_context(|| {
            let place = place.display();
            format!("{place} is damaged, or another version's; move it away and measure again")
        })
    }

    /// Writes it so that there is a whole file at any time.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, place: &Path) -> Result<()> {
        let new = place.with_extension("json.new");
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        fs::write(&new, text).with_context(|| format!("writing {}", new.display()))?;
        fs::rename(&new, place).with_context(|| format!("renaming {}", new.display()))
    }

    /// These, with the newer ones' parts in place of their own.
    #[must_use]
    pub fn replaced_by(self, newer: Self) -> Self {
        Self {
            page: newer.page.or(self.page),
            links: newer.links.or(self.links),
            server: newer.server.or(self.server),
            apps: newer.apps.or(self.apps),
        }
    }

    /// How each part that there is came about, by its name.
    #[must_use]
    pub fn abouts(&self) -> Vec<(&'static str, &About)> {
        let page = self.page.as_ref().map(|part| ("page", &part.about));
        let server = self.server.as_ref().map(|part| ("server", &part.about));
        let apps = self.apps.as_ref().map(|part| ("apps", &part.about));
        let links = self.links.as_ref().map(|part| ("links", &part.about));
        [page, links, server, apps].into_iter().flatten().collect()
    }
}

impl About {
    /// What it was measured with, in a line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self {
            commit,
            date,
            machine,
            ..
        } = self;
        let day = date.split('T').next().unwrap_or_default();
        let Machine { cpu, cpus, .. } = machine;
        let ram_gib = float(machine.ram_mib) / 1024.0;
        let [before, ..] = self.load_before;
        let extent = if self.quick { ", a quick run" } else { "" };
        format!("commit {commit}, {day}{extent}; {cpus} x {cpu}, {ram_gib:.0} GiB, load before {before}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_up() -> Results {
        let place = concat!(env!("CARGO_MANIFEST_DIR"), "/made-up.json");
        Results::read(Path::new(place)).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("results.json");
        let results = made_up();
        results.write(&place).unwrap();
        let again = Results::read(&place).unwrap();
        assert_eq!(format!("{results:?}"), format!("{again:?}"));
        let names = again.abouts().into_iter().map(|(name, _)| name);
        assert_eq!(names.collect::<Vec<_>>(), ["page", "server", "apps"]);
    }

    #[test]
    fn a_part_replaces_the_older_one_and_leaves_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("results.json");
        made_up().write(&place).unwrap();
        let mut results = Results::read(&place).unwrap();
        let mut about = results.page.take().unwrap().about;
        about.commit = "7654321".to_owned();
        let samples = Vec::new();
        results.page = Some(Part { about, samples });
        results.write(&place).unwrap();
        let results = Results::read(&place).unwrap();
        let commits = results.abouts().into_iter();
        let commits = commits.map(|(_, about)| about.commit.as_str());
        assert_eq!(
            commits.collect::<Vec<_>>(),
            ["7654321", "0123456", "0123456"]
        );
        assert!(results.page.unwrap().samples.is_empty());
        assert!(!results.apps.unwrap().samples.is_empty());
    }

    #[test]
    fn newer_parts_replace_the_older_ones_and_only_those() {
        let newer = Results {
            page: made_up().apps,
            ..Results::default()
        };
        let first =
            |part: &Option<Part<Vec<Samples>>>| format!("{:?}", part.as_ref().unwrap().samples[0]);
        assert_ne!(first(&newer.page), first(&made_up().page));
        let merged = made_up().replaced_by(newer);
        assert_eq!(first(&merged.page), first(&made_up().apps));
        assert_eq!(first(&merged.apps), first(&made_up().apps));
        let names = merged.abouts().into_iter().map(|(name, _)| name);
        assert_eq!(names.collect::<Vec<_>>(), ["page", "server", "apps"]);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it_and_a_missing_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("results.json");
        assert!(Results::read(&place).unwrap().abouts().is_empty());
        for text in [
            r#"{"page":{"commit":"01"#,
            "",
            "\0\0",
            // What older versions wrote.
            r#"[{"who":"memsrv","what":"fault_ns","round":0,"values":[1]}]"#,
            r#"{"revision":"0123456","samples":[]}"#,
        ] {
            fs::write(&place, text).unwrap();
            let error = format!("{:#}", Results::read(&place).unwrap_err());
            assert!(error.contains("results.json is damaged"), "{text}: {error}");
        }
    }
}
