// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One connection: a socket, its session, and what could not be sent or executed yet.
//!
//! Bytes are read into a buffer of the thread's and answers gathered in another, so that a connection
//! which keeps up holds no more than part of a message. One that does not read its answers holds at most
//! one buffer of unsent answers and one of unexecuted input; until the former is sent, nothing is read.

mod forward;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memsrv_protocol::HEADER_LEN;
use mio::net::TcpStream;
use mio::{Registry, Token};
use rustix::net::sockopt;

use crate::mirror::{self, link::Parting};
use crate::regions::{Peer, Shared};
use crate::session::{notice_draining, Session, Stop, LONGEST, OUTPUT_LIMIT};
use crate::worker::{Mail, Mailbox};

use forward::{lend, reclaim};
pub use forward::{link_token, owner};

/// Bytes read at a time: more than the 32 stores that the module sends at a time, which, once all have come, are one read and one ACK.
const INPUT_LEN: usize = 144 * 1024;

/// Room for answers.
const OUTPUT_LEN: usize = OUTPUT_LIMIT + LONGEST;

/// How often a connection may read before others get their turn.
const TURNS: u32 = 4;

/// A peer that is silent so long is asked for a sign of life, then once a second, three times.
const KEEPALIVE: Duration = Duration::from_secs(3);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_COUNT: u32 = 3;

/// A peer that acknowledges nothing, or takes nothing, for so long is gone.
const USER_TIMEOUT_MS: u32 = 10_000;

/// Buffers that the connections of a thread use in turn.
pub struct Buffers {
    input: Box<[u8]>,
    output: Vec<u8>,
    /// For the mirror; made when first needed.
    forwarded: Vec<u8>,
}

impl Buffers {
    /// Room that is anyone's between two calls.
    pub fn scratch(&mut self) -> &mut [u8] {
        &mut self.input
    }
}

impl Buffers {
    /// How many bytes they take.
    pub const LEN: usize = INPUT_LEN + OUTPUT_LEN;
}

impl Default for Buffers {
    fn default() -> Buffers {
        let output = Vec::with_capacity(OUTPUT_LEN);
        Buffers {
            input: vec![0; INPUT_LEN].into(),
            output,
            forwarded: Vec::new(),
        }
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// The socket.
    Idle,
    /// Its next turn.
    Again,
    /// Nothing; close it.
    Done,
}

struct Link {
    socket: TcpStream,
    address: SocketAddr,
    /// Where the worker that serves it takes what other threads have to say.
    mailbox: Arc<Mailbox>,
    token: Token,
}

impl Peer for Link {
    fn address(&self) -> String {
        self.address.to_string()
    }

