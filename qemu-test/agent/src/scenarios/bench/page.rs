// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a page costs or takes: faults one by one, evictions, swap-in with readahead, both at once; of all contenders
//! and the floor, in turns.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::checksum::checksum;
use super::contender::{self, in_turn, Contender, Place};
use super::evict::evict;
use crate::guest::ordered::Ordered;
use crate::guest::{module, vm, Cgroup, Guest};
use crate::touch::Touched;

/// The stages of a fault that the module times.
const STAGES: [&str; 3] = ["hand", "answer", "fill"];

/// The first bucket of its histograms that a slow one is in.
const SLOW: usize = 21;

/// What is measured, of whom, where.
struct Plan {
    place: Place,
    contenders: &'static [Contender],
    /// How often each is measured, in turns.
    rounds: usize,
    /// Pages of the program that is evicted.
    pages: usize,
    /// How many of them are faulted in, one by one.
    faults: usize,
    /// How often it is looked whether all is written.
    look: Duration,
    /// Whether time is measured, and not instructions: then time in which there was nothing to do counts for an eviction,
    /// and there is more to measure: a checksum, needless readahead, writing under pressure, two programs at once.
    timed: bool,
}

/// Instructions, client and server in one machine whose clock counts them: that does not depend on the machine that
/// runs it, so it is the figure that a change is held to.
pub fn cost(guest: &mut Guest) -> Result<()> {
    run(
        guest,
        &Plan {
            place: Place::Here,
            contenders: Contender::FEW,
            rounds: 4,
            pages: 16384,
            faults: 2048,
            // Looking costs a hundred thousand instructions.
            look: Duration::from_millis(20),
            timed: false,
        },
    )
}

const TIME: Plan = Plan {
    place: Place::Outside,
    contenders: Contender::ALL,
    rounds: 5,
    pages: 8192,
    faults: 1024,
    look: Duration::from_millis(2),
    timed: true,
};

/// Time, with the servers outside.
pub fn time(guest: &mut Guest) -> Result<()> {
    run(guest, &TIME)
}

/// The same in a hurry.
pub fn quick(guest: &mut Guest) -> Result<()> {
    run(
        guest,
        &Plan {
            contenders: Contender::FEW,
            ..TIME
        },
    )
}

