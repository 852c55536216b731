// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Programs as they are, with less memory than they need, the rest with one contender after another: how long they
//! take, beside how long they take with all of it.

use anyhow::{ensure, Context, Result};

use super::checksum::checksum;
use super::contender::{in_turn, Contender, Place};
use crate::guest::{vm, Cgroup, Guest, MIB};
use crate::scenarios::programs::{compile, numpy, redis, sort, sqlite, stress, Ran};

/// One program.
struct App {
    name: &'static str,
    run: fn(&Cgroup) -> Result<Ran>,
}

const APPS: &[App] = &[
    App {
        name: "redis",
        run: redis::skewed,
    },
    App {
        name: "sort",
        run: sort::run,
    },
    App {
        name: "numpy",
        run: numpy::run,
    },
    App {
        name: "sqlite",
        run: sqlite::run,
    },
    App {
        name: "gcc",
        run: compile::run,
    },
    App {
        name: "stress-ng",
        run: stress::run,
    },
];

/// Who has all the memory that it needs.
const LOCAL: &str = "local";
/// What is sorted: 32 MiB.
const SORT_LINES: u64 = 32_768;
const SORT_LINE_BYTES: usize = 1024;

/// How much is run.
struct Plan {
    rounds: usize,
    contenders: &'static [Contender],
    /// How much of its memory a program has, in percent.
    shares: &'static [u64],
}

/// All.
pub fn apps(guest: &mut Guest) -> Result<()> {
    run(
        guest,
        &Plan {
            rounds: 3,
            contenders: &[Contender::Memsrv, Contender::Nbd, Contender::Zram],
            shares: &[75, 50, 30],
        },
    )
}

/// In a hurry: what the aim speaks of.
pub fn quick_apps(guest: &mut Guest) -> Result<()> {
    run(
        guest,
        &Plan {
            rounds: 1,
            contenders: &[Contender::Memsrv, Contender::Nbd],
            shares: &[50],
        },
    )
}

fn run(guest: &mut Guest, plan: &Plan) -> Result<()> {
    compile::prepare()?;
    sort::prepare(SORT_LINES, SORT_LINE_BYTES)?;
    numpy::prepare()?;
    sqlite::prepare()?;
    stress::prepare()?;
    // The kernel's default.
    vm::set_sysctl("vm/page-cluster", "3")?;
    for round in 0..plan.rounds {
        let mut needs = Vec::new();
        for app in APPS {
            needs.push((app, one(guest, app, LOCAL, round, 100, 0)?));
        }
        for who in in_turn(plan.contenders, round) {
            let running = who.begin(guest, Place::Outside)?;
            if who == Contender::Memsrv {
                let ns = vec![checksum()?];
                guest.host.samples(who.name(), "checksum_ns", round, ns)?;
            }
            for share in plan.shares {
                for (app, needed) in &needs {
                    let limit_mib = (needed * share).div_ceil(100 * MIB);
                    one(guest, app, who.name(), round, *share, limit_mib)?;
                }
            }
            running.end(guest)?;
        }
        let words = format!("round {} of {}", round + 1, plan.rounds);
        guest.host.note(words)?;
    }
    Ok(())
}

/// Runs one, with a limit or without (0), and says how much memory it used, in bytes. When the kernel has killed one of
/// its processes there is no time: it has not done its work, or done a part of it twice.
fn one(
    guest: &mut Guest,
    app: &App,
    who: &str,
    round: usize,
    share: u64,
    limit_mib: u64,
) -> Result<u64> {
    let name = format!("{}-{share}-{who}-{round}", app.name);
    // Its files' pages are charged to whoever reads them first. In a limit they would be read again and again from the
    // disk, with whatever we swap to: so it is run once without. What it needs is then its own, too.
    (app.run)(&guest.cgroup(&format!("{name}-files"), 0)?)?;
    let cgroup = guest.cgroup(&name, limit_mib)?;
    let before = moved()?;
    let ran = (app.run)(&cgroup).with_context(|| name.clone());
    let pages = moved()?.saturating_sub(before);
    let (used, spent) = (cgroup.number("memory.peak")?, cgroup.spent()?);
    let kills = cgroup.oom_kills()?;
    let ran = match ran {
        // With ours the error may be a wrong byte that was found: no kill excuses it.
        Err(_) if kills > 0 && who != Contender::Memsrv.name() => None,
        ran => Some(ran?),
    };
    let wrong = ran.as_ref().map_or(0, |ran| ran.wrong);
    ensure!(wrong == 0, "{name}: {wrong} bytes are wrong");
    let Some(ran) = ran.filter(|_| kills == 0) else {
        cgroup.kill()?;
        let words = format!(
            "{who:8} {:10} {share:3}%: the kernel killed {kills} of its processes for lack of memory",
            app.name
        );
        guest.host.note(words)?;
        let what = format!("{}_{share}_kills", app.name);
        guest.host.samples(who, &what, round, vec![kills])?;
        return Ok(used);
    };
    let words = format!(
        "{who:8} {:10} {share:3}%: {:5.1} s, {} MiB, {pages} pages out and in",
        app.name,
        std::time::Duration::from_nanos(ran.ns).as_secs_f64(),
        used / MIB
    );
    guest.host.note(words)?;
    for (what, value) in [
        ("pages", pages),
        ("faults", spent.faults),
        ("scanned", spent.scanned),
        ("freed", spent.freed),
        ("user_us", spent.user_us),
        ("system_us", spent.system_us),
        ("waited_us", spent.waited_us),
        ("ns", ran.ns),
    ] {
        let what = format!("{}_{share}_{what}", app.name);
        guest.host.samples(who, &what, round, vec![value])?;
    }
    Ok(used)
}

/// Pages that went out or came in, of all there is; ours are counted as zswap's.
fn moved() -> Result<u64> {
    let mut pages = 0;
    for name in ["pswpin", "pswpout", "zswpin", "zswpout"] {
        pages += vm::vmstat(name)?;
    }
    Ok(pages)
}
