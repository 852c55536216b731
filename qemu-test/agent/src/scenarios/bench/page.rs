// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a page costs or takes: faults one by one, and evictions, of all contenders and the floor in turns.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::contender::{self, Contender, Place};
use super::evict::evict;
use crate::guest::ordered::Ordered;
use crate::guest::{vm, Guest};
use crate::touch::Touched;

/// What is measured, where.
struct Plan {
    place: Place,
    /// How often each is measured, in turns.
    rounds: usize,
    /// Pages of the program that is evicted.
    pages: usize,
    /// How many of them are faulted in, one by one.
    faults: usize,
    /// How often it is looked whether all is written.
    look: Duration,
    /// Whether time in which there was nothing to do counts for an eviction.
    idle_counts: bool,
}

/// Instructions, client and server in one machine whose clock counts them: that does not depend on the machine that
/// runs it, so it is the figure that a change is held to.
pub fn cost(guest: &mut Guest) -> Result<()> {
    run(
        guest,
        &Plan {
            place: Place::Here,
            rounds: 4,
            pages: 16384,
            faults: 2048,
            // Looking costs a hundred thousand instructions.
            look: Duration::from_millis(20),
            idle_counts: false,
        },
    )
}

/// Time, with the servers outside.
pub fn time(guest: &mut Guest) -> Result<()> {
    run(
        guest,
        &Plan {
            place: Place::Outside,
            rounds: 5,
            pages: 8192,
            faults: 1024,
            look: Duration::from_millis(2),
            idle_counts: true,
        },
    )
}

fn run(guest: &mut Guest, plan: &Plan) -> Result<()> {
    vm::set_sysctl("vm/page-cluster", "0")?;
    for round in 0..plan.rounds {
        let pings = contender::floor(guest, plan.place, plan.faults)?;
        guest.host.samples("ping-pong", "fault_ns", round, pings)?;
        for who in Contender::ALL {
            one(guest, plan, who, round)
                .with_context(|| format!("{}, round {round}", who.name()))?;
        }
        guest
            .host
            .note(format!("round {} of {}", round + 1, plan.rounds))?;
    }
    Ok(())
}

fn one(guest: &mut Guest, plan: &Plan, who: Contender, round: usize) -> Result<()> {
    let running = who.begin(guest, plan.place)?;
    let cgroup = guest.cgroup(&format!("bench-{}-{round}", who.name()), 0)?;
    let mut program = Ordered::start(&cgroup, "touch", &[plan.pages.to_string()])?;
    program.perform::<Touched>("fill")?;
    let evicted = evict(&cgroup, plan.pages, plan.look)?;
    let ns = match plan.idle_counts {
        true => evicted.ns,
        false => evicted.ns.saturating_sub(evicted.idle_ns),
    };
    let ns = ns / evicted.pages;
    guest
        .host
        .samples(who.name(), "evict_ns", round, vec![ns])?;
    let touched: Touched = program.perform(&format!("random {}", plan.faults))?;
    ensure!(touched.wrong == 0, "{} pages are wrong", touched.wrong);
    guest
        .host
        .samples(who.name(), "fault_ns", round, touched.ns)?;
    program.end()?;
    running.end(guest)
}
