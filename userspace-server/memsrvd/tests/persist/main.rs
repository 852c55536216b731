// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The log: what a restart gives back, whatever the disk and the power did meanwhile.

#[cfg(test)]
mod damage;
#[cfg(test)]
#[expect(
    dead_code,
    reason = "the other tests' tools, of which a part is used here"
)]
#[path = "../server/entry.rs"]
mod entry;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod forwarded;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod power;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod sim;
#[cfg(test)]
#[expect(
    dead_code,
    reason = "the other tests' tools, of which a part is used here"
)]
#[path = "../server/support.rs"]
mod support;
