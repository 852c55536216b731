// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! With whom memsrv is compared, each as something that can be swapped to.

use std::fs;

use anyhow::{bail, Context, Result};
use qemu_test_wire::{Other, HOST_ADDRESS, SERVER_PORT};

use super::nvme;
use super::server::Server;
use crate::guest::{module, program, Guest, Swap};
use crate::SELF;

/// What a contender can hold, and its swap area: much more than is away at any time.
pub const ROOM_MIB: u32 = 256;
/// This machine.
const HERE: &str = "127.0.0.1";

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Ours.
    Memsrv,
    /// The same with `compress=lz4`.
    MemsrvLz4,
    /// The same with `spin_us=0`: who waits for a page always sleeps.
    MemsrvAsleep,
    /// The kernel's nbd with nbdkit's memory plugin, one connection, and nbdkit's usual 16 threads.
    Nbd,
    /// The same with one thread: the least work for a single request, whoever waits behind it.
    NbdOneThread,
    /// The same with nbdkit's threads and a connection for each processor.
    NbdPerCpu,
    /// The kernel's nbd with Debian's nbd-server, on a file in memory.
    NbdServer,
    /// The kernel's NVMe/TCP with its target in a second guest, which is emulated as this one is.
    Nvme,
    /// The kernel's RAM disk: the local bound.
    Brd,
    /// Compressed in this machine's memory: what half of it can hold costs no network.
    Zram,
    /// The swap disk itself.
    Disk,
}

/// Where the servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this machine.
    Here,
    /// On the host.
    Outside,
}

/// A contender that is swapped to.
pub struct Running {
    who: Contender,
    place: Place,
    swap: Swap,
    server: Option<Server>,
}

/// These in the order of a round: another one begins each time, so that nobody is always measured right after the floor.
pub fn in_turn(contenders: &[Contender], round: usize) -> impl Iterator<Item = Contender> + '_ {
    let first = round % contenders.len().max(1);
    let (before, from) = contenders.split_at_checked(first).unwrap_or_default();
    from.iter().chain(before).copied()
}

impl Contender {
    /// Those by which a change is held.
    pub const FEW: &'static [Self] = &[Self::Memsrv, Self::Nbd, Self::NbdOneThread, Self::Brd];
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Memsrv,
        Self::MemsrvAsleep,
        Self::Nbd,
        Self::NbdOneThread,
        Self::NbdPerCpu,
        Self::NbdServer,
        Self::Nvme,
        Self::Zram,
        Self::Brd,
        Self::Disk,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memsrv => "memsrv",
            Self::MemsrvLz4 => "memsrv lz4",
            Self::MemsrvAsleep => "memsrv spin_us=0",
            Self::Nbd => "nbd",
            Self::NbdOneThread => "nbd -t1",
            Self::NbdPerCpu => "nbd per CPU",
            Self::NbdServer => "nbd-server",
            Self::Nvme => "nvme-tcp",
            Self::Zram => "zram",
            Self::Disk => "disk",
            Self::Brd => "brd",
        }
    }

    /// The parameters of our module, if it is ours.
    fn parameters(self) -> Option<&'static str> {
        match self {
            Self::Memsrv => Some("compress=none"),
            Self::MemsrvLz4 => Some("compress=lz4"),
            Self::MemsrvAsleep => Some("compress=none spin_us=0"),
            _ => None,
        }
    }

    /// Begins to swap to it.
    pub fn begin(self, guest: &mut Guest, place: Place) -> Result<Running> {
        let room = room();
        let server = self.serve(guest, place)?;
        let host = match place {
            Place::Here => HERE,
            Place::Outside => HOST_ADDRESS,
        };
        let swap = match self {
            Self::Memsrv | Self::MemsrvLz4 | Self::MemsrvAsleep => {
                let swap = Swap::nonrotational(0, 10)?;
                let parameters = self.parameters().unwrap_or_default();
                guest.load_module(&format!("server={host} {parameters}"))?;
                swap
            }
            Self::Nbd | Self::NbdOneThread | Self::NbdPerCpu | Self::NbdServer => {
                module::load_list("nbd", "")?;
                let port = self.other().map_or(0, Other::port).to_string();
                let connections = match self {
                    Self::NbdPerCpu => std::thread::available_parallelism()?.to_string(),
                    _ => "1".to_owned(),
                };
                let words = [
                    "/usr/sbin/nbd-client",
                    host,
                    &port,
                    "/dev/nbd0",
                    "-b",
                    "4096",
                ];
                program::run(None, &[&words[..], &["-C", &connections]].concat())?;
                Swap::on_disk("nbd0", 10)?
            }
            Self::Nvme => Swap::on_disk(&nvme::connect()?, 10)?,
            Self::Zram => {
                module::load_list("zram", "num_devices=1")?;
                fs::write("/sys/block/zram0/disksize", &room).context("making a zram disk")?;
                Swap::on_disk("zram0", 10)?
            }
            Self::Disk => Swap::nonrotational(0, 10)?,
            Self::Brd => {
                module::load_list("brd", &format!("rd_nr=1 rd_size={}", ROOM_MIB * 1024))?;
                Swap::on_disk("ram0", 10)?
            }
        };
        Ok(Running {
            who: self,
            place,
            swap,
            server,
        })
    }

    /// What serves it outside.
    fn other(self) -> Option<Other> {
        match self {
            Self::Nbd | Self::NbdPerCpu => Some(Other::Nbdkit),
            Self::NbdOneThread => Some(Other::NbdkitOneThread),
            Self::NbdServer => Some(Other::NbdServer),
            Self::Nvme => Some(Other::Nvme),
            _ => None,
        }
    }

    /// Starts its server, if it has one.
    fn serve(self, guest: &mut Guest, place: Place) -> Result<Option<Server>> {
        let room = room();
        match (self, self.other(), place) {
            (_, _, Place::Outside) if self.parameters().is_some() => {
                guest.host.start_server(&room)?
            }
            (_, Some(other), Place::Outside) => guest.host.start_other(other)?,
            (_, _, Place::Here) if self.parameters().is_some() => {
                let address = format!("{HERE}:{SERVER_PORT}");
                let words = ["/memsrvd", "--listen", &address, "--capacity", &room];
                return Server::start(false, &words, &address).map(Some);
            }
            (Self::Nvme, _, Place::Here) => bail!("it is only measured with a second guest"),
            (_, Some(other), Place::Here) => {
                let address = format!("{HERE}:{}", other.port());
                let threads = if other == Other::Nbdkit { "16" } else { "1" };
                let words = ["/usr/bin/nbdkit", "-f", "-t", threads, "-i", HERE];
                let words = [&words[..], &["memory", &room]].concat();
                return Server::start(true, &words, &address).map(Some);
            }
            (_, None, _) => {}
        }
        Ok(None)
    }
}

