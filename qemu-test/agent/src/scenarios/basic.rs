// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The life of a page: out, in, freed; and the module's: loaded, in use, unloaded.

use std::time::Duration;

use anyhow::{bail, ensure, Result};
use rustix::io::Errno;

use super::common::{begin, end, evict_all, evicted, expect_at_least, filled, small, PAGES, ROOMY};
use crate::guest::cgroup::Cgroup;
use crate::guest::disk::Swap;
use crate::guest::filler::Filler;
use crate::guest::{module, poll, program, vm, Guest};
use crate::pattern::Spec;

/// Evict everything, read it in order and out of order, evict again, `swapoff` with all of it away.
pub fn basic(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    let written = disk.pages_written()?;
    let spec = small(PAGES, 11);
    let (cgroup, mut filler) = evicted(guest, "basic", spec)?;
    expect_at_least(guest, "stored_pages", 8000)?;
    filler.verify()?;
    expect_at_least(guest, "loaded_pages", 8000)?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.expect_right("shuffled")?;
    evict_all(&cgroup, &spec)?;
    disk.off()?;
    guest.expect_server_pages(0)?;
    filler.verify()?;
    filler.end()?;
    let written = disk.pages_written()? - written;
    guest.figures.insert("disk".to_owned(), written);
    ensure!(written == 0, "{written} pages went to the disk");
    end(guest, &disk)
}

/// rmmod says "in use" while pages are away, and works after swapoff.
pub fn in_use(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    let (_cgroup, mut filler) = evicted(guest, "in-use", small(2048, 12))?;
    for _ in 0..3 {
        let refused = module::rmmod();
        ensure!(
            refused == Err(Errno::AGAIN),
            "rmmod with pages away: {refused:?}"
        );
    }
    filler.verify()?;
    disk.off()?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk)
}

/// What is sent carries the DSCP that was asked for.
pub fn marked(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "dscp=34")?;
    let ss = [
        "/usr/bin/ss",
        "-H",
        "-t",
        "-n",
        "--tos",
        "dport",
        "=",
        ":7170",
    ];
    let said = program::run(None, &ss)?.output;
    let connections = said.lines().filter(|line| line.contains("ESTAB")).count();
    let marked = said.matches("tos:0x88").count();
    ensure!(
        connections > 0 && marked == connections,
        "of {connections} connections {marked} are marked: {said}"
    );
    end(guest, &disk)
}

/// A program that ends leaves nothing on the server once swap is off.
pub fn ended(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    let (_cgroup, filler) = evicted(guest, "ended", small(PAGES, 13))?;
    filler.end()?;
    expect_at_least(guest, "stored_pages", 8000)?;
    end(guest, &disk)
}

/// A program that is killed frees its pages on the server, before any swapoff.
pub fn killed(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    kill_evicted(guest)?;
    end(guest, &disk)
}

/// The same in an area of 64 MiB, which is less than a chunk of the module's: the last chunk is looked at, too.
pub fn one_chunk(guest: &mut Guest) -> Result<()> {
    guest.host.start_server(ROOMY)?;
    let disk = Swap::part(0, 10, 64)?;
    guest.insmod("")?;
    kill_evicted(guest)?;
    end(guest, &disk)
}

fn kill_evicted(guest: &mut Guest) -> Result<()> {
    let (_cgroup, filler) = evicted(guest, "killed", small(PAGES, 14))?;
    let before = guest.host.server_pages()?;
    ensure!(before >= 8000, "only {before} pages are on the server");
    filler.kill()?;
    // Folios that were locked or under writeback keep their slots until reclaim (C4).
    crate::guest::poll(
        "the killed program's pages",
        std::time::Duration::from_secs(30),
        || Ok(guest.host.server_pages()? < 400),
    )
}

/// A working set of four times the limit, rewritten and read in many rounds.
pub fn rounds(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    let (_cgroup, mut filler) = filled(guest, "rounds", 4, small(PAGES / 2, 15))?;
    for round in 0..3 {
        filler.perform("rewrite")?;
        filler.expect_right(if round % 2 == 0 { "verify" } else { "shuffled" })?;
    }
    filler.end()?;
    end(guest, &disk)
}

