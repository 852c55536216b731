// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The demo: one guest, one scenario, everything it says shown, and the figures in the last line.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use qemu_test_wire::Row;

use crate::suite::{self, Audience};
use crate::tree::Tree;

struct Person {
    started: Instant,
    rows: Vec<Row>,
}

impl Audience for Person {
    fn note(&mut self, text: &str) {
        println!("  {:3}s {text}", self.started.elapsed().as_secs());
    }

    fn row(&mut self, row: &Row) {
        self.note(&format!(
            "{}: {} ({:.0} s)",
            row.what, row.result, row.seconds
        ));
        self.rows.push(row.clone());
    }
}

/// Runs it; `since` is when the demo began, in seconds since 1970.
pub fn run(tree: &Tree, since: Option<u64>) -> Result<bool> {
    let scenario = &tree.scenario("demo")?;
    let mut person = Person {
        started: Instant::now(),
        rows: Vec::new(),
    };
    let machine = &scenario.machine;
    println!(
        "\na guest with {} MiB of RAM and a {} MiB swap disk; memsrvd outside, over a virtual network",
        machine.memory_mib,
        machine.swap_mib.iter().sum::<u32>()
    );
    let mut guest = suite::boot(tree, machine, "demo-boot")?;
    person.note("booted (QEMU without KVM)");
    let logs = tree.logs("demo")?;
    let verdict = suite::run_one(tree, &mut guest, scenario, &logs, &mut person)?;
    if verdict.usable {
        guest.power_off()?;
    }
    println!(
        "\n  {:34} {:>8} {:>8} {:>7}  result",
        "program", "needs", "given", "time"
    );
    for row in &person.rows {
        println!(
            "  {:34} {:>4} MiB {:>4} MiB {:>5.0} s  {}",
            row.what, row.size_mib, row.limit_mib, row.seconds, row.result
        );
    }
    println!();
    if let Some(error) = &verdict.error {
        println!("the demo failed: {error}");
        println!("logs: {}", tree.short(&logs));
    }
    let figure = |name: &str| match verdict.figures.get(name) {
        Some(number) => number.to_string(),
        None => "?".to_owned(),
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let seconds = match since {
        Some(since) => now.saturating_sub(since),
        None => person.started.elapsed().as_secs(),
    };
    println!(
        "demo: out={} in={} wrong={} disk={} server_pages={} seconds={seconds}",
        figure("out"),
        figure("in"),
        figure("wrong"),
        figure("disk"),
        figure("server_pages")
    );
    Ok(verdict.error.is_none())
}
