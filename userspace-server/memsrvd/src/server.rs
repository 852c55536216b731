// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The server as a whole: takes memory, starts workers, accepts connections, stops when told.
//!
//! The accepting thread hands each connection to the next worker in turn, so that the streams of one
//! client are spread evenly.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memsrv_protocol::{Instance, Message, Status};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustix::process::{getrlimit, setrlimit, Resource};

use crate::config::Config;
use crate::conn::Buffers;
use crate::error::StartError;
use crate::listener;
use crate::memory;
use crate::mirror::forward::OUT_LIMIT;
use crate::mirror::{is_own, Mirror};
use crate::num::{to_u32, to_u64};
use crate::persist::segments::Segments;
use crate::persist::writer::{self, Writer};
use crate::persist::{recover, Persist};
use crate::pull::Pullers;
use crate::regions::Shared;
use crate::worker::{Mail, Mailbox, Worker};

const LISTENER: Token = Token(0);
const SHUTDOWN: Token = Token(1);

/// When to try again to accept a connection for which the process had no descriptor left.
const RETRY: Duration = Duration::from_millis(100);

/// Descriptors that are no connections: the log's, the pulling threads', those of each worker.
const OTHER_DESCRIPTORS: u64 = 256;

/// How often a draining server looks whether its last page has gone.
const DRAIN_STEP: Duration = Duration::from_millis(100);

/// A worker's stack: its deepest calls need a tenth of it, and it is locked in memory.
const STACK_LEN: usize = 256 * 1024;

/// What the heap may grow by until connections come; it needs less than half of it.
const HEAP_LEN: usize = 1024 * 1024;

/// Serves on `listener` until a byte, or the end, comes from `shutdown`; a second byte cuts a drain short.
///
/// The listener need only be bound ([`listener::bind`]). The caller has called [`memory::protect`] where
/// that matters.
///
/// # Errors
///
/// What kept the server from starting or going on.
pub fn run(
    config: &Config,
    listener: std::net::TcpListener,
    shutdown: UnixStream,
) -> Result<(), StartError> {
    let stacks = stacks(config);
    let buffers = config.threads.saturating_mul(Buffers::LEN);
    let buffers = buffers.saturating_add(config.limits.pull.bytes());
    let forwarding = config.mirror.as_ref().map_or(0, |_| 2 * OUT_LIMIT);
    let buffers = buffers.saturating_add(config.threads.saturating_mul(forwarding));
    let mut later = stacks.saturating_add(buffers).saturating_add(HEAP_LEN);
    check_mirror(config, &listener)?;
    // Before the memory, as the port: another server by mistake is seen at once.
    let directory = config.persist.as_ref().map(|options| {
        let regions = config.limits.regions;
        later = later.saturating_add(Persist::memory_len(options, regions) + STACK_LEN);
        recover::directory(options).map(|directory| (directory, options))
    });
    let directory = directory.transpose()?;
    let arena = memory::take(config.capacity_pages, config.lock, later)?;
    let instance = memory::random_id().map_err(StartError::io("cannot get random bytes"))?;
    let limits = config.limits.clone();
    let mut shared = Shared::new(arena, limits, Instance(instance), config.version);
    let mirror = |options| Mirror::new(options, config.sockets.clone());
    shared.mirror = config.mirror.clone().map(mirror);
    let log = directory
        .map(|(directory, options)| recover::open(&mut shared, directory, options))
        .transpose()?;
    let shared = Arc::new(shared);
    let log = log.map(|segments| LogThread::start(&shared, segments));
    let log = log.transpose()?;
    for words in config.sockets.apply(&listener) {
        tracing::warn!("{words}");
    }
    // Only now: who connects before there is memory would wait for it, and give up.
    listener::open(&listener)?;
    let mut acceptor = Acceptor::new(config, shared.clone(), listener, shutdown)
        .map_err(|error| memory::no_threads(config.lock, to_u64(stacks), error))?;
    acceptor.log_start();
    let result = acceptor
        .run()
        .map_err(StartError::io("cannot accept connections"));
    let pages = shared.used_pages();
    acceptor.stop();
    // When nobody can store any more.
    let kept = log.is_some_and(LogThread::stop);
    let dropped = if kept { 0 } else { pages };
    tracing::info!(dropped_pages = dropped, "stopped");
    result
}

