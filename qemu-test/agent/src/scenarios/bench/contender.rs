// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! With whom memsrv is compared, each as something that can be swapped to.

use anyhow::Result;

use super::server::Server;
use crate::guest::{module, program, Guest, Swap};
use crate::SELF;

/// What a contender can hold, and its swap area: much more than is away at any time.
const ROOM_MIB: u32 = 256;

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Ours.
    Memsrv,
    /// The kernel's nbd with nbdkit's memory plugin, one connection.
    Nbd,
    /// The kernel's RAM disk: the local bound.
    Brd,
}

/// A contender that is swapped to.
pub struct Running {
    who: Contender,
    swap: Swap,
    server: Option<Server>,
}

impl Contender {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memsrv => "memsrv",
            Self::Nbd => "nbd",
            Self::Brd => "brd",
        }
    }

    /// Begins to swap to it, its server in this machine.
    pub fn begin(self, guest: &mut Guest) -> Result<Running> {
        let room = format!("{ROOM_MIB}M");
        let (swap, server) = match self {
            Self::Memsrv => {
                let address = "127.0.0.1:7170";
                let words = ["/memsrvd", "--listen", address, "--capacity", &room];
                let server = Server::start(false, &words, address)?;
                let swap = Swap::on(0, 10)?;
                guest.insmod("server=127.0.0.1")?;
                (swap, Some(server))
            }
            Self::Nbd => {
                module::load_list("nbd", "")?;
                let words = ["/usr/bin/nbdkit", "-f", "-i", "127.0.0.1", "memory", &room];
                let server = Server::start(true, &words, "127.0.0.1:10809")?;
                let words = ["/usr/sbin/nbd-client", "127.0.0.1", "10809", "/dev/nbd0"];
                program::run(None, &[&words[..], &["-b", "4096", "-C", "1"]].concat())?;
                (Swap::on_disk("nbd0", 10)?, Some(server))
            }
            Self::Brd => {
                module::load_list("brd", &format!("rd_nr=1 rd_size={}", ROOM_MIB * 1024))?;
                (Swap::on_disk("ram0", 10)?, None)
            }
        };
        Ok(Running {
            who: self,
            swap,
            server,
        })
    }
}

impl Running {
    /// Ends it, and everything of it.
    pub fn end(self, guest: &mut Guest) -> Result<()> {
        self.swap.off()?;
        match self.who {
            Contender::Memsrv => guest.rmmod()?,
            Contender::Nbd => {
                program::run(None, &["/usr/sbin/nbd-client", "-d", "/dev/nbd0"])?;
            }
            Contender::Brd => {}
        }
        drop(self.server);
        Ok(())
    }
}

/// The floor: pings between two programs of this machine.
pub fn floor(rounds: usize) -> Result<Vec<u64>> {
    let address = "127.0.0.1:7171";
    let _server = Server::start(false, &[SELF, "pong", address], address)?;
    crate::pong::ping(address, rounds)
}
