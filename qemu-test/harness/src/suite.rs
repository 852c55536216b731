// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Runs scenarios: those with equal needs share a boot, and a crash costs only the one that crashed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use qemu_test_wire::{Machine, Outcome, Row, Samples, Scenario, ToGuest, ToHost};

use crate::boot::{tail, Event, Guest};
use crate::console::is_stale_breakpoint;
use crate::initramfs;
use crate::kernel::Kernel;
use crate::network::TAP;
use crate::server::Outside;
use crate::tree::Tree;

/// How a scenario ended.
pub struct Verdict {
    /// Why it failed; none if it passed.
    pub error: Option<String>,
    /// What it measured.
    pub figures: BTreeMap<String, u64>,
    /// How long it took.
    pub seconds: f64,
    /// Whether the guest can run another.
    pub usable: bool,
    /// Whether the guest died of the emulator's fault.
    pub stale: bool,
}

/// Who sees what a scenario says while it runs.
pub trait Audience {
    /// What is going on.
    fn note(&mut self, _text: &str) {}
    /// A line of the table.
    fn row(&mut self, _row: &Row) {}
    /// What was measured.
    fn samples(&mut self, _samples: Samples) {}
}

/// Nobody does.
pub struct Nobody;

impl Audience for Nobody {}

/// Those of the scenarios that can arise and that one of the words means: the one of that name or, if there is none,
/// all whose names contain it. Without words all.
pub fn meant(scenarios: Vec<Scenario>, words: &[String]) -> Result<Vec<Scenario>> {
    let is_name = |word: &String| scenarios.iter().any(|scenario| scenario.name == *word);
    let (names, parts): (Vec<&String>, Vec<&String>) = words.iter().partition(|word| is_name(word));
    let (chosen, rest): (Vec<Scenario>, Vec<Scenario>) = scenarios
        .into_iter()
        .filter(Scenario::can_arise)
        .partition(|scenario| {
            let name = &scenario.name;
            words.is_empty()
                || names.contains(&name)
                || parts.iter().any(|part| name.contains(*part))
        });
    ensure!(
        !chosen.is_empty(),
        "none of the {} names contains {}",
        rest.len(),
        words.join(" or ")
    );
    Ok(chosen)
}

/// Runs all scenarios, or those that `filter` means.
pub fn run(tree: &Tree, filter: &[String]) -> Result<bool> {
    let mut scenarios = tree.scenarios()?;
    if filter.is_empty() {
        scenarios.retain(|scenario| {
            scenario.in_test && (!scenario.debug || tree.kernel == Kernel::Debug)
        });
    }
    let ended = run_these(tree, meant(scenarios, filter)?)?;
    let summary = format!("{} {}\n", ended.passed(), ended.failed());
    let path = tree.log_root().join("guest-summary");
    fs::write(&path, summary).with_context(|| format!("writing {}", path.display()))?;
    Ok(ended.failed() == 0)
}

/// How scenarios ended.
pub struct Ended {
    /// Each one, in the order in which they ran.
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

/// Runs these, those with equal machines in one boot, and says how each ended.
pub fn run_these(tree: &Tree, chosen: Vec<Scenario>) -> Result<Ended> {
    let mut groups: BTreeMap<Machine, Vec<Scenario>> = BTreeMap::new();
    for scenario in chosen {
        groups
            .entry(scenario.machine.clone())
            .or_default()
            .push(scenario);
    }
    let mut suite = Suite {
        tree,
        boots: 0,
        ended: Ended {
            results: Vec::new(),
            stuck: Vec::new(),
        },
    };
    let started = Instant::now();
    for (machine, scenarios) in &groups {
        suite.group(machine, scenarios)?;
    }
    println!(
        "guests: {} passed, {} failed, {} boots, {} s",
        suite.ended.passed(),
        suite.ended.failed(),
        suite.boots,
        started.elapsed().as_secs()
    );
    suite.repeat_failures();
    Ok(suite.ended)
}

/// Lines of a failure that are said again at the end, for who has only the end of a long log.
const REPEATED: usize = 16;

/// The servers' logs, of which a failure shows the end.
const SERVERS: [&str; 2] = ["memsrvd.log", "mirror.log"];

struct Suite<'a> {
    tree: &'a Tree,
    boots: u32,
    ended: Ended,
}

