// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The socket that clients connect to: bound at the start, opened when there is something to serve.
//!
//! Two steps, because taking the memory lies between them and may take long: a port in use is said at
//! once, and a client that comes too early is refused by the kernel and tries again, where it would
//! otherwise wait in the backlog until it gave up.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rustix::io::Errno;
use rustix::net::{sockopt, AddressFamily, SocketFlags, SocketType};

use crate::error::StartError;

/// How many connections may wait to be accepted; the kernel takes `net.core.somaxconn` if that is less.
const BACKLOG: i32 = 1024;

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
