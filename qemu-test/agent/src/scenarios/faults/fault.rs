// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What befalls a server or the way to it: the rows of the matrix.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::mode::Mode;
use crate::guest::{card, Guest};
use crate::port::Host;

use super::super::common::ROOMY;

/// How long loss and delay last.
const WEATHER: Duration = Duration::from_secs(6);
/// How long a cable is out that is put back: longer than a server may be silent (5 s where there is no other).
const FLAP: Duration = Duration::from_secs(8);
/// How long a server stands still.
const STOP: Duration = Duration::from_secs(10);
/// How long one is slow.
const SLOW: Duration = Duration::from_secs(5);
/// How often connections are reset, and how long they may flow in between.
const RESETS: u32 = 6;
const BETWEEN: Duration = Duration::from_millis(300);
/// Stored pages that are damaged. Each costs a lone server two new connections, to make sure that the damage
/// did not come on the way.
const FLIPS: usize = 12;
/// The capacity of a server that is soon full.
const CRAMPED: &str = "8M";

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and nobody comes back.
    Kill,
    /// SIGSTOP for 10 s.
    Stop,
    /// SIGKILL, and a new server with nothing.
    Restart,
    /// SIGKILL, and a new server with the old one's directory.
    Restartp,
    /// The server's cable is pulled.
    Cut,
    /// The same, and it is put back.
    Flap,
    /// One of a hundred packets is lost.
    Loss1,
    /// Five of a hundred.
    Loss5,
    /// Each packet takes 50 ms longer.
    Delay50,
    /// Connections are reset in mid-message.
    Reset,
    /// The server has less room than the programs need.
    Full,
    /// It runs a tenth of the time.
    Slow,
    /// Bits of stored pages flip.
    Flip,
}

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The first, or the only one.
    Primary,
    /// The second.
    Mirror,
}

impl Who {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Primary => Self::Mirror,
            Self::Mirror => Self::Primary,
        }
    }

    /// Does something with that server.
    pub fn with<R>(self, host: &mut Host, deed: impl FnOnce(&mut Host) -> Result<R>) -> Result<R> {
        match self {
            Self::Primary => deed(host),
            Self::Mirror => host.mirror(deed),
        }
    }
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Kill,
        Self::Stop,
        Self::Restart,
        Self::Restartp,
        Self::Cut,
        Self::Flap,
        Self::Loss1,
        Self::Loss5,
        Self::Delay50,
        Self::Reset,
        Self::Full,
        Self::Slow,
        Self::Flip,
    ];

    /// In names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Restartp => "restartp",
            Self::Cut => "cut",
            Self::Flap => "flap",
            Self::Loss1 => "loss1",
            Self::Loss5 => "loss5",
            Self::Delay50 => "delay50",
            Self::Reset => "reset",
            Self::Full => "full",
            Self::Slow => "slow",
            Self::Flip => "flip",
        }
    }

    /// For people.
    pub fn about(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Stop => "SIGSTOP for 10 s",
            Self::Restart => "restart empty",
            Self::Restartp => "restart persisted",
            Self::Cut => "cable pulled",
            Self::Flap => "cable pulled and back",
            Self::Loss1 => "1% loss",
            Self::Loss5 => "5% loss",
            Self::Delay50 => "50 ms delay",
            Self::Reset => "reset in mid-message",
            Self::Full => "server full",
            Self::Slow => "server slow",
            Self::Flip => "flipped bits in stored pages",
        }
    }

    /// Whether the server is gone for the rest of the scenario.
    pub fn is_for_good(self) -> bool {
        matches!(self, Self::Kill | Self::Cut)
    }

    /// Whether what the server held may be gone, or cannot be had from it.
    pub fn is_grave(self) -> bool {
        matches!(
            self,
            Self::Kill | Self::Restart | Self::Cut | Self::Full | Self::Flip
        )
    }

    /// The capacity of the server that is hurt.
    pub fn capacity(self) -> &'static str {
        match self {
            Self::Full => CRAMPED,
            _ => ROOMY,
        }
    }

    /// Does it; returns when it is over, or stays so.
    pub fn strike(self, guest: &mut Guest, mode: Mode, who: Who) -> Result<()> {
        let host = &mut *guest.host;
        match self {
            Self::Kill => who.with(host, Host::kill_server),
            Self::Stop => {
                who.with(host, Host::pause_server)?;
                sleep(STOP);
                who.with(host, Host::resume_server)
            }
            Self::Restart | Self::Restartp => {
                let life = if self == Self::Restart { "new" } else { "life" };
                let arguments = mode.arguments(who, life);
                let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
                who.with(host, |host| {
                    host.kill_server()?;
                    host.start_server_with(ROOMY, &words)
                })
            }
            Self::Cut => who.with(host, |host| host.reach(false)),
            Self::Flap => {
                who.with(host, |host| host.reach(false))?;
                sleep(FLAP);
                who.with(host, |host| host.reach(true))
            }
            Self::Loss1 => weather(guest, &["loss", "1%"]),
            Self::Loss5 => weather(guest, &["loss", "5%"]),
            Self::Delay50 => weather(guest, &["delay", "50ms"]),
            Self::Reset => {
                let mut reset = 0;
                for _ in 0..RESETS {
                    reset += who.with(host, Host::reset_connections)?;
                    sleep(BETWEEN);
                }
                guest.figures.insert("reset".to_owned(), reset);
                ensure!(reset > 0, "no connection was there to be reset");
                Ok(())
            }
            // It has been so from the start.
            Self::Full => Ok(()),
            Self::Slow => who.with(host, |host| host.slow_server(SLOW)),
            Self::Flip => {
                let flipped = who.with(host, |host| host.flip_bits(FLIPS))?;
                guest.figures.insert("flipped".to_owned(), flipped);
                Ok(())
            }
        }
    }
}

/// netem on the guest's card for a while: it acts on what the guest sends, acknowledgements too. What comes
/// in is left alone, as is what two servers say to each other.
fn weather(guest: &mut Guest, words: &[&str]) -> Result<()> {
    card::queue("eth0", &[&["netem", "limit", "10000"], words].concat())?;
    sleep(WEATHER);
    let said = card::queued()?;
    card::calm()?;
    let sent = number(&said, "bytes ")?;
    let dropped = number(&said, "(dropped ")?;
    guest.figures.insert("packets".to_owned(), sent);
    guest.figures.insert("dropped".to_owned(), dropped);
    ensure!(sent > 0, "nothing was sent through netem: {said}");
    ensure!(
        dropped > 0 || !words.contains(&"loss"),
        "netem dropped nothing: {said}"
    );
    Ok(())
}

/// The number after `word` in what tc(8) says: `Sent 5 bytes 1 pkt (dropped 0, ...`.
fn number(said: &str, word: &str) -> Result<u64> {
    said.split_once(word)
        .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok())
        .with_context(|| format!("no {word:?} in what tc says: {said}"))
}
