// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Every scenario, in one table. To add one: write `fn(&mut Guest) -> Result<()>` in a file of its own
//! or beside its relatives, and give it a line in [`TABLE`]. The cells of the fault matrix come from
//! [`faults`], which has one procedure for all.

mod basic;
mod bench;
mod common;
mod demo;
mod faults;
mod figures;
mod forwarded;
mod injected;
mod kinds;
mod losses;
mod mirror;
mod plain;
mod power;
mod programs;
mod refusals;
mod resync;
mod room;
mod through;
mod tiers;

use anyhow::Result;
use qemu_test_wire::{Machine, Purpose, Scenario, TARGET_SCENARIO};

use crate::guest::Guest;

/// What a scenario does.
type Scene = fn(&mut Guest) -> Result<()>;

#[derive(Clone, Copy)]
enum Deed {
    Scene(Scene),
    Cell(faults::Cell),
}

/// One scenario.
#[derive(Clone, Copy)]
pub struct Entry {
    /// A cell makes up its own.
    name: &'static str,
    about: &'static str,
    machine: Kind,
    limit_s: u64,
    module: bool,
    in_test: bool,
    debug: bool,
    deed: Deed,
}

/// The machines there are; few, so that many scenarios share a boot.
#[derive(Clone, Copy)]
enum Kind {
    /// 128 MiB of RAM, else as usual.
    Small,
    /// 256 MiB of RAM, two processors, two swap disks.
    Usual,
    /// 512 MiB of RAM, else as usual.
    Large,
    /// For measuring time: a gigabyte of RAM, so that only what is measured is short.
    Measuring,
    /// For counting instructions: much RAM, so that only what is measured is short, and one processor.
    Counting,
}

impl Kind {
    fn machine(self) -> Machine {
        Machine {
            memory_mib: match self {
                Self::Small => 128,
                Self::Usual => 256,
                Self::Large => 512,
                Self::Measuring | Self::Counting => 1024,
            },
            cpus: match self {
                Self::Counting => 1,
                _ => 2,
            },
            swap_mib: vec![1024, 256],
            purpose: match self {
                Self::Measuring => Purpose::Bench,
                Self::Counting => Purpose::Count,
                _ => Purpose::Test,
            },
        }
    }
}

impl Entry {
    const fn new(name: &'static str, about: &'static str, run: Scene) -> Self {
        Self {
            name,
            about,
            machine: Kind::Usual,
            limit_s: 400,
            module: true,
            in_test: true,
            debug: false,
            deed: Deed::Scene(run),
        }
    }

    fn cell(cell: faults::Cell) -> Self {
        Self {
            name: "",
            about: "",
            machine: cell.machine(),
            limit_s: cell.limit_s(),
            module: true,
            in_test: cell.is_quick(),
            debug: false,
            deed: Deed::Cell(cell),
        }
    }

    const fn plain(name: &'static str, about: &'static str, run: Scene) -> Self {
        Self {
            module: false,
            ..Self::new(name, about, run)
        }
    }

    const fn demo(name: &'static str, about: &'static str, run: Scene) -> Self {
        Self {
            in_test: false,
            ..Self::new(name, about, run)
        }
    }

    const fn measure(machine: Kind, name: &'static str, about: &'static str, run: Scene) -> Self {
        Self {
            machine,
            in_test: false,
            ..Self::new(name, about, run)
        }
    }

    /// What a second guest does for the first.
    const fn second(name: &'static str, about: &'static str, run: Scene) -> Self {
        Self {
            module: false,
            ..Self::measure(Kind::Measuring, name, about, run)
        }
    }

    const fn debug(name: &'static str, about: &'static str, run: Scene) -> Self {
        Self {
            debug: true,
            ..Self::new(name, about, run)
        }
    }

    const fn within(self, limit_s: u64) -> Self {
        Self { limit_s, ..self }
    }

    /// Its name.
    pub fn name(&self) -> String {
        match &self.deed {
            Deed::Scene(_) => self.name.to_owned(),
            Deed::Cell(cell) => cell.name(),
        }
    }

    /// Does it.
    pub fn run(&self, guest: &mut Guest) -> Result<()> {
        match &self.deed {
            Deed::Scene(scene) => scene(guest),
            Deed::Cell(cell) => cell.run(guest),
        }
    }

    /// What the harness needs to know.
    pub fn listing(&self) -> Scenario {
        Scenario {
            name: self.name(),
            about: match &self.deed {
                Deed::Scene(_) => self.about.to_owned(),
                Deed::Cell(cell) => cell.about(),
            },
            machine: self.machine.machine(),
            limit_s: self.limit_s,
            module: self.module,
            in_test: self.in_test,
            debug: self.debug,
            cell: match &self.deed {
                Deed::Scene(_) => None,
                Deed::Cell(cell) => Some(cell.listing()),
            },
        }
    }
}

/// The table, and the fault matrix.
pub fn all() -> impl Iterator<Item = Entry> {
    TABLE.iter().copied().chain(faults::all().map(Entry::cell))
}

