// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Narrow links, where what waits to be sent is what everybody waits for: evictions, faults, and faults while others are
//! evicted.

use std::thread;
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};

use super::contender::{in_turn, Contender, Place};
use super::evict::evict;
use crate::guest::ordered::Ordered;
use crate::guest::{card, module, program, vm, Guest};
use crate::touch::Touched;

/// Megabits a second; 0 is as fast as it goes.
const RATES: [u32; 3] = [100, 1000, 0];
const WHO: [Contender; 4] = [
    Contender::Memsrv,
    Contender::MemsrvLz4,
    Contender::Nbd,
    Contender::NbdOneThread,
];
const PAGES: usize = 8192;
/// Faults for each value, and those that are made while it is looked whether the other program is out.
const FAULTS: usize = 256;
const FEW: usize = 4;
const LOOK: Duration = Duration::from_millis(5);

/// Each contender over each link, in turns.
pub fn links(guest: &mut Guest) -> Result<()> {
    measure(guest, 5)
}

/// The same once.
pub fn quick_links(guest: &mut Guest) -> Result<()> {
    measure(guest, 1)
}

fn measure(guest: &mut Guest, rounds: usize) -> Result<()> {
    vm::set_sysctl("vm/page-cluster", "0")?;
    module::load_list("shape", "")?;
    for round in 0..rounds {
        for rate in RATES {
            shape(rate)?;
            for who in in_turn(&WHO, round) {
                one(guest, who, rate, round)
                    .with_context(|| format!("{} at {rate} Mb/s", who.name()))?;
            }
            guest
                .host
                .note(format!("round {} of {rounds}, {rate} Mb/s", round + 1))?;
        }
        shape(0)?;
    }
    Ok(())
}

fn one(guest: &mut Guest, who: Contender, rate: u32, round: usize) -> Result<()> {
    let running = who.begin(guest, Place::Outside)?;
    let name = format!("links-{}-{rate}-{round}", who.name().replace(' ', "-"));
    let (ours, others) = (
        guest.cgroup(&name, 0)?,
        guest.cgroup(&format!("{name}-others"), 0)?,
    );
    let pages = PAGES.to_string();
    let start = |cgroup| -> Result<Ordered> {
        let mut program = Ordered::start(cgroup, "touch", &[pages.clone()])?;
        program.perform::<Touched>("fill")?;
        Ok(program)
    };
    let (mut program, other) = (start(&ours)?, start(&others)?);
    let mut report = |what: &str, ns: Vec<u64>| {
        let what = match rate {
            0 => format!("{what}_ns"),
            rate => format!("{what}_at_{rate}_ns"),
        };
        guest.host.samples(who.name(), &what, round, ns)
    };
    let evicted = evict(&ours, PAGES, LOOK)?;
    report("evict", vec![evicted.ns / evicted.pages])?;
    report("fault", random(&mut program, FAULTS)?)?;
    let beside = thread::scope(|scope| -> Result<Vec<u64>> {
        let eviction = scope.spawn(|| evict(&others, PAGES, LOOK));
        let mut ns = Vec::new();
        while !eviction.is_finished() {
            ns.extend(random(&mut program, FEW)?);
        }
        let ended = eviction
            .join()
            .map_err(|_| anyhow!("the evicting thread panicked"))?;
        ended.map(|_| ns)
    })?;
    report("fault_beside_evictions", beside)?;
    program.end()?;
    other.end()?;
    running.end(guest)
}

/// The next pages in no order.
fn random(program: &mut Ordered, count: usize) -> Result<Vec<u64>> {
    let touched: Touched = program.perform(&format!("further {count}"))?;
    ensure!(touched.wrong == 0, "{} pages are wrong", touched.wrong);
    Ok(touched.ns)
}

/// No more than so many Mb/s both ways, with 50 ms of room for what waits; 0: as before.
fn shape(rate: u32) -> Result<()> {
    if rate == 0 {
        // What is not there cannot be taken away.
        let _ = card::tc(&["qdisc", "del", "dev", "eth0", "ingress"]);
        return card::calm();
    }
    let rate = format!("{rate}mbit");
    let bucket = ["tbf", "rate", &rate, "burst", "64kb", "latency", "50ms"];
    program::run(None, &["/usr/sbin/ip", "link", "set", "ifb0", "up"])?;
    for name in ["eth0", "ifb0"] {
        card::queue(name, &bucket)?;
    }
    let _ = card::tc(&["qdisc", "del", "dev", "eth0", "ingress"]);
    card::tc(&["qdisc", "add", "dev", "eth0", "handle", "ffff:", "ingress"])?;
    let all = [
        "filter", "add", "dev", "eth0", "parent", "ffff:", "matchall",
    ];
    let redirect = ["action", "mirred", "egress", "redirect", "dev", "ifb0"];
    card::tc(&[&all[..], &redirect[..]].concat()).map(drop)
}