/// On a disk that does not rotate, from where the kernel gives each processor places of its own and reads ahead by
/// address: two programs in turns of their own, and `swapoff` with their pages away.
pub fn nonrotational(guest: &mut Guest) -> Result<()> {
    guest.host.start_server(ROOMY)?;
    let mut log = vm::Log::from_now()?;
    let disk = Swap::nonrotational(0, 10)?;
    // swapon(2) in mm/swapfile.c: "SS" is SWP_SOLIDSTATE.
    let said = log.lines()?;
    let solid = |line: &String| line.starts_with("Adding ") && line.trim_end().ends_with("SS");
    ensure!(
        said.iter().any(solid),
        "the kernel takes the disk for one that rotates: {said:?}"
    );
    guest.insmod("")?;
    let pages = PAGES / 2;
    let (room, mut first) = filled(guest, "nonrotational-1", 4, small(pages, 21))?;
    let (other_room, mut second) = filled(guest, "nonrotational-2", 4, small(pages, 22))?;
    for order in ["rewrite", "verify", "rewrite", "shuffled"] {
        first.order(order)?;
        second.order(order)?;
        first.right_answer()?;
        second.right_answer()?;
    }
    expect_at_least(guest, "loaded_pages", u64::try_from(pages)?)?;
    // What comes back has to fit.
    room.set_limit(0)?;
    other_room.set_limit(0)?;
    disk.off()?;
    guest.expect_server_pages(0)?;
    for mut filler in [first, second] {
        filler.verify()?;
        filler.end()?;
    }
    end(guest, &disk)
}

/// Without a cgroup: half as much again as the guest's RAM, kswapd at work.
pub fn global(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "512M", "")?;
    let written = disk.pages_written()?;
    let (_cgroup, mut filler) = filled(guest, "global", 0, small(96 * 1024, 16))?;
    filler.verify()?;
    filler.end()?;
    let written = disk.pages_written()? - written;
    guest.figures.insert("disk".to_owned(), written);
    expect_at_least(guest, "stored_pages", 30_000)?;
    end(guest, &disk)
}

/// The statistics can be read at any time, and the kernel's own counters show the traffic.
pub fn statistics(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    let (out, back) = (vm::vmstat("zswpout")?, vm::vmstat("zswpin")?);
    let cgroup = guest.cgroup("statistics", 8)?;
    let mut filler = guest.filler(&cgroup, small(PAGES, 17))?;
    let mut readings = 0;
    for order in ["fill", "verify"] {
        filler.order(order)?;
        for _ in 0..100 {
            module::stats()?;
            readings += 1;
        }
        filler.answer()?;
    }
    ensure!(filler.wrong == 0, "{} bytes are wrong", filler.wrong);
    filler.end()?;
    guest.figures.insert("readings".to_owned(), readings);
    for key in ["store_us", "load_us"] {
        let histogram = module::histogram(&format!("{key}_log2"))?;
        ensure!(
            histogram.iter().sum::<u64>() > 0,
            "{key}_log2 counts nothing"
        );
        for part in [50, 99] {
            let bound = module::percentile(&histogram, part);
            guest.figures.insert(format!("{key}_p{part}"), bound);
        }
    }
    let stored = guest.stat("stored_pages")?;
    let loaded = guest.stat("loaded_pages")?;
    let (out, back) = (vm::vmstat("zswpout")? - out, vm::vmstat("zswpin")? - back);
    ensure!(
        out >= stored && stored > 5000,
        "vmstat's zswpout grew by {out}, stored {stored}"
    );
    ensure!(
        back >= loaded && loaded > 5000,
        "vmstat's zswpin grew by {back}, loaded {loaded}"
    );
    end(guest, &disk)
}

/// Single faults, one of which the server answers late: that stage takes the time.
pub fn stages(guest: &mut Guest) -> Result<()> {
    /// The server's pause takes longer than 2^30 ns, from where on all are in the last bucket.
    const PAUSE: Duration = Duration::from_secs(2);
    let disk = begin(guest, ROOMY, "silence_ms=30000")?;
    vm::set_sysctl("vm/page-cluster", "0")?;
    let (_cgroup, mut filler) = evicted(guest, "stages", small(PAGES / 4, 19))?;
    guest.host.pause_server()?;
    filler.order("shuffled")?;
    std::thread::sleep(PAUSE);
    guest.host.resume_server()?;
    let answer = filler.answer()?;
    ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong);
    filler.end()?;
    let timed = guest.stat("faults_timed")?;
    expect_at_least(guest, "faults_timed", 1000)?;
    let stage = |name: &str| -> Result<u64> {
        let all: u64 = module::histogram(&format!("fault_{name}_ns_log2"))?
            .iter()
            .sum();
        let ns = guest.stat(&format!("fault_{name}_ns"))?;
        ensure!(
            all == timed && ns > 0,
            "stage {name}: {all} of {timed} faults, {ns} ns in all"
        );
        Ok(ns)
    };
    let (hand, answer, fill) = (stage("hand")?, stage("answer")?, stage("fill")?);
    let late = module::histogram("fault_answer_ns_log2")?.pop();
    ensure!(
        late > Some(0) && answer > hand + fill,
        "the server's pause is not in the answers' stage: {late:?} were late, {hand} ns, {answer}, {fill}"
    );
    end(guest, &disk)
}