impl Suite<'_> {
    fn group(&mut self, machine: &Machine, scenarios: &[Scenario]) -> Result<()> {
        let mut guest: Option<Guest> = None;
        let mut repeats = 0;
        let mut scenarios = scenarios.iter().peekable();
        while let Some(scenario) = scenarios.peek() {
            let booted = match guest.take() {
                Some(guest) => Ok(guest),
                None => self.boot(machine),
            };
            let logs = self.tree.logs(&scenario.name)?;
            let verdict = match booted {
                Ok(mut running) => {
                    let verdict = run_one(self.tree, &mut running, scenario, &logs, &mut Nobody)?;
                    guest = Some(running).filter(|_| verdict.usable);
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
            if verdict.stale && repeats < REBOOTS {
                repeats += 1;
                println!(
                    "       {}: the emulator executed a breakpoint that was gone; once more",
                    scenario.name
                );
                self.tree.set_aside(&logs, repeats)?;
                continue;
            }
            self.report(scenario, verdict, &logs)?;
            repeats = 0;
            scenarios.next();
        }
        if let Some(guest) = guest {
            if let Err(error) = guest.power_off() {
                println!("       {error:#}");
                self.ended.stuck.push(format!("boot-{}", self.boots));
            }
        }
        Ok(())
    }

    fn boot(&mut self, machine: &Machine) -> Result<Guest> {
        self.boots += 1;
        let started = Instant::now();
        let guest = boot(self.tree, machine, &format!("boot-{}", self.boots))?;
        println!(
            "{:5.1}s boot {}: {} MiB, {} processors, swap {:?} MiB",
            started.elapsed().as_secs_f64(),
            self.boots,
            self.tree.kernel.memory_mib(machine.memory_mib),
            machine.cpus,
            machine.swap_mib
        );
        Ok(guest)
    }

    /// Says at the end, where it is seen, what failed and why.
    fn repeat_failures(&self) {
        let logs = self.tree.kernel.logs();
        for done in &self.ended.results {
            if let Some(error) = &done.error {
                println!(
                    "  failed: {} after {:.1} s (build/{logs}/{}/)",
                    done.name, done.seconds, done.name
                );
                for line in error.lines().take(REPEATED) {
                    println!("    {line}");
                }
                for log in SERVERS {
                    let path = self.tree.log_root().join(&done.name).join(log);
                    for line in tail(&fs::read_to_string(path).unwrap_or_default(), 3).lines() {
                        println!("    {log}: {line}");
                    }
                }
            }
        }
        for boot in &self.ended.stuck {
            println!("  failed: {boot} did not switch off (build/{logs}/{boot}/)");
        }
    }

    fn report(&mut self, scenario: &Scenario, verdict: Verdict, logs: &Path) -> Result<()> {
        let word = if verdict.error.is_some() {
            "FAIL"
        } else {
            "ok  "
        };
        println!(
            "{:5.1}s {word} {:24} {}",
            verdict.seconds, scenario.name, scenario.about
        );
        let figures = serde_json::to_string(&verdict.figures)?;
        let mut result = format!(
            "{word}\nseconds {:.1}\nfigures {figures}\n",
            verdict.seconds
        );
        if let Some(error) = &verdict.error {
            for line in error.lines() {
                println!("            {line}");
            }
            result.push_str(error);
            result.push('\n');
        }
        self.ended.results.push(Done {
            name: scenario.name.clone(),
            error: verdict.error,
            figures: verdict.figures,
            seconds: verdict.seconds,
        });
        fs::write(logs.join("result"), result).context("writing a result")
    }
}

/// How often a guest that does not come up is booted anew.
///
/// Until its agent speaks it has run nothing of ours. A stock kernel with several processors sometimes dies
/// there under emulation: one processor rewrites an instruction (a static branch) and another one executes
/// it half rewritten.
const REBOOTS: u32 = 2;

/// Boots a machine, its logs in `build/test-logs/NAME/`; a further attempt's are beside it.
pub fn boot(tree: &Tree, machine: &Machine, name: &str) -> Result<Guest> {
    boot_behind(tree, machine, TAP, name)
}

/// The same behind another tap device than usual.
pub fn boot_behind(tree: &Tree, machine: &Machine, tap: &str, name: &str) -> Result<Guest> {
    let mut logs = name.to_owned();
    for attempt in 1..=REBOOTS {
        match boot_once(tree, machine, tap, &logs) {
            Ok(guest) => return Ok(guest),
            Err(error) => println!("       booting again: {error:#}"),
        }
        logs = format!("{name}-again-{attempt}");
    }
    boot_once(tree, machine, tap, &logs)
}

fn boot_once(tree: &Tree, machine: &Machine, tap: &str, name: &str) -> Result<Guest> {
    let logs = tree.logs(name)?;
    let archive = logs.join("initramfs.cpio");
    initramfs::write(tree, machine.purpose, &archive)?;
    let guest = Guest::boot(tree, machine, tap, &archive, &logs);
    // QEMU has read it by the time the agent speaks.
    let _ = fs::remove_file(&archive);
    guest
}

/// Runs one scenario in a running guest.
pub fn run_one(
    tree: &Tree,
    guest: &mut Guest,
    scenario: &Scenario,
    logs: &Path,
    audience: &mut impl Audience,
) -> Result<Verdict> {
    let started = Instant::now();
    let console_start = guest.console.length();
    let ended = talk(tree, guest, scenario, logs, audience)?;
    let complaints = guest.console.complaints_from(console_start);
    let text = guest.console.text_from(console_start);
    fs::write(logs.join("console.log"), &text).context("writing a console log")?;
    let mut verdict = Verdict {
        error: None,
        figures: BTreeMap::new(),
        seconds: started.elapsed().as_secs_f64(),
        usable: false,
        stale: is_stale_breakpoint(&text),
    };
    let mut errors = Vec::new();
    match ended {
        Ok(outcome) => {
            verdict.usable = outcome.clean && complaints.is_empty();
            errors.extend(outcome.error);
            errors.extend(wrong_taint(tree.kernel, scenario, outcome.taint));
            verdict.figures = outcome.figures;
        }
        Err(why) => errors.push(format!("{why}; the console's end:\n{}", tail(&text, 12))),
    }
    if !complaints.is_empty() {
        errors.push(format!("the kernel complained:\n{}", complaints.join("\n")));
    }
    verdict.error = Some(errors.join("\n")).filter(|text| !text.is_empty());
    Ok(verdict)
}

/// The taint that the module leaves, and no other.
fn wrong_taint(kernel: Kernel, scenario: &Scenario, taint: u64) -> Option<String> {
    let module = kernel.module_taint();
    let missing = scenario.module && taint & module != module;
    (missing || taint & !module != 0)
        .then(|| format!("the kernel's taint is {taint:#x}, not the module's {module:#x}"))
}

/// The conversation; an inner error is the guest's failure, an outer one ours.
fn talk(
    tree: &Tree,
    guest: &mut Guest,
    scenario: &Scenario,
    logs: &Path,
    audience: &mut impl Audience,
) -> Result<std::result::Result<Outcome, String>> {
    let mut outside = Outside::new(tree, logs);
    let limit = tree.kernel.patience(Duration::from_secs(scenario.limit_s));
    let deadline = Instant::now() + limit;
    let mut last = "its start".to_owned();
    guest.send(&ToGuest::Run(scenario.name.clone()))?;
    loop {
        match guest.next(deadline) {
            Event::Message(ToHost::Note(text)) => {
                audience.note(&text);
                last = text;
            }
            Event::Message(ToHost::Row(row)) => audience.row(&row),
            Event::Message(ToHost::Samples(samples)) => audience.samples(samples),
            Event::Message(ToHost::Ask(ask)) => {
                last = format!("{ask:?}");
                let answer = outside.answer(ask);
                guest.send(&ToGuest::Answer(answer))?;
            }
            Event::Message(ToHost::Done(outcome)) if outcome.name == scenario.name => {
                return Ok(Ok(outcome));
            }
            Event::Message(other) => return Ok(Err(format!("the guest said {other:?}"))),
            Event::Gone(_) if outside.guest_ends => {
                return Ok(Ok(Outcome {
                    name: scenario.name.clone(),
                    error: outside.becomes_empty().err().map(|e| format!("{e:#}")),
                    clean: false,
                    figures: BTreeMap::new(),
                    // Nobody is left to ask; a warning would have been a panic.
                    taint: tree.kernel.module_taint(),
                }));
            }
            Event::Gone(why) => return Ok(Err(format!("the guest ended after {last}: {why}"))),
            Event::Silence => {
                let limit = limit.as_secs();
                return Ok(Err(format!(
                    "no result within {limit} s; the last was {last}"
                )));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(name: &str) -> Scenario {
        let value = serde_json::json!({
            "name": name, "about": "", "limit_s": 1, "module": true, "in_test": true, "debug": false,
            "machine": { "memory_mib": 1, "cpus": 1, "swap_mib": [], "purpose": "test" },
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_whole_name_means_one_scenario_and_a_part_all_that_have_it() {
        let means = |words: &[&str]| {
            let all = ["full", "full-zswap", "mirror-full", "held"].map(scenario);
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let chosen = meant(all.into(), &words);
            chosen.map(|chosen| chosen.into_iter().map(|one| one.name).collect::<Vec<_>>())
        };
        assert_eq!(means(&["full"]).unwrap(), ["full"]);
        assert_eq!(means(&["full-", "held"]).unwrap(), ["full-zswap", "held"]);
        assert_eq!(means(&["ful"]).unwrap().len(), 3);
        assert_eq!(means(&[]).unwrap().len(), 4);
        let error = means(&["nonsense"]).unwrap_err().to_string();
        assert_eq!(error, "none of the 4 names contains nonsense");
    }
}
