// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What happens in a cell: programs with more memory than room, the fault at its moment, then everything is
//! mended that can be, every byte is checked, and nothing may be left over.

use std::thread::{sleep, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::fault::{Fault, Who};
use super::mode::Mode;
use super::moment::Moment;
use super::worker::Worker;
use super::{Cell, Kind};
use crate::guest::{card, joined, module, poll, vm, Cgroup, Filler, Guest, Swap};
use crate::pattern::Spec;

use super::super::common::{evict_all, filled, small, ROOMY};
use super::super::losses::ended_by_loss;
use super::super::mirror::{settled, whole};

/// How long anything may take that does not hang.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a load waits for a server, where that stays away.
const HOLD: Duration = Duration::from_secs(3);
/// Programs that only take memory.
const BALLASTS: u64 = 3;
/// Pages that must have gone or come before a fault strikes.
const MOVING: u64 = 100;
/// After how many seconds a task that waits is a panic.
const HUNG: &str = "kernel/hung_task_timeout_secs";

/// A program with memory, and its cgroup.
struct Program {
    cgroup: Cgroup,
    spec: Spec,
    filler: Filler,
}

/// A cell that is being run.
struct Play<'p, 'g> {
    cell: Cell,
    guest: &'p mut Guest<'g>,
    /// Who is hurt.
    victim: Who,
    disk: Swap,
    /// Where other programs' pages go while the first area is switched off.
    spare: Option<Swap>,
    /// Servers that run and can be reached.
    there: Vec<Who>,
    /// The programs that have not been ended by a loss.
    programs: Vec<Program>,
    lost: u64,
    started: Instant,
}

impl Cell {
    /// Runs it.
    pub fn run(self, guest: &mut Guest) -> Result<()> {
        // The usual 300 s are above every outage, as a swapoff needs that waits for its server. Others wait less.
        let usual: u64 = vm::sysctl(HUNG)?.parse().context("a number of seconds")?;
        if self.moment != Moment::Swapoff {
            vm::set_sysctl(HUNG, &(usual * 2 / 5).to_string())?;
        }
        let ended = Play::begin(self, guest).and_then(Play::run);
        let calm = card::calm();
        vm::set_sysctl(HUNG, &usual.to_string())?;
        ended.and(calm)
    }

    /// Which server is hurt: with two of them the one that is read from; during a resync the one that is being
    /// filled, where the other's loss would be that of its pages.
    pub(super) fn victim(self) -> Who {
        if self.moment == Moment::Resync && self.fault.is_grave() {
            Who::Mirror
        } else {
            Who::Primary
        }
    }

    /// A program's pages and its cgroup's limit in MiB; pages of each of [`BALLASTS`] others that have no limit, so that
    /// the machine as a whole is short of memory.
    fn sizes(self) -> (usize, u64, usize) {
        match self.machine() {
            Kind::Small => (3072, 6, 3413),
            Kind::Usual => (4096, 8, 0),
            Kind::Large | Kind::Measuring | Kind::Counting => (6144, 12, 0),
        }
    }
}

impl<'p, 'g> Play<'p, 'g> {
    /// Servers, swap, module.
    fn begin(cell: Cell, guest: &'p mut Guest<'g>) -> Result<Self> {
        let victim = cell.victim();
        let mut there = vec![Who::Primary];
        if cell.mode.is_mirrored() {
            there.push(Who::Mirror);
        }
        for &who in &there {
            let arguments = cell.mode.arguments(who, "life");
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let cramped = who == victim && cell.moment != Moment::Resync;
            let capacity = if cramped {
                cell.fault.capacity()
            } else {
                ROOMY
            };
            who.with(guest.host, |host| host.start_server_with(capacity, &words))?;
        }
        let disk = Swap::on(0, 10)?;
        let spare = match cell.moment {
            Moment::Swapoff => Some(Swap::on(1, 5)?),
            _ => None,
        };
        let mut parameters = cell.mode.parameters();
        if cell.fault.is_for_good() {
            parameters.push_str(&format!(" hold_ms={}", HOLD.as_millis()));
        }
        guest.insmod(&parameters)?;
        Ok(Self {
            cell,
            guest,
            victim,
            disk,
            spare,
            there,
            programs: Vec::new(),
            lost: 0,
            started: Instant::now(),
        })
    }

    fn run(mut self) -> Result<()> {
        let (pages, limit, ballast) = self.cell.sizes();
        if ballast > 0 {
            for number in 0..BALLASTS {
                let spec = small(ballast, 205 + number);
                self.start(&format!("ballast-{number}"), 0, spec)?;
            }
        }
        self.start("program", limit, small(pages, 202))?;
        if self.cell.moment == Moment::Swapoff {
            self.in_swapoff()?;
        } else {
            self.at_work()?;
        }
        self.now("verify")?;
        let lossy = self.cell.may_lose();
        self.verify(lossy)?;
        self.prove()?;
        self.newcomer()?;
        self.end()
    }

    /// Says what begins, and notes when, in milliseconds from the beginning.
    fn now(&mut self, what: &str) -> Result<()> {
        let ms = u64::try_from(self.started.elapsed().as_millis())?;
        self.guest.figures.insert(format!("at_{what}"), ms);
        self.guest.host.note(what)
    }

    /// Starts a program that fills its memory.
    fn start(&mut self, name: &str, limit_mib: u64, spec: Spec) -> Result<()> {
        let (cgroup, filler) = filled(self.guest, name, limit_mib, spec)?;
        self.programs.push(Program {
            cgroup,
            spec,
            filler,
        });
        Ok(())
    }

    fn last_program(&mut self) -> Result<Program> {
        self.programs.pop().context("no program runs")
    }

    /// A program that went on is among the programs again; one that was ended by a loss is not, if that may be.
    fn ended(
        &mut self,
        ended: Result<Filler>,
        cgroup: Cgroup,
        spec: Spec,
        lossy: bool,
    ) -> Result<()> {
        match ended {
            Ok(filler) => self.programs.push(Program {
                cgroup,
                spec,
                filler,
            }),
            Err(error) if lossy => {
                ended_by_loss(&error)?;
                self.lost += 1;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The fault strikes while the program works: writes, reads, or both while a server is being filled.
    fn at_work(&mut self) -> Result<()> {
        let Program {
            cgroup,
            spec,
            mut filler,
        } = self.last_program()?;
        let refilled = Who::Mirror;
        match self.cell.moment {
            Moment::Faults => evict_all(&cgroup, &spec)?,
            Moment::Resync => {
                refilled.with(self.guest.host, |host| host.kill_server())?;
                for _ in 0..3 {
                    filler.perform("rewrite")?;
                }
            }
            _ => {}
        }
        let before = self.moved()?;
        let worker = Worker::start(filler, self.cell.moment.orders());
        if self.cell.moment == Moment::Resync {
            let capacity = self.cell.fault.capacity();
            refilled.with(self.guest.host, |host| host.start_server(capacity))?;
            poll("a connection to who comes back", PATIENCE, || {
                Ok(module::text("mirror_link.0.state")? == "up")
            })?;
            let behind = self.guest.stat("behind_clusters_mirror")?;
            self.guest.figures.insert("behind".to_owned(), behind);
        } else {
            self.moves(before)?;
        }
        self.strike()?;
        worker.goes_on(PATIENCE)?;
        let ended = worker.finish(PATIENCE);
        let lossy = self.cell.may_lose();
        self.ended(ended, cgroup, spec, lossy)
    }

    /// The fault strikes while the first area is switched off, and another program is evicted to the second.
    fn in_swapoff(&mut self) -> Result<()> {
        let program = self.programs.last().context("no program runs")?;
        // What swapoff reads back is charged to the cgroup.
        program.cgroup.set_limit(0)?;
        evict_all(&program.cgroup, &program.spec)?;
        self.start("other", 4, small(2048, 203))?;
        let other = self.last_program()?;
        let worker = Worker::start(other.filler, self.cell.moment.orders());
        let before = self.moved()?;
        let off = switch_off(&self.disk);
        self.moves(before)?;
        ensure!(!off.is_finished(), "swapoff ended before the fault");
        self.strike()?;
        let lossy = self.cell.may_lose();
        if lossy && self.cell.fault.is_for_good() {
            sleep(HOLD * 2);
            ensure!(!off.is_finished(), "swapoff did not wait for the server");
            give_up(&off)?;
        }
        join(off)?;
        worker.goes_on(PATIENCE)?;
        let ended = worker.finish(PATIENCE);
        self.ended(ended, other.cgroup, other.spec, lossy)?;
        self.disk.enable(10)
    }

    /// Pages stored and loaded so far; those that a full server has no room for go to the disk.
    fn moved(&self) -> Result<u64> {
        let remote = self.guest.stat("stored_pages")? + self.guest.stat("loaded_pages")?;
        Ok(remote + vm::vmstat("pswpin")? + vm::vmstat("pswpout")?)
    }

    /// Waits until pages move, and some are on a server: while that waits for its disk they go to the guest's.
    fn moves(&self, before: u64) -> Result<()> {
        poll("pages on their way", PATIENCE, || {
            Ok(self.moved()? >= before + MOVING && self.guest.stat("stored_pages")? > 0)
        })
    }

    fn strike(&mut self) -> Result<()> {
        let Cell { mode, fault, .. } = self.cell;
        self.now("strike")?;
        // Else all would be well because the disk has everything.
        let stored = self.guest.stat("stored_pages")?;
        ensure!(stored > 0, "no page is on a server");
        if fault.is_for_good() {
            self.there.retain(|&who| who != self.victim);
        }
        fault.strike(self.guest, mode, self.victim)
    }

    /// Reads every page of every program, from wherever it was evicted to: all at once, since each waits most of the time.
    fn verify(&mut self, lossy: bool) -> Result<()> {
        for program in &self.programs {
            // Room for all of it: each page is read once, and none is written.
            program.cgroup.set_limit(0)?;
            // Pages that a swapoff has lost are nowhere, and cannot be evicted.
            if !lossy || self.cell.moment != Moment::Swapoff {
                evict_all(&program.cgroup, &program.spec)?;
            }
        }
        for program in &mut self.programs {
            program.filler.order("shuffled")?;
        }
        for program in std::mem::take(&mut self.programs) {
            let Program {
                cgroup,
                spec,
                mut filler,
            } = program;
            let ended = filler.right_answer().map(|_| filler);
            self.ended(ended, cgroup, spec, lossy)?;
        }
        Ok(())
    }

    /// With two servers, both there: the one that was hurt has every page again, since all can be read from it
    /// alone.
    fn prove(&mut self) -> Result<()> {
        let other = self.victim.other();
        let refused = self.cell.fault == Fault::Full && self.cell.moment == Moment::Resync;
        if !self.there.contains(&self.victim) || !self.there.contains(&other) || refused {
            return Ok(());
        }
        self.now("prove")?;
        for program in &self.programs {
            evict_all(&program.cgroup, &program.spec)?;
        }
        settled(self.guest)?;
        whole(self.guest)?;
        other.with(self.guest.host, |host| host.kill_server())?;
        self.there.retain(|&who| who == self.victim);
        self.verify(self.cell.is_unseen())
    }

    /// A program that starts after all that is served as ever.
    fn newcomer(&mut self) -> Result<()> {
        self.now("newcomer")?;
        let spec = small(1024, 204);
        let (cgroup, mut filler) = filled(self.guest, "newcomer", 0, spec)?;
        evict_all(&cgroup, &spec)?;
        filler.verify()?;
        filler.end()
    }

    /// The fault was one: what passes because nothing happened shows nothing.
    fn felt(&self, failed_loads: u64) -> Result<()> {
        let Cell {
            mode,
            fault,
            moment,
        } = self.cell;
        let read = matches!(moment, Moment::Faults | Moment::Swapoff);
        if mode == Mode::None && read && self.cell.may_lose() {
            ensure!(failed_loads > 0, "no page was lost with its only server");
        }
        if matches!(
            fault,
            Fault::Reset | Fault::Flap | Fault::Restart | Fault::Restartp
        ) {
            let reconnects = self.guest.stat("reconnects")?;
            ensure!(reconnects > 0, "no connection was made anew");
        }
        Ok(())
    }

    /// Everything off, nothing left anywhere.
    fn end(mut self) -> Result<()> {
        self.now("end")?;
        for program in self.programs.drain(..) {
            program.filler.end()?;
        }
        for area in [Some(&self.disk), self.spare.as_ref()]
            .into_iter()
            .flatten()
        {
            let off = switch_off(area);
            join(off)?;
        }
        poll("no slot left", PATIENCE, || {
            Ok(self.guest.stat("remote_pages")? == 0)
        })?;
        let leftover = self.guest.stat("leftover_slots")?;
        ensure!(leftover == 0, "{leftover} slots were left over");
        let failed = self.guest.stat("failed_loads")?;
        self.guest.figures.insert("failed_loads".to_owned(), failed);
        self.guest
            .figures
            .insert("ended_by_loss".to_owned(), self.lost);
        ensure!(
            failed == 0 || self.lost > 0 || self.cell.may_lose(),
            "{failed} loads failed"
        );
        self.felt(failed)?;
        for &who in &self.there {
            poll("no page left on a server", Duration::from_secs(30), || {
                Ok(who.with(self.guest.host, |host| host.server_pages())? == 0)
            })
            .with_context(|| format!("{who:?}"))?;
        }
        self.guest.rmmod()?;
        for &who in &self.there {
            who.with(self.guest.host, |host| host.stop_server())?;
        }
        Ok(())
    }
}

fn switch_off(area: &Swap) -> JoinHandle<Result<f64>> {
    let area = area.clone();
    std::thread::spawn(move || area.off())
}

fn join(off: JoinHandle<Result<f64>>) -> Result<()> {
    poll("the end of swapoff", PATIENCE, || Ok(off.is_finished()))?;
    joined(off, "swapoff").map(drop)
}

/// `giveup`, as soon as the module has noticed that nobody is there.
fn give_up(off: &JoinHandle<Result<f64>>) -> Result<()> {
    poll("giveup", PATIENCE, || {
        Ok(off.is_finished() || module::control("giveup").is_ok())
    })
}
