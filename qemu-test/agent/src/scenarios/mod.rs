// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Every scenario. To add one: write `fn(&mut Guest) -> Result<()>` in a file of its own or beside its relatives,
//! and give it a line in [`table`]. The cells of the fault matrix come from [`faults`], which has one procedure
//! for all.

mod basic;
mod bench;
mod common;
mod compressed;
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
mod table;
mod through;
mod tiers;

use anyhow::Result;
use qemu_test_wire::{Machine, Purpose, Scenario};

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

    const fn with(self, machine: Kind) -> Self {
        Self { machine, ..self }
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
    table::ALL
        .iter()
        .copied()
        .chain(faults::all().map(Entry::cell))
}