/// Whether the mirror can be one, and enough connections to it be had.
fn check_mirror(config: &Config, listener: &std::net::TcpListener) -> Result<(), StartError> {
    let Some(mirror) = &config.mirror else {
        return Ok(());
    };
    let own = listener
        .local_addr()
        .map_err(StartError::io("cannot tell the own address"))?;
    if is_own(own, mirror.address) {
        return Err(StartError::Usage(format!(
            "mirror {} is this server's own address; give another server's",
            mirror.address
        )));
    }
    let wanted = to_u64(config.max_connections)
        .saturating_mul(2)
        .saturating_add(OTHER_DESCRIPTORS);
    let limit = getrlimit(Resource::Nofile).current;
    if let Some(limit) = limit.filter(|limit| *limit < wanted) {
        tracing::warn!(
            limit,
            wanted,
            "the limit on descriptors is too low for max_connections connections \
            that are all forwarded; raise LimitNOFILE"
        );
    }
    Ok(())
}

/// Bytes of stack that all threads take.
fn stacks(config: &Config) -> usize {
    let threads = config.threads.saturating_add(config.limits.pull.threads);
    threads.saturating_mul(STACK_LEN)
}

/// The thread that writes the log; ended when dropped.
struct LogThread {
    persist: Arc<Persist>,
    thread: Option<JoinHandle<bool>>,
}

impl LogThread {
    fn start(shared: &Arc<Shared>, segments: Segments) -> Result<LogThread, StartError> {
        let failed = || StartError::io("cannot start the log's thread");
        let writer = Writer::new(shared.clone(), segments);
        let (Some(persist), Some(writer)) = (shared.persist.clone(), writer) else {
            return Err(failed()(io::ErrorKind::NotFound.into()));
        };
        let builder = std::thread::Builder::new().name("log".to_owned());
        let thread = builder
            .stack_size(STACK_LEN)
            .spawn(move || writer.run())
            .map_err(failed())?;
        Ok(LogThread {
            persist,
            thread: Some(thread),
        })
    }

    /// Has it write what waits; true: the log is whole.
    fn stop(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        let Some(thread) = self.thread.take() else {
            return false;
        };
        writer::stop(&self.persist);
        thread.join().unwrap_or_else(|_| {
            tracing::error!("the log's thread panicked");
            false
        })
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.end();
    }
}

struct Acceptor {
    poll: Poll,
    listener: TcpListener,
    shutdown: mio::net::UnixStream,
    shared: Arc<Shared>,
    mailboxes: Vec<Arc<Mailbox>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    pullers: Pullers,
    max_connections: u64,
    drain: Duration,
    next: usize,
    /// Whether accepting fails for now: it is tried again, and not said again.
    retry: bool,
}

impl Acceptor {
    fn new(
        config: &Config,
        shared: Arc<Shared>,
        listener: std::net::TcpListener,
        shutdown: UnixStream,
    ) -> io::Result<Acceptor> {
        listener.set_nonblocking(true)?;
        shutdown.set_nonblocking(true)?;
        let poll = Poll::new()?;
        let mut listener = TcpListener::from_std(listener);
        let mut shutdown = mio::net::UnixStream::from_std(shutdown);
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        poll.registry()
            .register(&mut shutdown, SHUTDOWN, Interest::READABLE)?;
        let (mut mailboxes, mut threads) = (Vec::new(), Vec::new());
        for number in 0..config.threads {
            let (worker, mailbox) = Worker::new(shared.clone(), config.hello_timeout)?;
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .stack_size(STACK_LEN)
                .spawn(move || worker.run())?;
            mailboxes.push(mailbox);
            threads.push(thread);
        }
        let pullers = Pullers::start(&shared, STACK_LEN)?;
        let (max_connections, drain) = (to_u64(config.max_connections), config.drain);
        Ok(Acceptor {
            poll,
            listener,
            shutdown,
            shared,
            mailboxes,
            threads,
            pullers,
            max_connections,
            drain,
            next: 0,
            retry: false,
        })
    }

    fn log_start(&self) {
        let address = self
            .listener
            .local_addr()
            .map(|address| address.to_string());
        tracing::info!(
            address = address.unwrap_or_default(),
            threads = self.threads.len(),
            capacity_pages = self.shared.arena.pages.total(),
            "listening"
        );
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(8);
        while !self.wait(&mut events, None)? {}
        self.drain(&mut events)
    }

