// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is run, how a guest is booted for it, and how one scenario runs in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use qemu_test_wire::{Machine, Outcome, Purpose, Row, Samples, Scenario, ToGuest, ToHost};

use crate::boot::{tail, Event, Guest};
use crate::console::{self, is_stale_breakpoint};
use crate::initramfs;
use crate::kernel::Kernel;
use crate::lanes::{self, Manner};
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
pub fn run(tree: &Tree, filter: &[String], manner: Manner) -> Result<bool> {
    let mut scenarios = tree.scenarios()?;
    if filter.is_empty() {
        scenarios.retain(|scenario| {
            scenario.in_test && (!scenario.debug || tree.kernel == Kernel::Debug)
        });
    }
    let ended = lanes::run(tree, meant(scenarios, filter)?, manner)?;
    let summary = format!("{} {}\n", ended.passed(), ended.failed());
    let path = tree.log_root().join("guest-summary");
    fs::write(&path, summary).with_context(|| format!("writing {}", path.display()))?;
    Ok(ended.failed() == 0)
}

/// How often a guest that does not come up is booted anew.
///
/// Until its agent speaks it has run nothing of ours. A stock kernel with several processors sometimes dies
/// there under emulation: one processor rewrites an instruction (a static branch) and another one executes
/// it half rewritten.
pub const REBOOTS: u32 = 2;

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
    let text = guest.console.text_from(console_start);
    // A benchmark counts them: a program may get too little memory with one contender and go on with another.
    let kills_allowed = scenario.machine.purpose == Purpose::Bench;
    let complaints = console::complaints(&text, kills_allowed);
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

/// The taint of its command line, the one that the module leaves, and no other.
fn wrong_taint(kernel: Kernel, scenario: &Scenario, taint: u64) -> Option<String> {
    let all = kernel.taint(scenario.machine.purpose) | kernel.module_taint();
    // A scenario without the module may come after one with it.
    let least = match scenario.module {
        true => all,
        false => kernel.taint(scenario.machine.purpose),
    };
    let wrong = taint & least != least || taint & !all != 0;
    wrong.then(|| {
        format!("the kernel's taint is {taint:#x}; it should have {least:#x} and may {all:#x}")
    })
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
                    taint: tree.kernel.module_taint() | tree.kernel.taint(scenario.machine.purpose),
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
    fn a_taint_that_is_missing_is_wrong_and_so_is_one_too_many() {
        let (module, processor) = (0x3000, 4);
        let is_wrong = |purpose, loads, taint| {
            let mut scenario = scenario("some");
            (scenario.machine.purpose, scenario.module) = (purpose, loads);
            wrong_taint(Kernel::Stock, &scenario, taint).is_some()
        };
        assert!(!is_wrong(Purpose::Test, true, module));
        assert!(!is_wrong(Purpose::Test, false, 0));
        assert!(is_wrong(Purpose::Test, true, 0));
        assert!(is_wrong(Purpose::Test, true, module | processor));
        assert!(!is_wrong(Purpose::Bench, true, module | processor));
        assert!(!is_wrong(Purpose::Bench, false, processor));
        assert!(is_wrong(Purpose::Bench, true, module));
        assert!(is_wrong(Purpose::Bench, false, module));
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
