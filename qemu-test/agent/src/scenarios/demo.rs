// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The demo: real programs, each with several times the memory that it is given, side by side; then one
//! of ours with four times what it is given; everything verified.

use std::sync::mpsc;
use std::time::Instant;

use anyhow::{anyhow, ensure, Context, Result};
use qemu_test_wire::Row;

use super::common::{nothing_remote, small};
use super::programs::{compile, redis, sort, Ran};
use crate::guest::{Cgroup, Guest, Swap, MIB};

/// Pages of the pattern program (128 MiB), and the MiB that it is given.
const PATTERN_PAGES: usize = 32 * 1024;
const PATTERN_LIMIT_MIB: u64 = 32;
/// Room for the pattern and what else is away at that time.
const CAPACITY: &str = "768M";

/// What is sorted: 8 MiB in long lines.
const SORT_LINES: u64 = 2048;
const SORT_LINE_BYTES: usize = 4096;

/// One program's part: it runs in its cgroup and counts the bytes that are wrong.
struct Part {
    name: &'static str,
    what: &'static str,
    size_mib: u64,
    limit_mib: u64,
    run: fn(&Cgroup) -> Result<Ran>,
}

const PARTS: &[Part] = &[
    Part {
        name: "redis",
        what: "redis-server, every value read back",
        size_mib: 32,
        limit_mib: 10,
        run: redis::run,
    },
    Part {
        name: "sort",
        what: "sort of a file, checksum compared",
        size_mib: 8,
        limit_mib: 4,
        run: sort::run,
    },
    Part {
        name: "gcc",
        what: "gcc, object file compared",
        size_mib: 42,
        limit_mib: 14,
        run: compile::run,
    },
];

/// The whole of it.
pub fn run(guest: &mut Guest) -> Result<()> {
    prepare(guest)?;
    guest.host.start_server(CAPACITY)?;
    let disk = Swap::on(0, 10)?;
    guest.insmod("")?;
    guest
        .host
        .note("insmod memsrv.ko server=10.77.0.1: what is evicted goes to the server now")?;
    let before = disk.pages_written()?;
    let wrong = programs(guest)? + pattern(guest)?;
    let seconds = disk.off()?;
    guest
        .host
        .note(format!("swapoff: everything is back ({seconds:.0} s)"))?;
    let server_pages = guest.host.server_pages()?;
    for (name, value) in [
        ("out", guest.stat("stored_pages")?),
        ("in", guest.stat("loaded_pages")?),
        ("wrong", wrong),
        ("disk", disk.pages_written()? - before),
        ("server_pages", server_pages),
    ] {
        guest.figures.insert(name.to_owned(), value);
    }
    for (key, value) in crate::guest::module::stats()? {
        if key.starts_with("refused_") || key.starts_with("failed_") {
            guest.figures.insert(key, value);
        }
    }
    nothing_remote(guest)?;
    guest.rmmod()?;
    guest.host.note("rmmod memsrv: gone")?;
    guest.host.stop_server()?;
    ensure!(wrong == 0, "{wrong} bytes are wrong");
    Ok(())
}

/// What the parts compare with is made before anything is evicted, on both processors.
fn prepare(guest: &mut Guest) -> Result<()> {
    std::thread::scope(|scope| {
        let compiling = scope.spawn(compile::prepare);
        sort::prepare(SORT_LINES, SORT_LINE_BYTES)?;
        compiling
            .join()
            .map_err(|_| anyhow!("the preparing thread panicked"))?
    })?;
    // The programs' own text stays in the page cache, outside the cgroups: what is to be shown is memory.
    guest
        .host
        .note("made a file to sort and a program to compile, and what they should give")
}

/// All real programs at once, each under its own limit.
fn programs(guest: &mut Guest) -> Result<u64> {
    let mut wrong = 0;
    let mut cgroups = Vec::new();
    for part in PARTS {
        cgroups.push((part, guest.cgroup(part.name, part.limit_mib)?));
    }
    let names: Vec<_> = PARTS.iter().map(|part| part.name).collect();
    guest
        .host
        .note(format!("running {} side by side", names.join(", ")))?;
    let (sender, ended) = mpsc::channel();
    std::thread::scope(|scope| {
        for (part, cgroup) in &cgroups {
            let sender = sender.clone();
            scope.spawn(move || {
                let started = Instant::now();
                let result = (part.run)(cgroup);
                // The receiver is gone only when another part has failed already.
                let _ = sender.send((*part, cgroup, result, started.elapsed().as_secs_f64()));
            });
        }
        drop(sender);
        for (part, cgroup, result, seconds) in &ended {
            let differing = result.with_context(|| part.what)?.wrong;
            wrong += differing;
            let away = cgroup.number("memory.swap.peak")? / MIB;
            guest.host.row(Row {
                what: part.what.to_owned(),
                size_mib: part.size_mib,
                limit_mib: part.limit_mib,
                seconds,
                result: words(differing, away),
            })?;
        }
        Ok::<(), anyhow::Error>(())
    })?;
    Ok(wrong)
}

fn words(wrong: u64, away_mib: u64) -> String {
    match wrong {
        0 => format!("right; up to {away_mib} MiB away"),
        wrong => format!("{wrong} BYTES WRONG; up to {away_mib} MiB away"),
    }
}

fn pattern(guest: &mut Guest) -> Result<u64> {
    guest.host.note("running the pattern program")?;
    let started = Instant::now();
    let cgroup = guest.cgroup("pattern", PATTERN_LIMIT_MIB)?;
    let mut filler = guest.filler(&cgroup, small(PATTERN_PAGES, 7))?;
    filler.fill()?;
    filler.perform("verify")?;
    let wrong = filler.wrong;
    filler.end()?;
    let away = cgroup.number("memory.swap.peak")? / MIB;
    let pages = u64::try_from(PATTERN_PAGES)?;
    guest.host.row(Row {
        what: "pattern, every word verified".to_owned(),
        size_mib: pages * 4096 / MIB,
        limit_mib: PATTERN_LIMIT_MIB,
        seconds: started.elapsed().as_secs_f64(),
        result: words(wrong, away),
    })?;
    Ok(wrong)
}
