// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The demo: real programs, each with several times the memory that it is given, one after the other,
//! then one of ours with several times the guest's whole RAM; everything verified.

mod compile;
mod redis;
mod sort;

use std::time::Instant;

use anyhow::{ensure, Result};
use qemu_test_wire::Row;

use super::common::{nothing_remote, small};
use crate::guest::{vm, Guest, Swap, MIB};

/// Pages of the pattern program: twice the guest's 256 MiB.
const PATTERN_PAGES: usize = 128 * 1024;
/// Room for the pattern and what else is away at that time.
const CAPACITY: &str = "768M";

/// One program's part: what is wrong after it, in bytes.
struct Part {
    what: &'static str,
    size_mib: u64,
    limit_mib: u64,
    run: fn(&mut Guest, u64) -> Result<u64>,
}

const PARTS: &[Part] = &[
    Part {
        what: "redis-server, every value read back",
        size_mib: 64,
        limit_mib: 16,
        run: redis::run,
    },
    Part {
        what: "sort of a file, checksum compared",
        size_mib: 24,
        limit_mib: 6,
        run: sort::run,
    },
    Part {
        what: "gcc, object file compared",
        size_mib: 64,
        limit_mib: 16,
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
        .note("insmod memsrv.ko server=10.77.0.1: eviction goes to the server from here")?;
    let before = disk.pages_written()?;
    let mut wrong = 0;
    for part in PARTS {
        wrong += one(guest, part)?;
    }
    wrong += pattern(guest)?;

    let seconds = disk.off()?;
    guest
        .host
        .note(format!("swapoff: everything back ({seconds:.0} s)"))?;
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
    guest.host.note("rmmod memsrv")?;
    let left = guest.host.server_pages()?;
    guest.host.stop_server()?;
    ensure!(wrong == 0, "{wrong} bytes are wrong");
    ensure!(
        left == 0 && server_pages == 0,
        "{server_pages} pages were left on the server"
    );
    Ok(())
}

/// What the parts compare with is made before anything is evicted.
fn prepare(guest: &mut Guest) -> Result<()> {
    sort::prepare()?;
    compile::prepare()?;
    vm::drop_caches()?;
    guest
        .host
        .note("a file to sort and a program to compile are made")
}

fn one(guest: &mut Guest, part: &Part) -> Result<u64> {
    let started = Instant::now();
    let out = guest.stat("stored_pages")?;
    let wrong = (part.run)(guest, part.limit_mib)?;
    let out = guest.stat("stored_pages")? - out;
    guest.host.row(Row {
        what: part.what.to_owned(),
        size_mib: part.size_mib,
        limit_mib: part.limit_mib,
        seconds: started.elapsed().as_secs_f64(),
        result: words(wrong, out),
    })?;
    Ok(wrong)
}

fn words(wrong: u64, out: u64) -> String {
    match wrong {
        0 => format!("right; {out} pages out"),
        wrong => format!("{wrong} BYTES WRONG; {out} pages out"),
    }
}

fn pattern(guest: &mut Guest) -> Result<u64> {
    let started = Instant::now();
    let out = guest.stat("stored_pages")?;
    let cgroup = guest.cgroup("pattern", 0)?;
    let mut filler = guest.filler(&cgroup, small(PATTERN_PAGES, 7))?;
    filler.fill()?;
    filler.perform("verify")?;
    let wrong = filler.wrong;
    filler.end()?;
    let out = guest.stat("stored_pages")? - out;
    let pages = u64::try_from(PATTERN_PAGES)?;
    guest.host.row(Row {
        what: "pattern, every word verified".to_owned(),
        size_mib: pages * 4096 / MIB,
        limit_mib: 256,
        seconds: started.elapsed().as_secs_f64(),
        result: words(wrong, out),
    })?;
    Ok(wrong)
}