fn run(guest: &mut Guest, plan: &Plan) -> Result<()> {
    for round in 0..plan.rounds {
        let pings = contender::floor(guest, plan.place, plan.faults)?;
        guest.host.samples("ping-pong", "fault_ns", round, pings)?;
        if plan.timed {
            let ns = vec![checksum()?];
            guest.host.samples("memsrv", "checksum_ns", round, ns)?;
        }
        for who in in_turn(plan.contenders, round) {
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
    if let Some(pings) = running.floor(plan.faults)? {
        let floor = format!("ping-pong {}", who.name());
        guest.host.samples(&floor, "fault_ns", round, pings)?;
    }
    let name = who.name().replace(' ', "-");
    let cgroup = guest.cgroup(&format!("bench-{name}-{round}"), 0)?;
    let mut measured = Measured {
        guest,
        plan,
        cgroup,
        who,
        round,
    };
    let mut program = measured.program()?;
    measured.alone(&mut program)?;
    measured.sequential(&mut program)?;
    if plan.timed {
        measured.hindered(&mut program)?;
        measured.under_pressure(&mut program)?;
        measured.two(&mut program)?;
    }
    program.end()?;
    running.end(guest)
}

/// One contender in one round.
struct Measured<'p, 'g> {
    guest: &'p mut Guest<'g>,
    plan: &'p Plan,
    cgroup: Cgroup,
    who: Contender,
    round: usize,
}

impl Measured<'_, '_> {
    /// A program with all its pages written.
    fn program(&self) -> Result<Ordered> {
        let pages = self.plan.pages.to_string();
        let mut program = Ordered::start(&self.cgroup, "touch", &[pages])?;
        program.perform::<Touched>("fill")?;
        Ok(program)
    }

    /// Evictions, and single pages in no order.
    fn alone(&mut self, program: &mut Ordered) -> Result<()> {
        readahead(false)?;
        let ns = self.evict(1)?;
        self.report("evict_ns", vec![ns])?;
        let (served, before) = (self.served_ns()?, self.timed()?);
        let (spun, slow) = (self.spun()?, self.slow()?);
        let touched = touch(program, "random", self.plan.faults)?;
        if let (Some(before), Some(after)) = (spun, self.spun()?) {
            self.report("fault_spins", vec![after[0] - before[0]])?;
            self.report("fault_spins_won", vec![after[1] - before[1]])?;
            // What it goes by when it decides whether to spin.
            self.report("usual_load_ns", vec![after[2] * 1000])?;
            self.report("wake_ns", vec![after[3] * 1000])?;
            self.report("load_sleeping_ns", vec![after[4] * 1000])?;
            self.report("load_spinning_ns", vec![after[5] * 1000])?;
        }
        if let (Some(before), Some(after)) = (slow, self.slow()?) {
            for (stage, (before, after)) in STAGES.into_iter().zip(before.into_iter().zip(after)) {
                self.report(&format!("slow_{stage}"), vec![after - before])?;
            }
        }
        if let (Some(before), Some(after)) = (before, self.timed()?) {
            self.stages(&touched, before, after)?;
        }
        if let (Some(before), Some(after)) = (served, self.served_ns()?) {
            let ns = after.saturating_sub(before) / u64::try_from(self.plan.faults)?;
            // Of the stage that ends with the answer.
            self.report("stage_answer_server_ns", vec![ns])?;
        }
        self.report("fault_ns", touched.ns)
    }

    /// For how long our server has had a processor, if it has one of its own.
    fn served_ns(&mut self) -> Result<Option<u64>> {
        match (self.who, self.plan.place) {
            (Contender::Memsrv, Place::Outside) => self.guest.host.server_ns().map(Some),
            _ => Ok(None),
        }
    }

    /// What our module has timed: how many faults, and the nanoseconds of each stage.
    fn timed(&self) -> Result<Option<[u64; 4]>> {
        self.stats([
            "faults_timed",
            "fault_hand_ns",
            "fault_answer_ns",
            "fault_fill_ns",
        ])
    }

    /// How often a task has waited for our module's answer without sleeping, how often that was worth it, and what decides.
    fn spun(&self) -> Result<Option<[u64; 6]>> {
        self.stats([
            "spins",
            "spins_won",
            "usual_load_us",
            "wake_us",
            "load_us_sleeping",
            "load_us_spinning",
        ])
    }

    /// In how many faults each stage took 2^20 ns, a millisecond, or more.
    fn slow(&self) -> Result<Option<[u64; 3]>> {
        if self.who != Contender::Memsrv {
            return Ok(None);
        }
        let mut counts = [0; 3];
        for (count, stage) in counts.iter_mut().zip(STAGES) {
            let histogram = module::histogram(&format!("fault_{stage}_ns_log2"))?;
            *count = histogram.iter().skip(SLOW).sum();
        }
        Ok(Some(counts))
    }

    fn stats<const N: usize>(&self, keys: [&str; N]) -> Result<Option<[u64; N]>> {
        if self.who != Contender::Memsrv {
            return Ok(None);
        }
        let mut values = [0; N];
        for (value, key) in values.iter_mut().zip(keys) {
            *value = self.guest.stat(key)?;
        }
        Ok(Some(values))
    }

    /// Where the time of these faults went, as the module has it, in the mean; what is left is the kernel's: the fault
    /// before the hook, the way of the task back to a processor, the fault once more.
    fn stages(&mut self, touched: &Touched, before: [u64; 4], after: [u64; 4]) -> Result<()> {
        let mut ns = [0; 4];
        for (ns, (before, after)) in ns.iter_mut().zip(before.into_iter().zip(after)) {
            *ns = after - before;
        }
        let [timed, hand, answer, fill] = ns;
        let faults = u64::try_from(touched.ns.len())?;
        // A page may be there already, or not be the last that is asked for; and the program's own are among them.
        ensure!(
            (faults * 9..=faults * 11).contains(&(timed * 10)),
            "the module has timed {timed} of {faults} faults"
        );
        let all = touched.ns.iter().sum::<u64>() / faults;
        let [hand, answer, fill] = [hand, answer, fill].map(|ns| ns / timed);
        let rest = all
            .checked_sub(hand + answer + fill)
            .with_context(|| format!("stages of {hand}, {answer}, {fill} ns in {all}"))?;
        self.report("stage_hand_ns", vec![hand])?;
        self.report("stage_answer_ns", vec![answer])?;
        self.report("stage_fill_ns", vec![fill])?;
        self.report("stage_rest_ns", vec![rest])
    }

    /// Half of the pages one after another, none of which is there.
    fn sequential(&mut self, program: &mut Ordered) -> Result<()> {
        readahead(true)?;
        self.evict(1)?;
        let pages = self.plan.pages / 2;
        let touched = touch(program, "sequential", pages)?;
        let ns = touched.total_ns / u64::try_from(pages)?;
        self.report("sequential_ns", vec![ns])
    }

    /// Single pages in no order again, where readahead only hinders.
    fn hindered(&mut self, program: &mut Ordered) -> Result<()> {
        readahead(true)?;
        self.evict(1)?;
        let touched = touch(program, "random", self.plan.faults)?;
        let ns = touched.total_ns / u64::try_from(self.plan.faults)?;
        self.report("random_ns", vec![ns])
    }

    /// Pages are read and written in no order with half of the memory: evictions and faults at once.
    fn under_pressure(&mut self, program: &mut Ordered) -> Result<()> {
        let (pages, updates) = (self.plan.pages, self.plan.pages / 2);
        readahead(true)?;
        self.cgroup.set_limit(u64::try_from(pages / 512)?)?;
        let touched = touch(program, "update", updates)?;
        self.cgroup.set_limit(0)?;
        let ns = touched.total_ns / u64::try_from(updates)?;
        self.report("update_ns", vec![ns])
    }

    /// Single pages of two programs at once.
    fn two(&mut self, program: &mut Ordered) -> Result<()> {
        readahead(false)?;
        let mut other = self.program()?;
        self.evict(2)?;
        let spun = self.spun()?;
        let order = format!("random {}", self.plan.faults);
        program.order(&order)?;
        other.order(&order)?;
        let mut ns = Vec::new();
        for one in [program, &mut other] {
            ns.extend(checked(one.answer()?)?.ns);
        }
        other.end()?;
        if let (Some(before), Some(after)) = (spun, self.spun()?) {
            self.report("fault_of_2_spins", vec![after[0] - before[0]])?;
        }
        self.report("fault_of_2_ns", ns)
    }

    /// Evicts so many programs; nanoseconds for each page.
    fn evict(&self, programs: usize) -> Result<u64> {
        let evicted = evict(&self.cgroup, programs * self.plan.pages, self.plan.look)?;
        let ns = match self.plan.timed {
            true => evicted.ns,
            false => evicted.ns.saturating_sub(evicted.idle_ns),
        };
        Ok(ns / evicted.pages)
    }

    fn report(&mut self, what: &str, values: Vec<u64>) -> Result<()> {
        let name = self.who.name();
        self.guest.host.samples(name, what, self.round, values)
    }
}

/// The kernel's readahead: none, or its default of 8 pages.
fn readahead(on: bool) -> Result<()> {
    vm::set_sysctl("vm/page-cluster", if on { "3" } else { "0" })
}

fn touch(program: &mut Ordered, order: &str, count: usize) -> Result<Touched> {
    checked(program.perform(&format!("{order} {count}"))?)
}

fn checked(touched: Touched) -> Result<Touched> {
    ensure!(touched.wrong == 0, "{} pages are wrong", touched.wrong);
    Ok(touched)
}
