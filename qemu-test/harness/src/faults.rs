// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The fault matrix: runs its cells, prints a table for each way of keeping pages, and writes the same to
//! `build/faults.md`, and to `build/faults.json` for programs.
//!
//! What cells there are, and which of them cannot arise for what reason, the agent says (`qemu-test-agent list`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::Table;
use qemu_test_wire::{Cell, Scenario};

use crate::lanes::{self, Done, Manner};
use crate::suite;
use crate::tree::Tree;

/// Runs all cells that can arise, or those that `filter` means.
pub fn run(tree: &Tree, filter: &[String], manner: Manner) -> Result<bool> {
    let cells: Vec<Scenario> = tree
        .scenarios()?
        .into_iter()
        .filter(|scenario| scenario.cell.is_some())
        .collect();
    let chosen = suite::meant(cells.clone(), filter)?;
    println!("{} cells of {}", chosen.len(), cells.len());
    let ended = lanes::run(tree, chosen, manner)?;
    let matrix = Matrix::new(&cells, &ended.results);
    let tables = matrix.tables();
    println!("\n{tables}");
    let (passed, failed) = (ended.passed(), ended.failed());
    let seconds: f64 = ended.results.iter().map(|done| done.seconds).sum();
    let totals = format!(
        "{passed} passed, {failed} failed, {} cells cannot arise, {} were not run; {seconds:.0} s",
        matrix.impossible(),
        matrix.left_out()
    );
    let heading = heading(tree)?;
    let failures = matrix.failures();
    write(
        tree,
        "faults.md",
        &format!("{heading}\n{tables}\n{failures}{totals}\n"),
    )?;
    let mut json = serde_json::to_string_pretty(&matrix.json())?;
    json.push('\n');
    write(tree, "faults.json", &json)?;
    println!("{failures}{totals}\nwritten to build/faults.md and build/faults.json");
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn write(tree: &Tree, name: &str, text: &str) -> Result<()> {
    let path = tree.place(name);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

fn heading(tree: &Tree) -> Result<String> {
    let kernel =
        fs::read_to_string(tree.file("kernel/release")?).context("the kernel's release")?;
    let date = Command::new("date")
        .args(["-u", "+%Y-%m-%d %H:%M UTC"])
        .output()
        .context("running date")?;
    Ok(format!(
        "# Fault matrix\n\nKernel {}, memsrv {}, {}. A cell says how it ended and after how many seconds (QEMU \
         without KVM).\n`ok*`: programs may be ended by SIGBUS there; nowhere may a byte be wrong.\n",
        kernel.trim(),
        tree.revision(),
        String::from_utf8_lossy(&date.stdout).trim()
    ))
}

/// All cells, and how those that ran ended.
struct Matrix<'a> {
    cells: Vec<(&'a Scenario, &'a Cell, Option<&'a Done>)>,
}

impl<'a> Matrix<'a> {
    fn new(scenarios: &'a [Scenario], results: &'a [Done]) -> Self {
        let done: BTreeMap<&str, &Done> = results
            .iter()
            .map(|done| (done.name.as_str(), done))
            .collect();
        let cells = scenarios
            .iter()
            .filter_map(|scenario| {
                let cell = scenario.cell.as_ref()?;
                Some((scenario, cell, done.get(scenario.name.as_str()).copied()))
            })
            .collect();
        Self { cells }
    }

    fn impossible(&self) -> usize {
        let impossible = |(_, cell, _): &&(_, &Cell, _)| cell.reason.is_some();
        self.cells.iter().filter(impossible).count()
    }

    fn left_out(&self) -> usize {
        self.cells
            .iter()
            .filter(|(_, cell, done)| cell.reason.is_none() && done.is_none())
            .count()
    }

    /// A table for each mode of which anything can arise, a line for each other, and the reasons.
    fn tables(&self) -> String {
        let mut text = String::new();
        let mut reasons: Vec<&str> = Vec::new();
        for mode in distinct(self.cells.iter().map(|(_, cell, _)| cell.mode.as_str())) {
            let cells: Vec<_> = self
                .cells
                .iter()
                .filter(|(_, cell, _)| cell.mode == mode)
                .collect();
            let whys = distinct(cells.iter().map(|(_, cell, _)| cell.reason.as_deref()));
            if let [Some(why)] = whys.as_slice() {
                let _ = writeln!(text, "{mode}: {why} ({} cells)\n", cells.len());
                continue;
            }
            if cells.iter().all(|(_, _, done)| done.is_none()) {
                let _ = writeln!(text, "{mode}: not run\n");
                continue;
            }
            let moments = distinct(cells.iter().map(|(_, cell, _)| cell.moment.as_str()));
            let mut table = Table::new();
            table.load_preset(ASCII_MARKDOWN);
            table.set_header([mode].into_iter().chain(moments.iter().copied()));
            for fault in distinct(cells.iter().map(|(_, cell, _)| cell.fault.as_str())) {
                let mut row = vec![fault.to_owned()];
                for moment in &moments {
                    let cell = cells
                        .iter()
                        .find(|(_, cell, _)| cell.fault == fault && cell.moment == *moment);
                    row.push(cell.map_or_else(String::new, |cell| word(cell, &mut reasons)));
                }
                table.add_row(row);
            }
            let _ = writeln!(text, "{table}\n");
        }
        for (number, reason) in (1..).zip(&reasons) {
            let _ = writeln!(text, "[{number}] {reason}");
        }
        text
    }

    fn failures(&self) -> String {
        let mut text = String::new();
        for (scenario, _, done) in &self.cells {
            if let Some(error) = done.and_then(|done| done.error.as_ref()) {
                let first = error.lines().next().unwrap_or_default();
                let _ = writeln!(text, "- {}: {first}", scenario.name);
            }
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        self.cells
            .iter()
            .map(|(scenario, cell, done)| {
                let result = match (&cell.reason, done) {
                    (Some(_), _) => "cannot-arise",
                    (None, None) => "not-run",
                    (None, Some(done)) if done.error.is_none() => "ok",
                    (None, Some(_)) => "fail",
                };
                serde_json::json!({
                    "name": scenario.name,
                    "mode": cell.mode,
                    "fault": cell.fault,
                    "moment": cell.moment,
                    "memory_mib": scenario.machine.memory_mib,
                    "loss_allowed": cell.loss_allowed,
                    "result": result,
                    "reason": cell.reason,
                    "seconds": done.map(|done| done.seconds),
                    "figures": done.map(|done| &done.figures),
                    "error": done.and_then(|done| done.error.as_ref()),
                })
            })
            .collect()
    }
}

/// What a table says of a cell; a reason that is new gets the next number.
fn word<'a>(
    (_, cell, done): &(&'a Scenario, &'a Cell, Option<&'a Done>),
    reasons: &mut Vec<&'a str>,
) -> String {
    if let Some(reason) = cell.reason.as_deref() {
        let known = reasons.iter().position(|known| *known == reason);
        let index = known.unwrap_or_else(|| {
            reasons.push(reason);
            reasons.len() - 1
        });
        return format!("— [{}]", index + 1);
    }
    let star = if cell.loss_allowed { "*" } else { "" };
    match done {
        None => "not run".to_owned(),
        Some(done) if done.error.is_some() => format!("FAIL {:.0} s", done.seconds),
        Some(done) => format!("ok{star} {:.0} s", done.seconds),
    }
}

/// Each value once, in the order of its first coming.
fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use qemu_test_wire::{Machine, Purpose};

    fn cell(mode: &str, fault: &str, moment: &str, reason: Option<&str>) -> Scenario {
        Scenario {
            name: format!("fault-{mode}-{fault}-{moment}"),
            about: String::new(),
            machine: Machine {
                memory_mib: 128,
                cpus: 1,
                swap_mib: Vec::new(),
                purpose: Purpose::Test,
            },
            limit_s: 1,
            module: true,
            in_test: false,
            debug: false,
            cell: Some(Cell {
                mode: mode.to_owned(),
                fault: fault.to_owned(),
                moment: moment.to_owned(),
                loss_allowed: fault == "kill",
                reason: reason.map(str::to_owned),
            }),
        }
    }

    fn done(name: &str, error: Option<&str>) -> Done {
        Done {
            name: name.to_owned(),
            error: error.map(str::to_owned),
            figures: BTreeMap::new(),
            seconds: 7.0,
        }
    }

    #[test]
    fn the_table_tells_passed_failed_not_run_and_impossible_apart() {
        let cells = [
            cell("none", "kill", "eviction", None),
            cell("none", "kill", "resync", Some("one server")),
            cell("none", "stop", "eviction", None),
            cell("none", "stop", "resync", None),
            cell("dual", "kill", "eviction", None),
            cell("forwarded", "kill", "eviction", Some("not built")),
            cell("forwarded", "kill", "resync", Some("not built")),
        ];
        let results = [
            done("fault-none-kill-eviction", None),
            done("fault-none-stop-eviction", Some("3 bytes are wrong\nmore")),
        ];
        let matrix = Matrix::new(&cells, &results);
        assert_eq!(
            matrix.tables(),
            "| none | eviction | resync  |\n\
             |------|----------|---------|\n\
             | kill | ok* 7 s  | — [1]   |\n\
             | stop | FAIL 7 s | not run |\n\n\
             dual: not run\n\n\
             forwarded: not built (2 cells)\n\n\
             [1] one server\n"
        );
        assert_eq!(
            matrix.failures(),
            "- fault-none-stop-eviction: 3 bytes are wrong\n\n"
        );
        assert_eq!((matrix.impossible(), matrix.left_out()), (3, 2));
    }
}
