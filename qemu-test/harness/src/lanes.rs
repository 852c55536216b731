// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Runs scenarios in lanes, several guests at a time: those with equal machines share a boot, and a crash costs only
//! the one that crashed.
//!
//! A lane is a thread with a network namespace of its own, and with that its own addresses, servers and guest; all that
//! it starts ends with it. What is won is the time in which guests wait, for servers and for faults to pass; where they
//! compute, as on the debug kernel, two of them on two processors take about as long as one after the other.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{anyhow, Result};
use clap::Args;
use qemu_test_wire::{Machine, Scenario};

use crate::boot::{tail, Guest};
use crate::network;
use crate::past;
use crate::suite::{boot, run_one, Nobody, Verdict, REBOOTS};
use crate::tree::Tree;

/// How scenarios ended.
pub struct Ended {
    /// Each one, in the order in which they ended.
    pub results: Vec<Done>,
    /// Guests that did not switch off when they should.
    stuck: Vec<String>,
}

/// A scenario that ran.
pub struct Done {
    /// Its name.
    pub name: String,
    /// Why it failed; none if it passed.
    pub error: Option<String>,
    /// What it measured.
    pub figures: BTreeMap<String, u64>,
    /// How long it took.
    pub seconds: f64,
}

impl Ended {
    /// How many passed.
    pub fn passed(&self) -> usize {
        let passed = |done: &&Done| done.error.is_none();
        self.results.iter().filter(passed).count()
    }

    /// How many did not.
    pub fn failed(&self) -> usize {
        self.results.len() - self.passed() + self.stuck.len()
    }
}

/// How scenarios are run.
#[derive(Args, Clone, Copy)]
pub struct Manner {
    /// How many guests at a time.
    #[arg(long, default_value_t = LANES)]
    lanes: usize,
    /// Goes on with a run that was interrupted: what has passed with just this build is not run again.
    #[arg(long)]
    resume: bool,
}

/// Enough for one to compute while the other one waits.
const LANES: usize = 2;

/// Runs these, and says how each ended.
pub fn run(tree: &Tree, chosen: Vec<Scenario>, manner: Manner) -> Result<Ended> {
    let started = Instant::now();
    let build = past::fingerprint(tree)?;
    let all = chosen.len();
    let (results, chosen) = match manner.resume {
        true => past::passed(tree, &build, chosen),
        false => (Vec::new(), chosen),
    };
    if !results.is_empty() {
        println!("{} have passed before", results.len());
    }
    let lanes = manner.lanes.clamp(1, chosen.len().max(1));
    let work = Work {
        tree,
        build,
        all,
        waiting: Mutex::new(Waiting::new(chosen)),
        boots: AtomicU32::new(0),
        ended: Mutex::new(Ended {
            results,
            stuck: Vec::new(),
        }),
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..lanes).map(|_| scope.spawn(|| work.lane())).collect();
        running.into_iter().try_for_each(|lane| {
            let ended = lane.join();
            ended.map_err(|_| anyhow!("a lane panicked"))?
        })
    })?;
    let boots = work.boots.load(Ordering::Relaxed);
    let ended = work
        .ended
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    println!(
        "guests: {} passed, {} failed, {boots} boots, {} s",
        ended.passed(),
        ended.failed(),
        started.elapsed().as_secs()
    );
    repeat_failures(tree, &ended);
    Ok(ended)
}

/// What has not begun yet, by the machine that it needs.
struct Waiting(BTreeMap<Machine, VecDeque<Scenario>>);

impl Waiting {
    fn new(scenarios: Vec<Scenario>) -> Self {
        let mut groups: BTreeMap<Machine, VecDeque<Scenario>> = BTreeMap::new();
        for scenario in scenarios {
            let group = groups.entry(scenario.machine.clone()).or_default();
            group.push_back(scenario);
        }
        Self(groups)
    }

    /// The next for who has that machine; else one of those of which there are most.
    fn next(&mut self, machine: Option<&Machine>) -> Option<Scenario> {
        let same = machine.and_then(|machine| self.0.get_mut(machine)?.pop_front());
        same.or_else(|| {
            self.0
                .values_mut()
                .max_by_key(|group| group.len())?
                .pop_front()
        })
    }
}

/// A guest that can run another scenario.
struct Running {
    guest: Guest,
    machine: Machine,
    /// Where its logs are.
    name: String,
}

/// What the lanes share.
struct Work<'a> {
    tree: &'a Tree,
    /// What is being tested.
    build: String,
    /// How many scenarios there are.
    all: usize,
    waiting: Mutex<Waiting>,
    boots: AtomicU32,
    ended: Mutex<Ended>,
}