    /// Waits for connections, at most for `timeout`, and accepts them; true when told to stop.
    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<bool> {
        let timeout = if self.retry { Some(RETRY) } else { timeout };
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            other => other?,
        }
        if self.retry {
            self.accept()?;
        }
        for event in events.iter() {
            match event.token() {
                SHUTDOWN if self.told_to_stop()? => return Ok(true),
                LISTENER => self.accept()?,
                _ => {}
            }
        }
        Ok(false)
    }

    fn told_to_stop(&mut self) -> io::Result<bool> {
        match self.shutdown.read(&mut [0; 1]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Accepts what waits. What fails for another reason than the connection itself (descriptors or
    /// memory are used up) is tried again a little later: trying at once would not end.
    fn accept(&mut self) -> io::Result<()> {
        let failing = std::mem::replace(&mut self.retry, false);
        loop {
            match self.listener.accept() {
                Ok((socket, address)) => self.hand_over(socket, canonical(address))?,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    // That connection was gone before we took it; others wait.
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {
                        tracing::debug!(%error, "a connection was not accepted");
                    }
                    _ => {
                        if !failing {
                            tracing::error!(%error, "cannot accept connections for now; where \
                                descriptors are used up, raise LimitNOFILE");
                        }
                        self.retry = true;
                        return Ok(());
                    }
                },
            }
        }
    }

    fn hand_over(&mut self, socket: TcpStream, address: SocketAddr) -> io::Result<()> {
        if self.shared.connections.load(Ordering::Relaxed) >= self.max_connections {
            self.shared.refusals.count(Status::Full);
            tracing::warn!(peer = %address, limit = self.max_connections,
                "connection refused: as many as allowed are open (max_connections)");
            let text = "server has as many connections as it allows (max_connections)";
            let message = Message::Refused {
                status: Status::Full,
                len: to_u32(text.len()),
            };
            // The peer may miss it; it has not said anything that would deserve more care.
            let mut socket = socket;
            let _ = socket.write(&[&message.encode(), text.as_bytes()].concat());
            return Ok(());
        }
        let worker = self.next_worker()?;
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        worker.post(Mail::Adopt(socket, address))
    }

    /// The workers in turn, but for one that has failed.
    fn next_worker(&mut self) -> io::Result<Arc<Mailbox>> {
        self.next = self.next.wrapping_add(1);
        let first = self.next.checked_rem(self.threads.len()).unwrap_or(0);
        let mut workers = self.mailboxes.iter().zip(&self.threads).cycle().skip(first);
        let alive = |(_, thread): &(_, &JoinHandle<_>)| !thread.is_finished();
        let worker = workers.by_ref().take(self.threads.len()).find(alive);
        worker
            .map(|(mailbox, _)| mailbox.clone())
            .ok_or_else(|| io::Error::other("all workers failed"))
    }

    /// Lets clients fetch their pages, for a while.
    fn drain(&mut self, events: &mut Events) -> io::Result<()> {
        self.shared.draining.store(true, Ordering::Relaxed);
        tracing::info!(
            pages = self.shared.used_pages(),
            seconds = self.drain.as_secs(),
            "told to stop; clients are told to fetch their pages"
        );
        for mailbox in &self.mailboxes {
            mailbox.post(Mail::Drain)?;
        }
        let end = Instant::now().checked_add(self.drain);
        while self.shared.used_pages() > 0 && end.is_some_and(|end| Instant::now() < end) {
            // Asked too, for two words that came at once are one event.
            if self.told_to_stop()? || self.wait(events, Some(DRAIN_STEP))? {
                break;
            }
        }
        Ok(())
    }

    fn stop(self) {
        self.pullers.stop();
        for mailbox in &self.mailboxes {
            if let Err(error) = mailbox.post(Mail::Stop) {
                tracing::error!(%error, "cannot tell a worker to stop");
                return;
            }
        }
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a worker failed"),
                Err(_) => tracing::error!("a worker panicked"),
            }
        }
    }
}

/// An IPv4 peer's own address, though it came by a socket for IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Raises the limit on descriptors as far as it may be: each connection takes one, and one more if it is forwarded.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit on descriptors (RLIMIT_NOFILE)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_peer_is_shown_as_one() {
        for (from, to) in [
            ("[::ffff:192.0.2.1]:5", "192.0.2.1:5"),
            ("192.0.2.1:5", "192.0.2.1:5"),
            ("[2001:db8::1]:5", "[2001:db8::1]:5"),
        ] {
            assert_eq!(canonical(from.parse().unwrap()).to_string(), to);
        }
    }
}
