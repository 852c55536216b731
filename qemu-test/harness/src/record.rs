// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Puts what a benchmark measured into `build/bench/results.json`, or, what a first look did, into
//! `build/bench/quick/results.json`, with the machine and what it did besides, and has it drawn.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};
use qemu_test_results::{About, Machine, Part, Results};

use crate::boot::QEMU;
use crate::tree::Tree;

/// Above this load, before anything is measured, the machine is called busy.
const BUSY: f64 = 0.5;

/// Where a tree's results are: of whole runs.
pub fn place(tree: &Tree) -> PathBuf {
    place_in(&tree.place("bench"), false)
}

/// A first look, of minutes, takes no whole run's place, of hours.
fn place_in(bench: &Path, quick: bool) -> PathBuf {
    let directory = match quick {
        true => bench.join("quick"),
        false => bench.to_owned(),
    };
    directory.join("results.json")
}

/// A part that is being measured.
pub struct Recording {
    place: PathBuf,
    results: Results,
    about: About,
}

impl Recording {
    /// Begins: notes what the machine is and does, and reads the other parts, so that a damaged file is found before
    /// minutes are spent.
    pub fn begin(tree: &Tree, quick: bool) -> Result<Self> {
        let place = place_in(&tree.place("bench"), quick);
        let results = Results::read(&place)?;
        let load = load()?;
        let [now, ..] = load;
        if now > BUSY {
            println!("the machine is busy (load {now}): what it does besides will be seen in the figures");
        }
        let about = About {
            commit: tree.revision(),
            date: said(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?,
            quick,
            machine: machine(tree)?,
            load_before: load,
            load_after: load,
        };
        Ok(Self {
            place,
            results,
            about,
        })
    }

    /// Puts what was measured into its part, and draws.
    pub fn keep<T>(
        self,
        tree: &Tree,
        samples: T,
        part: fn(&mut Results) -> &mut Option<Part<T>>,
    ) -> Result<()> {
        let place = self.put(samples, part)?;
        println!("\nraw: {}", tree.short(&place));
        let beside = place.parent().unwrap_or(&place);
        draw(tree, &place, beside)
    }

    fn put<T>(
        mut self,
        samples: T,
        part: fn(&mut Results) -> &mut Option<Part<T>>,
    ) -> Result<PathBuf> {
        self.about.load_after = load()?;
        let about = self.about;
        *part(&mut self.results) = Some(Part { about, samples });
        if let Some(directory) = self.place.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("making {}", directory.display()))?;
        }
        self.results.write(&self.place)?;
        Ok(self.place)
    }
}

/// Draws a file of results into a directory.
pub fn draw(tree: &Tree, results: &Path, directory: &Path) -> Result<()> {
    // A program of its own, which `make` builds for those who need it: it takes a minute.
    let program = tree.file("qemu-test-pictures")?;
    let status = Command::new(&program)
        .args([results, directory])
        .status()
        .with_context(|| format!("running {}", program.display()))?;
    ensure!(status.success(), "{}: {status}", program.display());
    Ok(())
}

/// This one.
fn machine(tree: &Tree) -> Result<Machine> {
    let processors = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    let memory = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading its release")?;
    let guest_kernel = fs::read_to_string(tree.file("kernel/release")?)?;
    let qemu = said(tree.in_root().args([QEMU, "--version"]))?;
    let cpu = fields(&processors, "model name").next();
    let ram_kib = fields(&memory, "MemTotal")
        .find_map(|value| value.strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(Machine {
        cpu: cpu.unwrap_or("unknown").to_owned(),
        cpus: fields(&processors, "processor").count(),
        ram_mib: ram_kib.context("no MemTotal in /proc/meminfo")? / 1024,
        kernel: kernel.trim().to_owned(),
        qemu: qemu.lines().next().unwrap_or_default().to_owned(),
        guest_kernel: guest_kernel.trim().to_owned(),
    })
}

/// The values of lines such as `name : value`.
fn fields<'t>(text: &'t str, name: &'t str) -> impl Iterator<Item = &'t str> {
    text.lines().filter_map(move |line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

/// What a program prints.
fn said(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The load averages of 1, 5 and 15 minutes.
fn load() -> Result<[f64; 3]> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<f64>);
    let mut next = || numbers.next()?.ok();
    let load = next().zip(next()).zip(next());
    let ((one, five), fifteen) = load.with_context(|| format!("/proc/loadavg says {text}"))?;
    Ok([one, five, fifteen])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_look_leaves_a_whole_run_where_it_is() {
        let bench = tempfile::tempdir().unwrap();
        let put = |quick| {
            let place = place_in(bench.path(), quick);
            let about = serde_json::json!({
                "commit": "0123456", "date": "2026-11-30T00:00:00Z", "quick": quick,
                "machine": { "cpu": "", "cpus": 1, "ram_mib": 1, "kernel": "", "qemu": "", "guest_kernel": "" },
                "load_before": [0.0, 0.0, 0.0], "load_after": [0.0, 0.0, 0.0],
            });
            let recording = Recording {
                results: Results::read(&place).unwrap(),
                about: serde_json::from_value(about).unwrap(),
                place,
            };
            recording
                .put(Vec::new(), |results| &mut results.page)
                .unwrap()
        };
        let whole = put(false);
        let quick = put(true);
        let is_quick = |place: &Path| Results::read(place).unwrap().page.unwrap().about.quick;
        assert!(!is_quick(&whole));
        assert!(is_quick(&quick));
    }

    #[test]
    fn a_value_is_found_by_its_whole_name() {
        let text = "processor\t: 0\nmodel name\t: A: B\nprocessor\t: 1\n";
        assert_eq!(fields(text, "processor").collect::<Vec<_>>(), ["0", "1"]);
        assert_eq!(fields(text, "model name").next(), Some("A: B"));
        assert_eq!(fields(text, "model").next(), None);
    }
}
