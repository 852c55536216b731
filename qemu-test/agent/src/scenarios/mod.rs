// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Every scenario, in one table. To add one: write `fn(&mut Guest) -> Result<()>` in a file of its own
//! or beside its relatives, and give it a line in [`TABLE`].

mod plain;

use anyhow::Result;
use qemu_test_wire::{Machine, Scenario};

use crate::guest::Guest;

/// One scenario.
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    about: &'static str,
    machine: Kind,
    limit_s: u64,
    module: bool,
    in_test: bool,
    /// What it does.
    pub run: fn(&mut Guest) -> Result<()>,
}

/// The machines there are; few, so that many scenarios share a boot.
#[derive(Clone, Copy)]
enum Kind {
    /// 256 MiB of RAM, two processors, one swap disk.
    Usual,
}

impl Kind {
    fn machine(self) -> Machine {
        match self {
            Self::Usual => Machine { memory_mib: 256, cpus: 2, swap_mib: vec![1024] },
        }
    }
}

impl Entry {
    const fn plain(name: &'static str, about: &'static str, run: fn(&mut Guest) -> Result<()>) -> Self {
        Self { name, about, machine: Kind::Usual, limit_s: 180, module: false, in_test: true, run }
    }

    /// What the harness needs to know.
    pub fn listing(&self) -> Scenario {
        Scenario {
            name: self.name.to_owned(),
            about: self.about.to_owned(),
            machine: self.machine.machine(),
            limit_s: self.limit_s,
            module: self.module,
            in_test: self.in_test,
        }
    }
}

/// The table.
pub fn all() -> &'static [Entry] {
    TABLE
}

const TABLE: &[Entry] = &[
    Entry::plain("plain-swap", "no module: fill, evict to the disk, verify", plain::swap),
];