impl Work<'_> {
    /// Runs one after another until none is left.
    fn lane(&self) -> Result<()> {
        network::enter_own_namespace()?;
        let mut running: Option<Running> = None;
        loop {
            let machine = running.as_ref().map(|running| &running.machine);
            let Some(scenario) = lock(&self.waiting).next(machine) else {
                break;
            };
            if machine != Some(&scenario.machine) {
                self.switch_off(running.take());
            }
            running = self.one(&scenario, running)?;
        }
        self.switch_off(running);
        Ok(())
    }

    /// Runs one, once more where the guest died of the emulator's fault. The guest, if it can run another.
    fn one(&self, scenario: &Scenario, mut running: Option<Running>) -> Result<Option<Running>> {
        let mut repeats = 0;
        loop {
            let booted = match running.take() {
                Some(running) => Ok(running),
                None => self.boot(&scenario.machine),
            };
            let logs = self.tree.logs(&scenario.name)?;
            let verdict = match booted {
                Ok(mut booted) => {
                    let guest = &mut booted.guest;
                    let verdict = run_one(self.tree, guest, scenario, &logs, &mut Nobody)?;
                    running = Some(booted).filter(|_| verdict.usable);
                    verdict
                }
                Err(error) => Verdict {
                    error: Some(format!("the guest did not boot: {error:#}")),
                    figures: BTreeMap::new(),
                    seconds: 0.0,
                    usable: false,
                    stale: false,
                },
            };
            if !verdict.stale || repeats >= REBOOTS {
                self.report(scenario, verdict, &logs)?;
                return Ok(running);
            }
            repeats += 1;
            println!(
                "       {}: the emulator executed a breakpoint that was gone; once more",
                scenario.name
            );
            self.tree.set_aside(&logs, repeats)?;
        }
    }

    fn boot(&self, machine: &Machine) -> Result<Running> {
        let number = self.boots.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("boot-{number}");
        let started = Instant::now();
        let guest = boot(self.tree, machine, &name)?;
        println!(
            "{:5.1}s boot {number}: {} MiB, {} processors, swap {:?} MiB",
            started.elapsed().as_secs_f64(),
            self.tree.kernel.memory_mib(machine.memory_mib),
            machine.cpus,
            machine.swap_mib
        );
        Ok(Running {
            guest,
            machine: machine.clone(),
            name,
        })
    }

    fn switch_off(&self, running: Option<Running>) {
        let Some(Running { guest, name, .. }) = running else {
            return;
        };
        if let Err(error) = guest.power_off() {
            println!("       {name}: {error:#}");
            lock(&self.ended).stuck.push(name);
        }
    }

    fn report(&self, scenario: &Scenario, verdict: Verdict, logs: &Path) -> Result<()> {
        let word = if verdict.error.is_some() {
            "FAIL"
        } else {
            "ok  "
        };
        let mut ended = lock(&self.ended);
        // In one piece: other lanes print, too.
        let mut said = format!(
            "{:5.1}s {word} {:>3}/{} {:24} {}",
            verdict.seconds,
            ended.results.len() + 1,
            self.all,
            scenario.name,
            scenario.about
        );
        for line in verdict.error.iter().flat_map(|error| error.lines()) {
            let _ = write!(said, "\n            {line}");
        }
        println!("{said}");
        let done = Done {
            name: scenario.name.clone(),
            error: verdict.error,
            figures: verdict.figures,
            seconds: verdict.seconds,
        };
        past::write(logs, &self.build, &done)?;
        ended.results.push(done);
        Ok(())
    }
}

/// What a lane that panicked left is whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lines of a failure that are said again at the end, for who has only the end of a long log.
const REPEATED: usize = 16;

/// The servers' logs, of which a failure shows the end.
const SERVERS: [&str; 2] = ["memsrvd.log", "mirror.log"];

/// Says at the end, where it is seen, what failed and why.
fn repeat_failures(tree: &Tree, ended: &Ended) {
    let logs = tree.kernel.logs();
    for done in &ended.results {
        let Some(error) = &done.error else { continue };
        println!(
            "  failed: {} after {:.1} s (build/{logs}/{}/)",
            done.name, done.seconds, done.name
        );
        for line in error.lines().take(REPEATED) {
            println!("    {line}");
        }
        for log in SERVERS {
            let path = tree.log_root().join(&done.name).join(log);
            for line in tail(&fs::read_to_string(path).unwrap_or_default(), 3).lines() {
                println!("    {log}: {line}");
            }
        }
    }
    for boot in &ended.stuck {
        println!("  failed: {boot} did not switch off (build/{logs}/{boot}/)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(name: &str, memory_mib: u32) -> Scenario {
        let value = serde_json::json!({
            "name": name, "about": "", "limit_s": 1, "module": true, "in_test": true, "debug": false,
            "machine": { "memory_mib": memory_mib, "cpus": 1, "swap_mib": [], "purpose": "test" },
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_guest_is_kept_as_long_as_there_is_work_for_it_and_none_is_run_twice() {
        let all = [("a", 1), ("b", 2), ("c", 2), ("d", 2), ("e", 1)];
        let mut waiting = Waiting::new(all.map(|(name, mib)| scenario(name, mib)).into());
        let first = waiting.next(None).unwrap();
        let other = waiting.next(None).unwrap();
        let mut order = vec![first.name.clone(), other.name.clone()];
        let mut machine = first.machine;
        while let Some(next) = waiting.next(Some(&machine)) {
            order.push(next.name);
            machine = next.machine;
        }
        assert_eq!(order, ["b", "c", "d", "a", "e"].map(str::to_owned));
    }
}
