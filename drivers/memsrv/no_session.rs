// SPDX-License-Identifier: GPL-2.0-only

//! Why a server did not take our session: as an errno, and in words that say what to do.

use super::link::Link;
use super::protocol::{Status, VERSION};
use kernel::prelude::*;

/// Why a session did not come about.
pub(crate) enum NoSession {
    /// The network's error.
    Network(Error),
    /// The peer is no memsrv.
    Stranger,
    /// The server has not what it acknowledged; its mirror has.
    Forgot,
    /// The server holds pages of a time before another one took its place.
    Outdated,
    /// The server takes no compressed pages.
    WholeOnly,
    /// The server said no.
    Refused(Status),
}

/// Whether nobody answers: the server may well come later. Else it is there, and will not have us.
pub(crate) fn is_absence(error: Error) -> bool {
    [
        ECONNREFUSED,
        ETIMEDOUT,
        EHOSTUNREACH,
        EHOSTDOWN,
        ENETUNREACH,
        ENETDOWN,
        // It does not answer our HELLO in time.
        EAGAIN,
    ]
    .contains(&error)
}

impl NoSession {
    pub(crate) fn errno(&self) -> Error {
        match self {
            NoSession::Network(error) => *error,
            NoSession::Stranger => EPROTO,
            NoSession::WholeOnly => EOPNOTSUPP,
            NoSession::Forgot | NoSession::Outdated => ESTALE,
            NoSession::Refused(status) => match status {
                Status::Version => EPROTONOSUPPORT,
                Status::Busy => EBUSY,
                Status::Denied => EACCES,
                Status::Full | Status::Quota => ENOSPC,
                Status::Stale => ESTALE,
                _ => EPROTO,
            },
        }
    }

    /// One line that says what happened and what to do.
    pub(crate) fn log(&self, link: &Link) {
        let config = &link.lane.shared.config;
        let server = link.lane.shared.address(link.replica);
        match self {
            NoSession::Network(error) if *error == ECONNREFUSED => pr_err!(
                "cannot reach server {server}: connection refused; is memsrvd running there, and does it listen on this address and port?\n"
            ),
            NoSession::Network(error) if *error == EINVAL => pr_err!(
                "server {server} is the same as the other: two copies there are no better than one; give the address of another as mirror=\n"
            ),
            NoSession::Network(error) => pr_err!(
                "cannot reach server {server}: {error:?}; check the address, the network and the firewall\n"
            ),
            NoSession::Stranger => pr_err!(
                "{server} does not answer as a memory server; is it memsrvd that listens there?\n"
            ),
            NoSession::WholeOnly => pr_err!(
                "server {server} takes no compressed pages, which this machine stores: start memsrvd there as it was when the module was loaded, without --persist\n"
            ),
            NoSession::Forgot => pr_warn!(
                "server {server} has started anew; its mirror has the pages that were there, and is waited for (`memsrvctl giveup` ends that)\n"
            ),
            NoSession::Outdated => pr_err!(
                "server {server} holds pages of this machine from an earlier time, which are older than those elsewhere; start memsrvd there anew, without its --persist directory\n"
            ),
            NoSession::Refused(Status::Version) => pr_err!(
                "server {server} speaks another version of the protocol than this module ({VERSION}); install matching versions\n"
            ),
            NoSession::Refused(Status::Stale) => pr_err!(
                "server {server} has executed more than this machine knows of: was it restored from a snapshot of itself? Its pages there are lost; programs that need them get SIGBUS\n"
            ),
            NoSession::Refused(Status::Busy) => pr_err!(
                "server {server} says that client {} is connected already with region {}; give this one another client= or region= name\n",
                config.client.as_str(),
                config.region.as_str()
            ),
            NoSession::Refused(status) => pr_err!(
                "server {server} refuses the session: {}; see the server's log\n",
                status.as_str()
            ),
        }
    }
}
