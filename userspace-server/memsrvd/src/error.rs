// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Why the server did not start or did not go on, in one line each, with an exit code each.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::size::Size;

/// A reason to exit.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The command line or the configuration file is wrong.
    #[error("{0}")]
    Usage(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not, and what to do.
        reason: String,
    },
    /// There is less memory than the capacity.
    #[error(
        "cannot take {wanted} of memory: {reason}; give a smaller --capacity or free memory first"
    )]
    Memory {
        /// Capacity and tables.
        wanted: Size,
        /// What the kernel says, or how much there is.
        reason: String,
    },
    /// The memory may not be locked.
    #[error(
        "cannot lock {wanted} of memory: the limit (RLIMIT_MEMLOCK) is {limit}; raise it with \
         LimitMEMLOCK=infinity in the systemd unit or `ulimit -l unlimited`, or start memsrvd as root"
    )]
    Locked {
        /// What was to be locked: capacity and tables, or all that the process has mapped.
        wanted: Size,
        /// The limit.
        limit: String,
    },
    /// The directory for the log cannot be used.
    #[error("cannot keep pages in {}: {reason}", dir.display())]
    Persist {
        /// The directory.
        dir: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// Something else failed.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the kernel says.
        error: io::Error,
    },
}

impl StartError {
    /// The program's exit code; documented in `--help` and the manual page.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Io { .. } => 1,
            StartError::Usage(_) => 2,
            StartError::Listen { .. } => 3,
            StartError::Memory { .. } => 4,
            StartError::Locked { .. } => 5,
            StartError::Persist { .. } => 6,
        }
    }

    /// For `map_err`: a failure of the system with the name of what was being done.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
        move |error| StartError::Io { what, error }
    }
}
