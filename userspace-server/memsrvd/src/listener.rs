// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The socket that clients connect to: bound at the start, opened when there is something to serve.
//!
//! Two steps, because taking the memory lies between them and may take long: a port in use is said at
//! once, and a client that comes too early is refused by the kernel and tries again, where it would
//! otherwise wait in the backlog until it gave up.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{sockopt, AddressFamily, SocketFlags, SocketType};

use crate::error::StartError;

/// How many connections may wait to be accepted; the kernel takes `net.core.somaxconn` if that is less.
const BACKLOG: i32 = 1024;

/// What every kernel has, and lets every process use.
const PLAIN: &str = "reno";

/// Binds a socket to an address; nobody can connect yet.
///
/// # Errors
///
/// [`StartError::Listen`] with what to do.
pub fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    socket(address).map_err(|error| failed(address, error.into()))
}

/// Binds a socket to every address, on a machine without IPv6 too.
///
/// # Errors
///
/// [`StartError::Listen`] with what to do.
pub fn bind_anywhere(address: SocketAddr) -> Result<TcpListener, StartError> {
    match socket(address) {
        Err(Errno::AFNOSUPPORT) => bind((Ipv4Addr::UNSPECIFIED, address.port()).into()),
        other => other.map_err(|error| failed(address, error.into())),
    }
}

/// Lets clients connect, from now on.
///
/// # Errors
///
/// [`StartError::Listen`]: of two servers bound to one port while neither listened, this is the later.
pub fn open(listener: &TcpListener) -> Result<(), StartError> {
    let address = listener
        .local_addr()
        .map_err(StartError::io("cannot tell the own address"))?;
    rustix::net::listen(listener, BACKLOG).map_err(|error| failed(address, error.into()))
}

/// What the connections' sockets are told, and those of connections to a mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// The TCP congestion control; empty: the host's choice.
    pub congestion: String,
    /// The DSCP (RFC 2474) of what is sent, 0 to 63.
    pub dscp: u8,
}

impl SocketOptions {
    /// The highest DSCP: it has six bits.
    pub const MAX_DSCP: u8 = 63;

    /// Tells a listener, for the connections that it will accept, or a socket that is not connected yet. Gives back what
    /// to say of what cannot be had.
    #[must_use = "what could not be had is to be logged"]
    pub fn apply(&self, socket: impl AsFd) -> Vec<String> {
        let congestion = choose_congestion(&socket, &self.congestion);
        congestion
            .into_iter()
            .chain(mark(&socket, self.dscp))
            .collect()
    }
}

/// Marks what is sent, for switches and routers that serve some traffic sooner.
fn mark(socket: impl AsFd, dscp: u8) -> Option<String> {
    if dscp == 0 {
        return None;
    }
    // The two bits below are ECN's.
    let field = dscp.checked_shl(2)?;
    let marked = sockopt::set_ip_tos(&socket, field).and_then(|()| {
        // What it sends as IPv6 has a field of its own, if it can.
        match sockopt::set_ipv6_tclass(&socket, field.into()) {
            Err(Errno::NOPROTOOPT) => Ok(()),
            other => other,
        }
    });
    let error = marked.err()?;
    Some(format!(
        "cannot mark what is sent with DSCP {dscp}: {error}"
    ))
}

/// Chooses how the kernel paces what is sent on the connections that a listener will accept, or on one that is not
/// connected yet; empty leaves it the host's choice. Gives back what to say where it cannot be had.
///
/// A host that prefers BBR holds each page back by the rate of the few before it: milliseconds, for
/// somebody who waits for just that page. Set here, for connections to inherit, rather than on each: one
/// that has begun with BBR is left pacing (the kernel sets `sk_pacing_status` and does not take it back).
fn choose_congestion(socket: impl AsFd, wanted: &str) -> Option<String> {
    if wanted.is_empty() {
        return None;
    }
    let error = sockopt::set_tcp_congestion(&socket, wanted).err()?;
    let instead = match sockopt::set_tcp_congestion(&socket, PLAIN) {
        Ok(()) => PLAIN,
        Err(_) => "the host's choice",
    };
    Some(format!(
        "cannot use TCP congestion control \"{wanted}\": {error}; it is {instead} instead; give one of \
         net.ipv4.tcp_allowed_congestion_control with --congestion, or \"\" for the host's choice"
    ))
}

fn socket(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // A server that is started again finds old connections of its port in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket.into())
}

fn failed(address: SocketAddr, error: io::Error) -> StartError {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program listens there: stop it, or give another port with --listen"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; it is not an address of this machine: see `ip address`"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 are root's",
        _ => "",
    };
    StartError::Listen {
        address,
        reason: format!("{error}{hint}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn connections_send_with_the_dscp_that_was_chosen() {
        let options = SocketOptions {
            congestion: String::new(),
            dscp: 34,
        };
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!(options.apply(&listener), [""; 0]);
        open(&listener).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(sockopt::ip_tos(&accepted).unwrap(), 34 << 2);
        let Ok(v6) = bind("[::]:0".parse().unwrap()) else {
            return; // no IPv6 here
        };
        assert_eq!(options.apply(&v6), [""; 0]);
        assert_eq!(sockopt::ipv6_tclass(&v6).unwrap(), 34 << 2);
    }

    /// What a connection has that is accepted after such a choice, and what was said of the choice.
    fn accepted_after(wanted: &str) -> (String, Option<String>) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let said = choose_congestion(&listener, wanted);
        open(&listener).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        (sockopt::tcp_congestion(&accepted).unwrap(), said)
    }

    #[test]
    fn connections_have_the_congestion_control_that_was_chosen() {
        assert_eq!(accepted_after(PLAIN), (PLAIN.to_owned(), None));
    }

    #[test]
    fn one_that_the_kernel_lacks_is_replaced_and_said() {
        let (has, said) = accepted_after("no-such");
        assert_eq!(has, PLAIN);
        let said = said.unwrap();
        assert!(
            said.contains("\"no-such\"") && said.contains("--congestion"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1);
    }

    #[test]
    fn an_empty_choice_is_the_hosts() {
        let other = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let hosts = sockopt::tcp_congestion(&other).unwrap();
        assert_eq!(accepted_after(""), (hosts, None));
    }
}
