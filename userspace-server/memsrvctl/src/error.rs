// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What can go wrong, in one line each, with an exit code each.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A reason to exit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nobody at the address, or no way to it.
    #[error(
        "cannot reach a memory server at {address}: {error}; see that memsrvd runs there and listens \
         on that address, and that no firewall is between"
    )]
    Unreachable {
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        error: io::Error,
    },
    /// What is at the address is no memory server of a version that we know.
    #[error("the answer from {address} is not a memory server's: {what}; is the port right?")]
    Nonsense {
        /// The address.
        address: SocketAddr,
        /// What it said.
        what: String,
    },
    /// The server would not answer.
    #[error("the server at {address} refuses: {words}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// Its words.
        words: String,
    },
    /// debugfs has nothing.
    #[error(
        "debugfs is not mounted on {0}; mount it with `mount -t debugfs none {0}`, or name another \
         place with --debugfs (a server elsewhere is asked by `status --server`)"
    )]
    NotMounted(String),
    /// The module has no statistics.
    #[error(
        "the memsrv module is not loaded on this machine ({0} is not there); load it with `insmod \
         memsrv.ko server=ADDRESS` (a server elsewhere is asked by `status --server`)"
    )]
    NotLoaded(String),
    /// The statistics cannot be read.
    #[error("cannot read {path}: {error}; debugfs is for root only")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// The statistics do not say how many pages are out of reach.
    #[error("the module does not say how many pages are out of reach (unreachable_pages): nothing is given up")]
    NoCount,
    /// Giving up was not confirmed.
    #[error(
        "nothing is given up without --yes: {what} out of reach on {servers} would be lost, unless a server comes \
         back; programs that need them get SIGBUS. Where a server may come back, wait for it"
    )]
    NotSure {
        /// How many pages.
        what: String,
        /// Where they are.
        servers: String,
    },
    /// Nobody waits for a server that is away.
    #[error(
        "there is nothing to give up: no page is where nobody can be asked for it; `memsrvctl status` shows which \
         links are up"
    )]
    Reachable,
    /// There is nothing to be given up.
    #[error(
        "every page is on the disk, too (disk=through): nobody waits for a server, and nothing is given up"
    )]
    Through,
    /// The module has no such command.
    #[error("the module does not know giveup, it is older than this program: nothing is given up")]
    NoCommand,
    /// What the other server lacks would be lost with the one that is replaced.
    #[error(
        "the {0} is not replaced: the other server is away, or lacks pages that only the {0} has; see \
         `memsrvctl status` and the kernel's log"
    )]
    NotReplaced(&'static str),
    /// There is nothing to replace, or not by that.
    #[error(
        "the {0} is not replaced: the module has one server only (mirror=), or the address is the other \
         server's, or the module is older than this program; the kernel's log says which"
    )]
    NoReplacement(&'static str),
    /// The new server is not there.
    #[error(
        "{address} is the module's {name} now and is not connected; the module goes on trying: see that \
         memsrvd runs there, and the kernel's log"
    )]
    NotConnected {
        /// Which it replaces.
        name: &'static str,
        /// Where it should be.
        address: SocketAddr,
    },
    /// The module's control file cannot be written.
    #[error("cannot write {path}: {error}; nothing was changed; debugfs is for root only")]
    Control {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
}

impl Error {
    /// The program's exit code; documented in `--help` and the manual page.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::NotSure { .. } => 2,
            Error::NotMounted(_) | Error::NotLoaded(_) => 3,
            _ => 1,
        }
    }
}