/// insmod and rmmod again and again, with pages out and in between.
pub fn reload(guest: &mut Guest) -> Result<()> {
    guest.host.start_server(ROOMY)?;
    for round in 0..20 {
        let disk = crate::guest::Swap::on(0, 10)?;
        guest.insmod("")?;
        if round % 4 == 0 {
            let (cgroup, mut filler) = evicted(guest, "reload", small(512, round))?;
            filler.verify()?;
            filler.end()?;
            cgroup.remove()?;
        }
        disk.off()?;
        guest.rmmod()?;
    }
    guest.expect_server_pages(0)?;
    guest.host.stop_server()
}

/// Many pages asked for at once: by the kernel's readahead, and by a task that asks for more than may be in flight.
pub fn readahead(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "ahead=0")?;
    let spec = small(PAGES, 19);
    let (cgroup, mut filler) = evicted(guest, "readahead", spec)?;
    vm::set_sysctl("vm/page-cluster", "3")?;
    let pages = u64::try_from(PAGES)?;
    filler.verify()?;
    expect_at_least(guest, "plugged_loads", pages / 2)?;
    loads_were_sent()?;
    expect_told(guest, pages / 100)?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    let before = guest.stat("plugged_loads")?;
    filler.perform("will-need")?;
    expect_at_least(guest, "plugged_loads", before + pages / 2)?;
    filler.verify()?;
    loads_were_sent()?;
    expect_told(guest, pages / 100)?;
    filler.end()?;
    end(guest, &disk)
}

/// Pages that are asked for before anybody wants them: read alone, and with others written and evicted meanwhile; and,
/// told so, none.
pub fn ahead(guest: &mut Guest) -> Result<()> {
    vm::set_sysctl("vm/page-cluster", "0")?;
    for (parameters, asks) in [("", true), ("ahead=0", false)] {
        let disk = begin(guest, ROOMY, parameters)?;
        let spec = small(PAGES, 21);
        let (cgroup, mut filler) = evicted(guest, "ahead", spec)?;
        filler.verify()?;
        let alone = guest.stat("ahead_pages_used")?;
        let pages = u64::try_from(PAGES)?;
        ensure!(
            (alone > pages / 2) == asks,
            "{parameters}: {alone} of {pages} pages had been asked for"
        );
        cgroup.set_limit(8)?;
        for _ in 0..2 {
            filler.perform("rewrite")?;
            filler.verify()?;
        }
        let used = guest.stat("ahead_pages_used")?;
        let asked = guest.stat("ahead_pages")?;
        ensure!(
            (used > alone) == asks && used <= asked,
            "{parameters}: {asked} pages were asked for, {used} used, {alone} of them before others were evicted"
        );
        let figure = format!("pages asked ahead, in percent of those used, {parameters}");
        guest.figures.insert(figure, asked * 100 / used.max(1));
        filler.end()?;
        end(guest, &disk)?;
        cgroup.remove()?;
    }
    Ok(())
}

/// What waits to be sent for something that does not come is sent by a thread that looks each 200 ms: most loads were
/// answered before that.
fn loads_were_sent() -> Result<()> {
    /// 2^17 us are 131 ms.
    const LATE: usize = 18;
    let buckets = module::histogram("load_us_log2")?;
    let late: u64 = buckets.iter().skip(LATE).sum();
    let all: u64 = buckets.iter().sum();
    ensure!(
        late < all / 2,
        "of {all} loads, {late} took more than 131 ms"
    );
    Ok(())
}

/// Whatever waits to be sent is sent by who ends the waiting, and not by the thread that looks at the clock; which may come
/// in between, but not often.
fn expect_told(guest: &mut Guest, limit: u64) -> Result<()> {
    let overslept = guest.stat("overslept")?;
    guest.figures.insert("overslept".to_owned(), overslept);
    ensure!(
        overslept < limit,
        "the thread found {overslept} times what nobody had told it of"
    );
    Ok(())
}

/// A few pages at a time are evicted: they wait for each other, and then no longer than the task goes on.
pub fn held_stores(guest: &mut Guest) -> Result<()> {
    const FEW: u64 = 20;
    const ROUNDS: u64 = 64;
    let disk = begin(guest, ROOMY, "")?;
    let (cgroup, mut filler) = filled(guest, "held-stores", 0, small(PAGES / 4, 110))?;
    for _ in 0..ROUNDS {
        cgroup.reclaim_some(FEW)?;
        poll("the end of writing", Duration::from_secs(60), || {
            Ok(vm::pages_in_writeback()? == 0)
        })?;
    }
    expect_at_least(guest, "held_stores", ROUNDS)?;
    expect_told(guest, ROUNDS / 8)?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    end(guest, &disk)
}

