// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A thread that serves connections: one epoll loop, no ticks, asleep while nothing happens.
//!
//! The accepting thread hands connections over through a mailbox and wakes the loop; the threads that
//! fetch pages have it tell a connection that they are done. The loop's only
//! timer is the nearest deadline: of a connection that has not said who it is, or that is to end, or whose mirror owes
//! something.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use memsrv_protocol::HEADER_LEN;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::arena::lock;
use crate::conn::{link_token, owner, prepare, Buffers, Conn, Place, Turn};
use crate::mirror::link::Parting;
use crate::mirror::MIRROR_TIMEOUT;
use crate::persist::Waiting;
use crate::regions::Shared;

const WAKE: Token = Token(usize::MAX);

/// How long a refused peer has to take our last words.
const LINGER: Duration = Duration::from_secs(2);

/// What other threads tell a worker.
pub enum Mail {
    /// Serve this connection.
    Adopt(TcpStream, SocketAddr),
    /// Tell the clients that the server is about to stop.
    Drain,
    /// Send this on that connection, if it is still there.
    Tell(Token, [u8; HEADER_LEN]),
    /// Stop.
    Stop,
}

/// Where they put it.
pub struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    waker: Waker,
    /// Whether a connection waits for the log.
    waits: AtomicBool,
}

impl Waiting for Mailbox {
    fn look(&self) {
        if self.waits.swap(false, Ordering::SeqCst) {
            // It fails where the worker has gone.
            let _ = self.waker.wake();
        }
    }
}

impl Mailbox {
    /// Puts mail in the box and wakes the worker.
    ///
    /// # Errors
    ///
    /// The kernel's, if the worker cannot be woken.
    pub fn post(&self, mail: Mail) -> io::Result<()> {
        lock(&self.mail).push(mail);
        self.waker.wake()
    }
}

/// The loop's state.
pub struct Worker {
    poll: Poll,
    mailbox: Arc<Mailbox>,
    shared: Arc<Shared>,
    conns: foldhash::HashMap<Token, Conn>,
    /// Connections with something to do, in the order of their turns.
    queue: VecDeque<Token>,
    /// Connections that wait for the log.
    waiting: HashSet<Token>,
    /// Of connections, and under their mirrors' tokens of those.
    deadlines: BTreeSet<(Instant, Token)>,
    /// Last words to the mirror, each with the place of the connection that it was for.
    partings: foldhash::HashMap<Token, (Parting, Arc<Place>)>,
    hello_timeout: Duration,
    next: usize,
    buffers: Buffers,
}

