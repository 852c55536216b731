// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a page costs: instructions for each page evicted and each page faulted in, client and server in one
//! machine whose clock counts them. That does not depend on the machine that runs it, so it is the figure
//! that a change is held to.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use qemu_test_wire::{Samples, ToHost};

use super::contender::{self, Contender};
use crate::guest::ordered::Ordered;
use crate::guest::{vm, Cgroup, Guest};
use crate::touch::Touched;

/// How often each is measured, in turns.
const ROUNDS: usize = 4;
/// Pages of the program that is evicted: 64 MiB.
const PAGES: usize = 16384;
/// How many of them are faulted in, one by one.
const FAULTS: usize = 1024;

/// All contenders, in turns.
pub fn cost(guest: &mut Guest) -> Result<()> {
    vm::set_sysctl("vm/page-cluster", "0")?;
    for round in 0..ROUNDS {
        let pings = contender::floor(FAULTS)?;
        report(guest, "ping-pong", "fault_ns", round, pings)?;
        for who in [Contender::Memsrv, Contender::Nbd, Contender::Brd] {
            one(guest, who, round).with_context(|| format!("{}, round {round}", who.name()))?;
        }
        guest
            .host
            .note(format!("round {} of {ROUNDS}", round + 1))?;
    }
    Ok(())
}

fn one(guest: &mut Guest, who: Contender, round: usize) -> Result<()> {
    let running = who.begin(guest)?;
    let cgroup = guest.cgroup(&format!("cost-{}-{round}", who.name()), 0)?;
    let mut program = Ordered::start(&cgroup, "touch", &[PAGES.to_string()])?;
    program.perform::<Touched>("fill")?;
    let (pages, ns) = evict(&cgroup)?;
    report(guest, who.name(), "evict_ns", round, vec![ns / pages])?;
    let touched: Touched = program.perform(&format!("random {FAULTS}"))?;
    ensure!(touched.wrong == 0, "{} pages are wrong", touched.wrong);
    report(guest, who.name(), "fault_ns", round, touched.ns)?;
    program.end()?;
    running.end(guest)
}

/// Evicts all that can be; how many pages that were, and how long it took until all were written, without the
/// time in which there was nothing to do.
fn evict(cgroup: &Cgroup) -> Result<(u64, u64)> {
    let began = (Instant::now(), vm::idle_ns()?);
    let mut last = u64::MAX;
    loop {
        let mapped = cgroup.anonymous_pages()?;
        // What was under writeback when it was looked at is taken the next time.
        if mapped < 64 || mapped == last {
            break;
        }
        last = mapped;
        cgroup.reclaim_some(mapped)?;
        while cgroup.pages_in_writeback()? > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let ns = u64::try_from(began.0.elapsed().as_nanos())?;
    let idle = vm::idle_ns()?.saturating_sub(began.1);
    let pages = cgroup.swapped_pages()?;
    let wanted = u64::try_from(PAGES - PAGES / 16)?;
    ensure!(pages >= wanted, "only {pages} pages were evicted");
    Ok((pages, ns.saturating_sub(idle)))
}

fn report(guest: &mut Guest, who: &str, what: &str, round: usize, values: Vec<u64>) -> Result<()> {
    guest.host.send(&ToHost::Samples(Samples {
        who: who.to_owned(),
        what: what.to_owned(),
        round,
        values,
    }))
}