const TABLE: &[Entry] = &[
    Entry::plain(
        "plain-swap",
        "no module: fill, evict to the disk, verify",
        plain::swap,
    ),
    Entry::new("basic", "evict, verify, swapoff, rmmod", basic::basic),
    Entry::new(
        "in-use",
        "rmmod is refused while pages are away",
        basic::in_use,
    ),
    Entry::new("ended", "a program that ends leaves nothing", basic::ended),
    Entry::new(
        "killed",
        "a killed program's pages are freed on the server",
        basic::killed,
    ),
    Entry::new(
        "rounds",
        "four times the limit, rewritten in rounds",
        basic::rounds,
    ),
    Entry::new(
        "global",
        "half as much again as there is RAM",
        basic::global,
    )
    .within(400),
    Entry::new(
        "statistics",
        "readable while it runs; vmstat agrees",
        basic::statistics,
    ),
    Entry::new(
        "spinning",
        "faults that are waited for without sleeping",
        basic::spinning,
    ),
    Entry::new(
        "readahead",
        "many pages asked for at once",
        basic::readahead,
    ),
    Entry::new("reload", "insmod and rmmod twenty times", basic::reload).within(300),
    Entry::new("huge", "2 MiB folios out and in", kinds::huge),
    Entry::new("large", "64 KiB folios out and in", kinds::large),
    Entry::new("zero", "zero pages among others", kinds::zero),
    Entry::new(
        "shared",
        "shmem pages, swapoff with them away",
        kinds::shared,
    ),
    Entry::new("fork", "fork with pages away", kinds::fork),
    Entry::new("full", "a full server: the rest to the disk", room::full),
    Entry::new(
        "full-zswap",
        "a full server: the rest to zswap",
        room::full_zswap,
    ),
    Entry::new(
        "upgraded",
        "a server that keeps its pages is stopped under eviction and started anew",
        room::upgraded,
    ),
    Entry::new("inflight", "a tiny in-flight table", room::inflight),
    Entry::new(
        "inflight-huge",
        "a table too small for a huge folio",
        room::inflight_huge,
    ),
    Entry::new(
        "killed-idle",
        "the server dies empty and comes back",
        room::killed_idle,
    ),
    Entry::new(
        "paused",
        "the server stands still for a while",
        room::paused,
    ),
    Entry::new(
        "link-down",
        "the network goes and comes back",
        room::link_down,
    ),
    Entry::new(
        "lost",
        "the server dies with pages, a new one starts: SIGBUS, no wrong bytes",
        losses::lost,
    ),
    Entry::new(
        "held",
        "the server dies with pages and stays away",
        losses::held,
    ),
    Entry::new(
        "swapoff-waits",
        "swapoff waits for a server that is away",
        losses::swapoff_waits,
    ),
    Entry::new(
        "read-again",
        "reads that timed out are repeated",
        losses::read_again,
    ),
    Entry::new(
        "given-up",
        "giveup ends a swapoff that waits",
        losses::given_up,
    ),
    Entry::new("deaf", "a server that never acknowledges", losses::deaf),
    Entry::new(
        "deaf-again",
        "a new connection gives a store no more time",
        losses::deaf_again,
    ),
    Entry::new(
        "hostile",
        "a server that breaks the protocol in every session",
        losses::hostile,
    ),
    Entry::new(
        "no-hooks",
        "a kernel without a function to hook",
        losses::no_hooks,
    ),
    Entry::new(
        "unload-busy",
        "insmod and rmmod under others' swapping",
        room::unload_busy,
    ),
    Entry::new(
        "unload-often",
        "insmod and rmmod many times under load",
        room::unload_often,
    )
    .within(600),
    Entry::debug(
        "faults-atomic",
        "a part of all allocations that cannot wait fails",
        injected::atomic,
    )
    .within(600),
    Entry::debug(
        "faults-ours",
        "a part of all allocations made on the module's behalf fails",
        injected::ours,
    )
    .within(600),
    Entry::debug(
        "faults-insmod",
        "insmod while allocations fail: loaded, or refused and nothing left",
        injected::insmod,
    )
    .within(600),
    Entry::new(
        "disk-before",
        "pages on disk before insmod",
        tiers::disk_before,
    ),
    Entry::new(
        "zswap-before",
        "zswap on before insmod",
        tiers::zswap_before,
    ),
    Entry::new(
        "zswap-after",
        "zswap switched on and off after insmod",
        tiers::zswap_after,
    ),
    Entry::new(
        "zswap-shrinker",
        "zswap's shrinker busy, server full",
        tiers::zswap_shrinker,
    ),
    Entry::new(
        "two-areas",
        "two swap areas of one priority",
        tiers::two_areas,
    ),
    Entry::new(
        "areas-come-and-go",
        "areas added and removed meanwhile",
        tiers::areas_come_and_go,
    ),
    Entry::new(
        "wrong-parameters",
        "insmod says what is wrong",
        refusals::parameters,
    ),
    Entry::new(
        "wrong-servers",
        "nobody there, or somebody else",
        refusals::servers,
    ),
    Entry::new(
        "wrong-version",
        "another version of the protocol",
        refusals::version,
    ),
    Entry::new("mirror-both", "each page on two servers", mirror::both),
    Entry::new(
        "mirror-primary-killed",
        "the primary dies while pages are read",
        mirror::primary_killed,
    ),
    Entry::new(
        "mirror-killed",
        "the mirror dies while pages are stored",
        mirror::mirror_killed,
    ),
    Entry::new(
        "mirror-slow",
        "a primary that stands still: the mirror is asked, too",
        mirror::primary_slow,
    ),
    Entry::new(
        "resync",
        "a server that comes back empty is filled by the other",
        resync::returns,
    )
    .within(300),
    Entry::new(
        "resync-pressure",
        "the same while a program never stops writing",
        resync::under_pressure,
    )
    .within(400),
    Entry::new("resync-broken", "faults in the midst of it", resync::broken).within(400),
    Entry::new(
        "replaced",
        "another server takes a dead one's place",
        resync::replaced,
    )
    .within(300),
    Entry::new(
        "replaced-back",
        "a server that was replaced is not believed",
        resync::replaced_back,
    )
    .within(300),
    Entry::new(
        "mirror-strict",
        "nothing is stored on one server only",
        mirror::strict,
    ),
    Entry::new(
        "mirror-cut",
        "the primary's cable is pulled and put back",
        mirror::primary_cut,
    ),
    Entry::new(
        "mirror-full",
        "a mirror with less room: the rest to the disk",
        mirror::mirror_full,
    ),
    Entry::new(
        "mirror-twice",
        "one server by two addresses is refused",
        mirror::twice,
    ),
    Entry::new(
        "forwarded",
        "a server forwards each page to its mirror",
        forwarded::both,
    ),
    Entry::new(
        "forwarded-killed",
        "it dies while its pages are read: the mirror goes on",
        forwarded::killed,
    ),
    Entry::new(
        "forwarded-storing",
        "it dies while pages are stored",
        forwarded::killed_storing,
    ),
    Entry::new(
        "forwarded-mirror",
        "its mirror dies, and comes back",
        forwarded::mirror_killed,
    ),
    Entry::new(
        "forwarded-late",
        "its mirror is there later than the module",
        forwarded::late,
    ),
    Entry::new(
        "forwarded-before",
        "it acknowledges before its mirror does, and dies",
        forwarded::before,
    ),
    Entry::new("mirror-gone", "both servers die", mirror::both_gone),
    Entry::new(
        "rewritten",
        "pages change while their writeback waits",
        power::rewritten,
    ),
    Entry::new(
        "hibernation",
        "to an image and back with pages away",
        power::hibernation,
    ),
    Entry::new(
        "goodbye",
        "switched off with pages away: the server frees them",
        power::goodbye,
    ),
    Entry::new(
        "through",
        "every page on the server and on the disk",
        through::both,
    ),
    Entry::new(
        "through-kinds",
        "huge folios, shared memory, zero pages",
        through::kinds,
    ),
    Entry::new(
        "through-killed",
        "the server dies under pressure: the disk has all",
        through::killed,
    ),
    Entry::new(
        "through-paused",
        "the server stands still: the disk is read",
        through::paused,
    ),
    Entry::new(
        "through-rewritten",
        "slots change while copies of them wait",
        through::rewritten,
    ),
    Entry::new(
        "through-gone-and-back",
        "another server, then the network away",
        through::gone_and_back,
    ),
    Entry::new(
        "through-swapoff",
        "swapoff with the server dead",
        through::swapoff,
    ),
    Entry::new(
        "through-unload",
        "rmmod with pages away, in the middle of reading",
        through::unload,
    ),
    Entry::new(
        "through-zswap",
        "zswap with older and with newer pages",
        through::zswap,
    ),
    Entry::new(
        "through-no-read",
        "a kernel without a function to read the disk by",
        through::no_read,
    ),
    Entry::new(
        "through-mirror",
        "one server dies, then the other",
        through::mirrored,
    ),
    Entry::demo(
        "mirror-figures",
        "not a test: stall, throughput, resync",
        figures::mirror,
    )
    .within(1800),
    Entry::measure(
        Kind::Measuring,
        "micro-quick",
        "a part of `make bench QUICK=1`: the same, fewer rounds and contenders",
        bench::quick,
    )
    .within(1200),
    Entry::measure(
        Kind::Measuring,
        "micro",
        "a part of `make bench`: how long a page takes",
        bench::time,
    )
    .within(3600),
    Entry::second(
        TARGET_SCENARIO,
        "the second guest's part in `make bench`: serves its RAM by NVMe/TCP",
        bench::nvme_target,
    )
    .within(300),
    Entry::measure(
        Kind::Measuring,
        "apps",
        "a part of `make bench`: programs with less memory than they need",
        bench::apps,
    )
    .within(10_800),
    Entry::measure(
        Kind::Measuring,
        "apps-quick",
        "a part of `make bench QUICK=1`: the same with half of it",
        bench::quick_apps,
    )
    .within(1800),
    Entry::measure(
        Kind::Counting,
        "cost",
        "what `make bench-cost` runs: instructions for a page",
        bench::cost,
    )
    .within(900),
    Entry::demo("demo", "what `make demo` runs", demo::run).within(900),
];
