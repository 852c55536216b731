// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! With whom memsrv is compared, each as something that can be swapped to.

use anyhow::Result;
use qemu_test_wire::{Other, HOST_ADDRESS, SERVER_PORT};

use super::server::Server;
use crate::guest::{module, program, Guest, Swap};
use crate::SELF;

/// What a contender can hold, and its swap area: much more than is away at any time.
const ROOM_MIB: u32 = 256;
/// This machine.
const HERE: &str = "127.0.0.1";

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Ours.
    Memsrv,
    /// The kernel's nbd with nbdkit's memory plugin, one connection, and nbdkit's usual 16 threads.
    Nbd,
    /// The same with one thread: the least work for a single request, whoever waits behind it.
    NbdOneThread,
    /// The kernel's RAM disk: the local bound.
    Brd,
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

impl Contender {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Memsrv, Self::Nbd, Self::NbdOneThread, Self::Brd];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memsrv => "memsrv",
            Self::Nbd => "nbd",
            Self::NbdOneThread => "nbd -t1",
            Self::Brd => "brd",
        }
    }

    /// Begins to swap to it.
    pub fn begin(self, guest: &mut Guest, place: Place) -> Result<Running> {
        let server = self.serve(guest, place)?;
        let host = match place {
            Place::Here => HERE,
            Place::Outside => HOST_ADDRESS,
        };
        let swap = match self {
            Self::Memsrv => {
                let swap = Swap::on(0, 10)?;
                guest.load_module(&format!("server={host}"))?;
                swap
            }
            Self::Nbd | Self::NbdOneThread => {
                module::load_list("nbd", "")?;
                let port = Other::Nbdkit.port().to_string();
                let words = ["/usr/sbin/nbd-client", host, &port, "/dev/nbd0", "-C", "1"];
                program::run(None, &[&words[..], &["-b", "4096"]].concat())?;
                Swap::on_disk("nbd0", 10)?
            }
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

    /// Starts its server, if it has one.
    fn serve(self, guest: &mut Guest, place: Place) -> Result<Option<Server>> {
        let room = format!("{ROOM_MIB}M");
        match (self, place) {
            (Self::Brd, _) => {}
            (Self::Memsrv, Place::Outside) => guest.host.start_server(&room)?,
            (Self::Nbd, Place::Outside) => guest.host.start_other(Other::Nbdkit)?,
            (Self::NbdOneThread, Place::Outside) => {
                guest.host.start_other(Other::NbdkitOneThread)?;
            }
            (Self::Memsrv, Place::Here) => {
                let address = format!("{HERE}:{SERVER_PORT}");
                let words = ["/memsrvd", "--listen", &address, "--capacity", &room];
                return Server::start(false, &words, &address).map(Some);
            }
            (Self::Nbd | Self::NbdOneThread, Place::Here) => {
                let address = format!("{HERE}:{}", Other::Nbdkit.port());
                let threads = if self == Self::Nbd { "16" } else { "1" };
                let words = ["/usr/bin/nbdkit", "-f", "-t", threads, "-i", HERE];
                let words = [&words[..], &["memory", &room]].concat();
                return Server::start(true, &words, &address).map(Some);
            }
        }
        Ok(None)
    }
}

impl Running {
    /// Ends it, and everything of it.
    pub fn end(self, guest: &mut Guest) -> Result<()> {
        self.swap.off()?;
        let outside = self.place == Place::Outside;
        match self.who {
            Contender::Memsrv => {
                guest.rmmod()?;
                if outside {
                    guest.host.stop_server()?;
                }
            }
            Contender::Nbd | Contender::NbdOneThread => {
                program::run(None, &["/usr/sbin/nbd-client", "-d", "/dev/nbd0"])?;
                if outside {
                    guest.host.stop_other()?;
                }
            }
            // Its memory is kept until it goes.
            Contender::Brd => module::unload("brd")?,
        }
        drop(self.server);
        Ok(())
    }
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
