// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A connection to the mirror: a socket that never waits, and what came from it and is not understood yet.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::forward::Forward;
use super::Mirror;
use crate::conn::{prepare, write};

/// How often it may be read before others get their turn.
const TURNS: u32 = 4;

/// More than this is no answer to anything.
const MOST_HEARD: usize = 256 * 1024;

/// A socket that is, or is being, connected to the mirror.
pub struct Link {
    socket: TcpStream,
    readable: bool,
    /// The beginning of a message.
    held: Vec<u8>,
}

/// What there is to do with a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Nothing, until the socket is ready.
    All,
    /// More to be read, at its next turn.
    More,
}

impl Link {
    /// Begins to connect. Events come under `token`.
    ///
    /// # Errors
    ///
    /// The kernel's: no descriptor, or no way to that address.
    pub fn open(mirror: &Mirror, registry: &Registry, token: Token) -> io::Result<Link> {
        let address = mirror.options.address;
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        // Before it connects, as for a listener. What cannot be had was said at the start.
        let _ = mirror.sockets.apply(&socket);
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let mut socket = TcpStream::from_std(socket.into());
        prepare(&socket)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut socket, token, interest)?;
        Ok(Link {
            socket,
            readable: true,
            held: Vec::new(),
        })
    }

    /// Takes note that there is something to read, or the end.
    pub fn ready(&mut self, readable: bool) {
        self.readable |= readable;
    }

    /// Sends what the socket takes, and takes that out of `out`. Before it is connected that is nothing.
    ///
    /// # Errors
    ///
    /// The connection is broken, or was not made.
    pub fn send(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let sent = write(&self.socket, out)?;
        out.drain(..sent);
        Ok(())
    }

    /// Reads what is there, up to a fair share, and tells it to `forward`. `buffer` is anyone's.
    ///
    /// # Errors
    ///
    /// The connection is broken, or has ended.
    pub fn hear(&mut self, forward: &mut Forward, buffer: &mut [u8]) -> io::Result<Heard> {
        for _ in 0..TURNS {
            let held = self.held.len();
            if let Some(front) = buffer.get_mut(..held) {
                front.copy_from_slice(&self.held);
            }
            let Some(n) = self.read(buffer.get_mut(held..).unwrap_or(&mut []))? else {
                return Ok(Heard::All);
            };
            let input = buffer.get(..held.saturating_add(n)).unwrap_or(&[]);
            let consumed = forward.hear(input);
            if !forward.wants_link() {
                return Ok(Heard::All);
            }
            self.held.clear();
            self.held
                .extend_from_slice(input.get(consumed..).unwrap_or(&[]));
        }
        Ok(Heard::More)
    }

    /// Reads once; `None` where nothing is there.
    fn read(&mut self, room: &mut [u8]) -> io::Result<Option<usize>> {
        while self.readable {
            match self.socket.read(room) {
                Ok(0) => {
                    let words = "it closed the connection";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, words));
                }
                Ok(n) => return Ok(Some(n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// The last words to a mirror, BYE among them, and the connection that they go over. It is closed when the mirror
/// has closed it, which says that it has them: one that is closed with unread answers may lose them.
pub struct Parting {
    link: Link,
    out: Vec<u8>,
    sent_end: bool,
    heard: usize,
}

impl Parting {
    /// Begins to say `out`.
    pub fn new(link: Link, out: Vec<u8>) -> Parting {
        Parting {
            link,
            out,
            sent_end: false,
            heard: 0,
        }
    }

    /// Takes note that there is something to read, or the end.
    pub fn ready(&mut self, readable: bool) {
        self.link.ready(readable);
    }

    /// Goes on, with what the sockets takes and gives; true: it is over. `buffer` is anyone's.
    pub fn turn(&mut self, buffer: &mut [u8]) -> bool {
        self.try_turn(buffer).unwrap_or(true)
    }

    fn try_turn(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        self.link.send(&mut self.out)?;
        if self.out.is_empty() && !self.sent_end {
            self.sent_end = true;
            self.link.socket.shutdown(Shutdown::Write)?;
        }
        while let Some(n) = self.link.read(buffer)? {
            self.heard = self.heard.saturating_add(n);
            if self.heard > MOST_HEARD {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