    fn hang_up(&self) {
        // Fails where the peer was faster.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn tell(&self, message: [u8; HEADER_LEN]) {
        // Fails where the worker has.
        let _ = self.mailbox.post(Mail::Tell(self.token, message));
    }
}

/// One of the connections that there may be, given back when dropped.
pub struct Place {
    shared: Arc<Shared>,
}

impl Place {
    /// For a connection that is counted already.
    pub fn new(shared: Arc<Shared>) -> Place {
        Place { shared }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection.
pub struct Conn {
    link: Arc<Link>,
    session: Session,
    /// Input that is not executed yet.
    held: Vec<u8>,
    /// Answers that are not sent yet.
    unsent: Vec<u8>,
    /// Whether `held` may begin with a whole message.
    more: bool,
    readable: bool,
    /// Whether the peer will send no more than what there is to read.
    ending: bool,
    /// The session is over; what the peer still sends is thrown away.
    closing: bool,
    sent_end: bool,
    /// When to close it whatever it does; the worker's to set.
    pub deadline: Option<Instant>,
    /// Whether it waits for its turn; the worker's to set.
    pub queued: bool,
    /// Its connection to the mirror.
    mirror: Option<mirror::link::Link>,
    /// Last words to the mirror.
    parting: Option<Parting>,
    /// When to look whether the mirror is late; the worker's to set.
    pub alarm: Option<Instant>,
    place: Arc<Place>,
}

impl Conn {
    /// Takes a new connection.
    pub fn new(
        socket: TcpStream,
        address: SocketAddr,
        place: Arc<Place>,
        (mailbox, token): (Arc<Mailbox>, Token),
    ) -> Conn {
        let shared = place.shared.clone();
        let link = Arc::new(Link {
            socket,
            address,
            mailbox,
            token,
        });
        Conn {
            session: Session::new(shared, link.clone()),
            link,
            held: Vec::new(),
            unsent: Vec::new(),
            more: false,
            readable: true,
            ending: false,
            closing: false,
            sent_end: false,
            deadline: None,
            queued: false,
            mirror: None,
            parting: None,
            alarm: None,
            place,
        }
    }

    /// Where the peer is.
    pub fn address(&self) -> String {
        self.link.address()
    }

    /// Whether the peer has said who it is.
    pub fn is_open(&self) -> bool {
        self.session.is_open()
    }

    /// Whether the peer has said something of use since this was last called.
    pub fn take_spoken(&mut self) -> bool {
        self.session.take_spoken()
    }

    /// Whether the session is over, and only the end of the connection is waited for.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Takes note of what the socket is ready for.
    pub fn ready(&mut self, readable: bool, ending: bool) {
        self.readable |= readable || ending;
        self.ending |= ending;
    }

    /// Puts a message of another thread behind the answers. What is not sent yet ends with a whole message,
    /// since the session answers in whole ones.
    pub fn tell(&mut self, message: &[u8; HEADER_LEN]) {
        if self.session.is_welcomed() && !self.closing {
            self.unsent.extend_from_slice(message);
        }
    }

    /// Tells a client that the server is draining.
    pub fn notice_draining(&mut self) {
        if self.session.is_welcomed() && !self.closing {
            notice_draining(&mut self.unsent);
        }
    }

    /// Whether it waits for the log.
    pub fn waits(&self) -> bool {
        self.session.waits()
    }

    /// Whether the log has what it waits for.
    pub fn is_ripe(&self) -> bool {
        self.session.is_ripe()
    }

    /// Sends, reads and executes what is there, up to a fair share.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    pub fn turn(&mut self, buffers: &mut Buffers, registry: &Registry) -> io::Result<Turn> {
        let more = self.hear_mirror(buffers);
        self.closing |= self.session.settle(&mut self.unsent);
        let turn = self.converse(buffers, registry);
        self.part();
        match turn {
            // What the mirror did meanwhile is said next time.
            Ok(Turn::Idle) if more || self.session.has_news() => Ok(Turn::Again),
            turn => turn,
        }
    }

    fn converse(&mut self, buffers: &mut Buffers, registry: &Registry) -> io::Result<Turn> {
        for _ in 0..TURNS {
            if !self.send_unsent()? {
                return Ok(Turn::Idle);
            }
            if self.closing {
                return self.linger(buffers);
            }
            let held = self.held.len();
            let mut len = held;
            if let Some(front) = buffers.input.get_mut(..held) {
                front.copy_from_slice(&self.held);
            }
            if !self.more {
                match self.read(buffers.input.get_mut(held..).unwrap_or(&mut []))? {
                    Some(0) => return Ok(Turn::Done),
                    Some(n) => len = len.saturating_add(n),
                    None => return Ok(Turn::Idle),
                }
            }
            match self.execute(buffers, len, registry)? {
                Stop::Yield => break,
                Stop::Stalled if !self.session.can_go_on() => return Ok(Turn::Idle),
                _ => {}
            }
        }
        Ok(Turn::Again)
    }

    /// Reads once; `None` where nothing is there.
    fn read(&mut self, room: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.readable {
            return Ok(None);
        }
        match (&self.link.socket).read(room) {
            Ok(n) => {
                // A short read has emptied the socket, unless the end is behind it.
                self.readable = n == room.len() || self.ending;
                Ok(Some(n))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(room),
            Err(error) => Err(error),
        }
    }

    /// Executes `len` bytes of input and sends the answers.
    fn execute(
        &mut self,
        buffers: &mut Buffers,
        len: usize,
        registry: &Registry,
    ) -> io::Result<Stop> {
        let input = buffers.input.get(..len).unwrap_or(&[]);
        buffers.output.clear();
        lend(self.session.forward(), &mut buffers.forwarded);
        let progress = self.session.feed(input, &mut buffers.output);
        self.more = matches!(
            progress.stop,
            Stop::OutputFull | Stop::Yield | Stop::Stalled
        );
        self.closing = progress.stop == Stop::Close;
        self.held.clear();
        keep(
            &mut self.held,
            input.get(progress.consumed..).unwrap_or(&[]),
        )?;
        if self.held.len() <= LONGEST && self.held.capacity() > LONGEST.saturating_mul(2) {
            self.held.shrink_to(LONGEST);
        }
        self.send_mirror(registry);
        reclaim(self.session.forward(), &mut buffers.forwarded);
        let sent = write(&self.link.socket, &buffers.output)?;
        keep(&mut self.unsent, buffers.output.get(sent..).unwrap_or(&[]))?;
        Ok(progress.stop)
    }

    /// Sends what could not be sent before; false where that was not all.
    fn send_unsent(&mut self) -> io::Result<bool> {
        if self.unsent.is_empty() {
            return Ok(true);
        }
        let sent = write(&self.link.socket, &self.unsent)?;
        if sent < self.unsent.len() {
            self.unsent.drain(..sent);
            return Ok(false);
        }
        // The buffer goes, too: most connections never need one again.
        self.unsent = Vec::new();
        Ok(true)
    }

    /// Ends the connection so that the peer gets our last words: a socket closed with unread input
    /// would tell the peer's to drop them.
    fn linger(&mut self, buffers: &mut Buffers) -> io::Result<Turn> {
        if !self.sent_end {
            self.sent_end = true;
            self.held = Vec::new();
            self.link.socket.shutdown(Shutdown::Write)?;
        }
        for _ in 0..TURNS {
            match self.read(&mut buffers.input)? {
                Some(0) => return Ok(Turn::Done),
                Some(_) => {}
                None => return Ok(Turn::Idle),
            }
        }
        Ok(Turn::Again)
    }
}

/// Puts bytes behind others, where there is memory for them; else it is this connection that ends.
fn keep(to: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    to.try_reserve(bytes.len())
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    to.extend_from_slice(bytes);
    Ok(())
}

/// Writes as much as the socket takes.
pub(crate) fn write(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent: usize = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        let mut socket = socket;
        match socket.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => sent = sent.saturating_add(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Sets the socket's options.
///
/// # Errors
///
/// The kernel's, if it lacks one.
pub fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(socket, USER_TIMEOUT_MS)?;
    Ok(())
}
