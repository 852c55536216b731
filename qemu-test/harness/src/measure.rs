// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Runs a scenario that measures.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use qemu_test_wire::Samples;

use crate::suite::{self, Audience};
use crate::tree::Tree;

/// Keeps what comes, in a file too: what takes an hour is not to be lost with its end.
struct Listener {
    samples: Vec<Samples>,
    sofar: File,
}

impl Listener {
    fn new(sofar: &Path) -> Result<Self> {
        Ok(Self {
            samples: Vec::new(),
            sofar: File::create(sofar).with_context(|| format!("making {}", sofar.display()))?,
        })
    }
}

impl Audience for Listener {
    fn note(&mut self, text: &str) {
        println!("  {text}");
    }

    fn samples(&mut self, samples: Samples) {
        let written = serde_json::to_string(&samples)
            .map_err(anyhow::Error::from)
            .and_then(|line| Ok(writeln!(self.sofar, "{line}")?));
        if let Err(error) = written {
            println!("not kept, should this run be interrupted: {error:#}");
        }
        self.samples.push(samples);
    }
}

/// Runs it in a guest of its own; `None`, and why is said, if it failed. What it has measured so far is in
/// `build/bench/NAME.jsonl`, a value of [`Samples`] in each line.
pub fn run(tree: &Tree, name: &str) -> Result<Option<Vec<Samples>>> {
    let scenario = tree.scenario(name)?;
    let sofar = tree.place("bench").join(format!("{name}.jsonl"));
    fs::create_dir_all(tree.place("bench")).context("making build/bench")?;
    let mut listener = Listener::new(&sofar)?;
    let mut guest = suite::boot(tree, &scenario.machine, &format!("{name}-boot"))?;
    let logs = tree.logs(name)?;
    let verdict = suite::run_one(tree, &mut guest, &scenario, &logs, &mut listener)?;
    if verdict.usable {
        guest.power_off()?;
    }
    if let Some(error) = verdict.error {
        println!("{name} failed: {error}\nlogs: {}", tree.short(&logs));
        println!("what it measured: {}", tree.short(&sofar));
        return Ok(None);
    }
    Ok(Some(listener.samples))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_so_far_is_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let sofar = directory.path().join("some.jsonl");
        let mut listener = Listener::new(&sofar).unwrap();
        for round in 0..2 {
            listener.samples(Samples {
                who: "memsrv".to_owned(),
                what: "fault_ns".to_owned(),
                round,
                values: vec![1, 2],
            });
        }
        let text = fs::read_to_string(&sofar).unwrap();
        let lines = text.lines().map(serde_json::from_str::<Samples>);
        let read: Vec<Samples> = lines.collect::<Result<_, _>>().unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", listener.samples));
        assert_eq!(read.len(), 2);
    }
}
