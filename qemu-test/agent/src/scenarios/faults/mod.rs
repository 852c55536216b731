// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The fault matrix: each way of keeping pages ([`Mode`]), each thing that can befall a server or the way to
//! it ([`Fault`]), each moment at which it can ([`Moment`]). In each cell every byte is checked, nothing may
//! hang, and what can be lost is told from what must not be.
//!
//! There is one procedure for all cells (`cell.rs`). A mode, a fault or a moment is added to its own enum, and
//! with that to the matrix; cells that cannot arise say why ([`Cell::reason`]).

mod cell;
mod fault;
mod mode;
mod moment;
mod worker;

use qemu_test_wire as wire;

use super::Kind;
pub(super) use fault::Who;

use fault::Fault;
use mode::Mode;
use moment::Moment;

/// A cell of the matrix.
#[derive(Clone, Copy)]
pub struct Cell {
    mode: Mode,
    fault: Fault,
    moment: Moment,
}

/// Every cell, those that cannot arise among them.
pub fn all() -> impl Iterator<Item = Cell> {
    Mode::ALL.into_iter().flat_map(|mode| {
        Fault::ALL.into_iter().flat_map(move |fault| {
            Moment::ALL.into_iter().map(move |moment| Cell {
                mode,
                fault,
                moment,
            })
        })
    })
}

/// The part that `make test` runs: each moment, and each fault that no other scenario has. (Those have SIGKILL,
/// SIGSTOP, restarts, cables pulled and full servers.) It takes about five minutes; the whole, hours.
const QUICK: &[(Mode, Fault, Moment)] = &[
    (Mode::None, Fault::Reset, Moment::Eviction),
    (Mode::None, Fault::Loss5, Moment::Eviction),
    (Mode::None, Fault::Delay50, Moment::Faults),
    (Mode::None, Fault::Slow, Moment::Eviction),
    (Mode::None, Fault::Flip, Moment::Faults),
    (Mode::Dual, Fault::Cut, Moment::Swapoff),
    (Mode::Dual, Fault::Flip, Moment::Faults),
    (Mode::Dual, Fault::Kill, Moment::Resync),
    (Mode::Dual, Fault::Reset, Moment::Resync),
    (Mode::Forwarded, Fault::Flip, Moment::Faults),
    (Mode::Through, Fault::Flip, Moment::Eviction),
    (Mode::Persist, Fault::Restartp, Moment::Eviction),
];

impl Cell {
    /// Its name as a scenario.
    pub fn name(&self) -> String {
        format!(
            "fault-{}-{}-{}",
            self.mode.name(),
            self.fault.name(),
            self.moment.name()
        )
    }

    /// What it shows.
    pub fn about(&self) -> String {
        format!(
            "{}: {} {}{}",
            self.mode.about(),
            self.fault.about(),
            self.moment.about(),
            if self.loses() { "; loss allowed" } else { "" }
        )
    }

    /// What the harness needs to know.
    pub fn listing(&self) -> wire::Cell {
        wire::Cell {
            mode: self.mode.name().to_owned(),
            fault: self.fault.name().to_owned(),
            moment: self.moment.name().to_owned(),
            loss_allowed: self.loses(),
            reason: self.reason().map(str::to_owned),
        }
    }

    /// Why it cannot arise.
    fn reason(&self) -> Option<&'static str> {
        if self.moment == Moment::Resync && !self.mode.is_mirrored() {
            return Some("one server: there is no other to be filled from");
        }
        if self.fault == Fault::Restartp && self.mode != Mode::Persist {
            return Some("the server keeps nothing that a new one could go on with");
        }
        None
    }

    /// Machines of three sizes, spread so that each mode and moment meets all.
    pub(super) fn machine(&self) -> Kind {
        match self.fault {
            Fault::Stop | Fault::Restartp | Fault::Loss1 | Fault::Reset | Fault::Full => {
                Kind::Small
            }
            Fault::Kill | Fault::Cut | Fault::Loss5 | Fault::Flip => Kind::Usual,
            Fault::Restart | Fault::Flap | Fault::Delay50 | Fault::Slow => Kind::Large,
        }
    }

    /// How long it may take on a busy machine.
    pub fn limit_s(&self) -> u64 {
        300
    }

    /// Whether `make test` runs it.
    pub fn is_quick(&self) -> bool {
        self.reason().is_none() && QUICK.contains(&(self.mode, self.fault, self.moment))
    }

    /// Whether a program may end by SIGBUS, because a page of its was on the server that was hurt, and nowhere
    /// else. Wrong bytes are never allowed.
    fn may_lose(&self) -> bool {
        match self.mode {
            // Who promises to keep pages over a restart cannot do so without its directory, nor while it is away.
            Mode::None | Mode::Persist => matches!(
                self.fault,
                Fault::Kill | Fault::Restart | Fault::Cut | Fault::Flip
            ),
            Mode::Dual | Mode::Forwarded | Mode::Through => false,
        }
    }

    /// Whether pages are damaged on the mirror: nobody reads those while there is a primary, so nobody sees it before
    /// the primary is gone, too.
    fn is_unseen(&self) -> bool {
        self.fault == Fault::Flip && self.victim() == Who::Mirror
    }

    /// Whether a program may be ended at any time.
    fn loses(&self) -> bool {
        self.may_lose() || self.is_unseen()
    }
}
