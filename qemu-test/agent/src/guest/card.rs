// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The queue before the guest's network card: tc(8).

use anyhow::Result;

use super::program::{self, Ran};

/// Calls tc(8).
pub fn tc(words: &[&str]) -> Result<Ran> {
    program::run(None, &[&["/usr/sbin/tc"], words].concat())
}

/// Puts this queueing discipline before a card.
pub fn queue(card: &str, words: &[&str]) -> Result<()> {
    let replace = ["qdisc", "replace", "dev", card, "root"];
    tc(&[&replace, words].concat()).map(drop)
}

/// What tc(8) says of the queue before the usual card.
pub fn queued() -> Result<String> {
    Ok(tc(&["-s", "qdisc", "show", "dev", "eth0"])?.output)
}

/// Puts the usual queue before the usual card; what waits in another one is dropped.
pub fn calm() -> Result<()> {
    queue("eth0", &["pfifo"])
}