/// How often a task is given the chance to wait without sleeping. It takes the first one, unless somebody else
/// wants its processor just then; after that it depends on how long loads take.
const CHANCES: usize = 8;

/// Faults that may be waited for without sleeping, one by one and in readaheads, so that both ways are tried; and, told so,
/// none that are.
pub fn spinning(guest: &mut Guest) -> Result<()> {
    for (parameters, cluster, order, spins) in [
        ("spin_us=10000", "0", "shuffled", true),
        ("spin_us=10000", "3", "verify", true),
        ("spin_us=0", "0", "shuffled", false),
        ("spin_us=0", "3", "verify", false),
    ] {
        vm::set_sysctl("vm/page-cluster", cluster)?;
        let chances = if spins { CHANCES } else { 1 };
        let mut seen = [0; 3];
        for _ in 0..chances {
            seen = spins_of(guest, parameters, order)?;
            if !seen.contains(&0) {
                break;
            }
        }
        let [spun, sleeping_us, spinning_us] = seen;
        ensure!(
            seen.iter().all(|&seen| (seen > 0) == spins),
            "{parameters}, page-cluster {cluster}: {spun} waits without sleeping, loads of {sleeping_us} us and {spinning_us} us, in {chances} rounds"
        );
        guest.figures.insert(
            format!("spins of {parameters}, page-cluster {cluster}"),
            spun,
        );
    }
    vm::set_sysctl("vm/page-cluster", "3")
}

/// A program by itself waits without sleeping; how often tasks have by then. It is asked to again where it met an accident.
fn spins_alone(guest: &Guest, cgroup: &Cgroup, alone: &mut Filler, spec: &Spec) -> Result<u64> {
    let before = guest.stat("spins")?;
    for _ in 0..CHANCES {
        evict_all(cgroup, spec)?;
        alone.expect_right("shuffled")?;
        let spins = guest.stat("spins")?;
        // Not only the first few of its pages.
        if spins > before + 100 {
            return Ok(spins);
        }
        alone.perform("rewrite")?;
    }
    bail!("a program by itself does not wait without sleeping");
}

/// How often tasks waited without sleeping while everything was read once, in that order, and what loads were found to
/// take where they sleep and where they do not. The module is new: it knows nothing yet of how long a load takes.
fn spins_of(guest: &mut Guest, parameters: &str, order: &str) -> Result<[u64; 3]> {
    let disk = begin(guest, ROOMY, parameters)?;
    let spec = small(PAGES, 18);
    let (cgroup, mut filler) = evicted(guest, "spinning", spec)?;
    filler.expect_right(order)?;
    let spun = guest.stat("spins")?;
    ensure!(guest.stat("spins_won")? <= spun, "more came than spun");
    let (sleeping_us, spinning_us) = (
        guest.stat("load_us_sleeping")?,
        guest.stat("load_us_spinning")?,
    );
    filler.end()?;
    end(guest, &disk)?;
    cgroup.remove()?;
    Ok([spun, sleeping_us, spinning_us])
}

/// Programs that wait for a page each, in a guest of two processors.
const CROWD: u64 = 6;

/// While more tasks wait for a page than half of the processors, none does so without sleeping: what makes the pages come
/// may need the processor. The server stands still, so that all of them wait.
pub fn crowded(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "spin_us=10000 silence_ms=60000")?;
    vm::set_sysctl("vm/page-cluster", "0")?;
    let mut crowd = Vec::new();
    for one in 0..CROWD {
        let spec = small(256, 90 + one);
        crowd.push(evicted(guest, &format!("crowded-{one}"), spec)?);
    }
    let spec = small(PAGES, 89);
    let (cgroup, mut alone) = filled(guest, "crowded-alone", 0, spec)?;
    let before = spins_alone(guest, &cgroup, &mut alone, &spec)?;
    guest.host.pause_server()?;
    for ((_, filler), waiting) in crowd.iter_mut().zip(1..) {
        filler.order("verify")?;
        poll("the next load", Duration::from_secs(60), || {
            Ok(guest.stat("inflight_loads")? >= waiting)
        })?;
    }
    let spins = guest.stat("spins")? - before;
    guest.host.resume_server()?;
    for (_, filler) in &mut crowd {
        filler.right_answer()?;
    }
    ensure!(
        spins <= 1,
        "{spins} of {CROWD} tasks have waited without sleeping, one may"
    );
    spins_alone(guest, &cgroup, &mut alone, &spec)?;
    vm::set_sysctl("vm/page-cluster", "3")?;
    for (_, filler) in crowd {
        filler.end()?;
    }
    alone.end()?;
    end(guest, &disk)
}