impl Worker {
    /// A worker without connections, and its mailbox.
    ///
    /// # Errors
    ///
    /// The kernel's, if there is no descriptor left.
    pub fn new(shared: Arc<Shared>, hello_timeout: Duration) -> io::Result<(Worker, Arc<Mailbox>)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let mailbox = Arc::new(Mailbox {
            mail: Mutex::default(),
            waker,
            waits: AtomicBool::new(false),
        });
        if let Some(log) = &shared.persist {
            log.tell(mailbox.clone());
        }
        let worker = Worker {
            poll,
            mailbox: mailbox.clone(),
            shared,
            conns: Default::default(),
            queue: VecDeque::new(),
            waiting: HashSet::new(),
            deadlines: BTreeSet::new(),
            partings: Default::default(),
            hello_timeout,
            next: 0,
            buffers: Buffers::default(),
        };
        Ok((worker, mailbox))
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    ///
    /// The kernel's, if it can no longer be waited for.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            match self.poll.poll(&mut events, self.timeout()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            let mut mail = Vec::new();
            for event in &events {
                if event.token() == WAKE {
                    mail = std::mem::take(&mut *lock(&self.mailbox.mail));
                    for token in std::mem::take(&mut self.waiting) {
                        self.enqueue(token);
                    }
                } else {
                    let ended = event.is_read_closed() || event.is_error();
                    self.ready(event.token(), event.is_readable(), ended);
                }
            }
            for mail in mail {
                match mail {
                    Mail::Adopt(socket, address) => self.adopt(socket, address),
                    Mail::Drain => self.drain(),
                    Mail::Tell(token, message) => self.tell(token, &message),
                    Mail::Stop => return self.stop(),
                }
            }
            for _ in 0..self.queue.len() {
                if let Some(token) = self.queue.pop_front() {
                    self.turn(token);
                }
            }
            self.expire();
        }
    }

    /// Takes note of what a socket is ready for.
    fn ready(&mut self, token: Token, readable: bool, ended: bool) {
        let (conn, is_mirror) = owner(token);
        if let Some((parting, _)) = self.partings.get_mut(&token) {
            parting.ready(readable || ended);
            self.part(token);
        } else if let Some(found) = self.conns.get_mut(&conn) {
            match is_mirror {
                true => found.mirror_ready(readable || ended),
                false => found.ready(readable, ended),
            }
            self.enqueue(conn);
        }
    }

    /// Goes on with last words to the mirror.
    fn part(&mut self, token: Token) {
        if let Some((parting, _)) = self.partings.get_mut(&token) {
            if parting.turn(self.buffers.scratch()) {
                self.partings.remove(&token);
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let (deadline, _) = self.deadlines.first()?;
        // Rounded up to the kernel's milliseconds, so that the deadline has passed when it wakes us.
        Some(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn adopt(&mut self, mut socket: TcpStream, address: SocketAddr) {
        let token = Token(self.next);
        // The odd ones are for connections to the mirror.
        self.next = self.next.wrapping_add(2);
        let place = Arc::new(Place::new(self.shared.clone()));
        let interest = Interest::READABLE | Interest::WRITABLE;
        let ready = prepare(&socket)
            .and_then(|()| self.poll.registry().register(&mut socket, token, interest));
        if let Err(error) = ready {
            tracing::warn!(peer = %address, %error, "cannot serve a connection");
            return;
        }
        tracing::debug!(peer = %address, "connection accepted");
        let post = (self.mailbox.clone(), token);
        let conn = Conn::new(socket, address, place, post);
        self.conns.insert(token, conn);
        self.set_deadline(token, Some(self.hello_timeout));
        self.enqueue(token);
    }

    fn enqueue(&mut self, token: Token) {
        if let Some(conn) = self.conns.get_mut(&token).filter(|conn| !conn.queued) {
            conn.queued = true;
            self.queue.push_back(token);
        }
    }

    fn set_deadline(&mut self, token: Token, after: Option<Duration>) {
        if let Some(conn) = self.conns.get_mut(&token) {
            let deadline = after.and_then(|after| Instant::now().checked_add(after));
            if let Some(old) = std::mem::replace(&mut conn.deadline, deadline) {
                self.deadlines.remove(&(old, token));
            }
            self.deadlines
                .extend(deadline.map(|deadline| (deadline, token)));
        }
    }

    fn turn(&mut self, token: Token) {
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        conn.queued = false;
        let was_closing = conn.is_closing();
        let turn = conn.turn(&mut self.buffers, self.poll.registry());
        let parting = conn.take_parting();
        if let Some(alarm) = conn.alarm.filter(|_| parting.is_some()) {
            conn.alarm = None;
            self.deadlines.remove(&(alarm, link_token(token)));
        }
        if let Some(deadline) = conn.mirror_deadline().filter(|_| conn.alarm.is_none()) {
            conn.alarm = Some(deadline);
            self.deadlines.insert((deadline, link_token(token)));
        }
        if conn.waits() {
            self.waiting.insert(token);
            // In this order: the log may have got there before it was told that somebody waits.
            self.mailbox.waits.store(true, Ordering::SeqCst);
            if conn.is_ripe() && !conn.queued {
                conn.queued = true;
                self.queue.push_back(token);
            }
        }
        let (closing, waiting) = (conn.is_closing(), conn.deadline.is_some());
        if closing && !was_closing {
            self.set_deadline(token, Some(LINGER));
        } else if waiting && !closing && conn.is_open() {
            self.set_deadline(token, None);
        } else if waiting && !closing && conn.take_spoken() {
            self.set_deadline(token, Some(self.hello_timeout));
        }
        if let Some(parting) = parting {
            let token = link_token(token);
            self.partings.insert(token, parting);
            let deadline = Instant::now().checked_add(MIRROR_TIMEOUT);
            self.deadlines
                .extend(deadline.map(|deadline| (deadline, token)));
            self.part(token);
        }
        match turn {
            Ok(Turn::Idle) => {}
            Ok(Turn::Again) => self.enqueue(token),
            Ok(Turn::Done) => self.close(token, None),
            Err(error) => self.close(token, Some(&error)),
        }
    }

    fn tell(&mut self, token: Token, message: &[u8; HEADER_LEN]) {
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.tell(message);
            self.enqueue(token);
        }
    }

    fn drain(&mut self) {
        let tokens: Vec<Token> = self.conns.keys().copied().collect();
        for token in tokens {
            if let Some(conn) = self.conns.get_mut(&token) {
                conn.notice_draining();
            }
            self.enqueue(token);
        }
    }

    /// Sends what can be sent at once, and closes everything.
    fn stop(mut self) -> io::Result<()> {
        for conn in self.conns.values_mut() {
            // It is all over; a peer that cannot take the rest now learns so by the end of the connection.
            let _ = conn.turn(&mut self.buffers, self.poll.registry());
            if let Some((mut parting, _)) = conn.take_parting() {
                parting.turn(self.buffers.scratch());
            }
        }
        Ok(())
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some((deadline, token)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            let (conn, is_mirror) = owner(token);
            if !is_mirror {
                self.close(token, None);
            } else if self.partings.remove(&token).is_some() {
                tracing::debug!("the mirror did not take a client's last words in time");
            } else if let Some(found) = self.conns.get_mut(&conn) {
                found.alarm = None;
                self.enqueue(conn);
            }
        }
    }

    fn close(&mut self, token: Token, error: Option<&io::Error>) {
        let Some(conn) = self.conns.remove(&token) else {
            return;
        };
        if let Some(deadline) = conn.deadline {
            self.deadlines.remove(&(deadline, token));
        }
        if let Some(alarm) = conn.alarm {
            self.deadlines.remove(&(alarm, link_token(token)));
        }
        match error {
            Some(error) => tracing::debug!(peer = conn.address(), %error, "connection lost"),
            None => tracing::debug!(peer = conn.address(), "connection closed"),
        }
    }
}