impl Running {
    /// A floor of its own, of so many pings, if its server is not where the others' are.
    pub fn floor(&self, pings: usize) -> Result<Option<Vec<u64>>> {
        match self.who {
            Contender::Nvme => nvme::floor(pings).map(Some),
            _ => Ok(None),
        }
    }

    /// Ends it, and everything of it.
    pub fn end(self, guest: &mut Guest) -> Result<()> {
        self.swap.off()?;
        let outside = self.place == Place::Outside;
        match self.who {
            Contender::Memsrv | Contender::MemsrvLz4 | Contender::MemsrvAsleep => {
                guest.rmmod()?;
                if outside {
                    guest.host.stop_server()?;
                }
            }
            // Their memory is kept until they go.
            Contender::Brd => module::unload("brd")?,
            Contender::Zram => module::unload("zram")?,
            Contender::Disk => {}
            // Never in this machine.
            Contender::Nvme => {
                nvme::disconnect()?;
                guest.host.stop_other()?;
            }
            Contender::Nbd
            | Contender::NbdOneThread
            | Contender::NbdPerCpu
            | Contender::NbdServer => {
                program::run(None, &["/usr/sbin/nbd-client", "-d", "/dev/nbd0"])?;
                if outside {
                    guest.host.stop_other()?;
                }
            }
        }
        drop(self.server);
        Ok(())
    }
}

/// What each can hold.
fn room() -> String {
    format!("{ROOM_MIB}M")
}

/// The floor: so many pings.
pub fn floor(guest: &mut Guest, place: Place, pings: usize) -> Result<Vec<u64>> {
    let port = Other::Pong.port();
    match place {
        Place::Here => {
            let address = format!("{HERE}:{port}");
            let _server = Server::start(false, &[SELF, "pong", &address], &address)?;
            crate::pong::ping(&address, pings)
        }
        Place::Outside => {
            guest.host.start_other(Other::Pong)?;
            let ns = crate::pong::ping(&format!("{HOST_ADDRESS}:{port}"), pings)?;
            guest.host.stop_other()?;
            Ok(ns)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_has_all_and_begins_with_another() {
        let all = Contender::FEW;
        let mut first = Vec::new();
        for round in 0..all.len() {
            let turn: Vec<Contender> = in_turn(all, round).collect();
            assert_eq!(turn.len(), all.len());
            assert!(all.iter().all(|who| turn.contains(who)), "{turn:?}");
            first.extend(turn.first().copied());
        }
        assert_eq!(first, all);
    }
}
