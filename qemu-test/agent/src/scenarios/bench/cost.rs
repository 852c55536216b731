// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a page costs: instructions for each page evicted and each page faulted in, client and server in one
//! machine whose clock counts them. That does not depend on the machine that runs it, so it is the figure
//! that a change is held to.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::contender::{self, Contender, Place};
use super::evict::evict;
use crate::guest::ordered::Ordered;
use crate::guest::{vm, Guest};
use crate::touch::Touched;

/// How often each is measured, in turns.
const ROUNDS: usize = 4;
/// Pages of the program that is evicted: 64 MiB.
const PAGES: usize = 16384;
/// How many of them are faulted in, one by one.
const FAULTS: usize = 2048;

/// How often it is looked whether all is written: looking costs a hundred thousand instructions.
const LOOK: Duration = Duration::from_millis(20);

/// All contenders, in turns.
pub fn cost(guest: &mut Guest) -> Result<()> {
    vm::set_sysctl("vm/page-cluster", "0")?;
    for round in 0..ROUNDS {
        let pings = contender::floor(guest, Place::Here, FAULTS)?;
        guest.host.samples("ping-pong", "fault_ns", round, pings)?;
        for who in Contender::ALL {
            one(guest, who, round).with_context(|| format!("{}, round {round}", who.name()))?;
        }
        guest
            .host
            .note(format!("round {} of {ROUNDS}", round + 1))?;
    }
    Ok(())
}

fn one(guest: &mut Guest, who: Contender, round: usize) -> Result<()> {
    let running = who.begin(guest, Place::Here)?;
    let cgroup = guest.cgroup(&format!("cost-{}-{round}", who.name()), 0)?;
    let mut program = Ordered::start(&cgroup, "touch", &[PAGES.to_string()])?;
    program.perform::<Touched>("fill")?;
    let evicted = evict(&cgroup, PAGES, LOOK)?;
    let busy_ns = evicted.ns.saturating_sub(evicted.idle_ns);
    let ns = busy_ns / evicted.pages;
    guest
        .host
        .samples(who.name(), "evict_ns", round, vec![ns])?;
    let touched: Touched = program.perform(&format!("random {FAULTS}"))?;
    ensure!(touched.wrong == 0, "{} pages are wrong", touched.wrong);
    guest
        .host
        .samples(who.name(), "fault_ns", round, touched.ns)?;
    program.end()?;
    running.end(guest)
}
