// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One stream: asking, sending, and waiting for results; [`crate::receive`] has its other half.
//!
//! The one who asks gathers messages under the lock and writes them without it, until there are none;
//! whoever comes meanwhile finds `sending` set and goes away. The receiver must not write, since it
//! would stop reading while the server waits for exactly that: it wakes the stream's sender.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use memsrv_protocol::{Hello, Slot, Status, Welcome};

use crate::config::ClientConfig;
use crate::error::Error;
use crate::handshake;
use crate::state::{Connection, State};
use crate::Page;

/// A stream.
pub(crate) struct Link {
    state: Mutex<State>,
    /// Something ended, or the connection came or went.
    pub(crate) changed: Condvar,
    /// There is something to send, and nobody sends.
    output: Condvar,
    start: Instant,
    pub(crate) address: SocketAddr,
    pub(crate) config: ClientConfig,
    /// As it would be said now but for `issued`, with the server's life once that is known.
    pub(crate) hello: Mutex<Hello>,
}

impl Link {
    pub(crate) fn new(address: SocketAddr, config: ClientConfig, hello: Hello) -> Self {
        Self {
            state: Mutex::new(State::new(&config)),
            changed: Condvar::new(),
            output: Condvar::new(),
            start: Instant::now(),
            address,
            config,
            hello: Mutex::new(hello),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves whole messages and whole entries.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, but not for ever.
    pub(crate) fn wait_ms<'a>(
        &self,
        state: MutexGuard<'a, State>,
        ms: u64,
    ) -> MutexGuard<'a, State> {
        let wait = self.changed.wait_timeout(state, Duration::from_millis(ms));
        wait.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The stream's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    // Connecting.

    /// Makes a connection and puts the stream on it.
    pub(crate) fn connect(&self) -> Result<Welcome, Error> {
        let socket = handshake::connect(self.address, self.config.connect_timeout)?;
        let mut hello = *self.hello.lock().unwrap_or_else(PoisonError::into_inner);
        hello.issued = self.lock().engine.issued();
        let welcome = handshake::open(&socket, self.address, &hello)?;
        if welcome.executed > hello.issued {
            // The server should have said so itself.
            return Err(Error::Refused {
                address: self.address,
                status: Status::Stale,
                text: format!(
                    "stream {} has executed operation {}, this client knows of {} only",
                    hello.stream, welcome.executed.0, hello.issued.0
                ),
            });
        }
        let silence = self.silence_step();
        let set = socket.set_read_timeout(Some(silence));
        set.and_then(|()| socket.set_write_timeout(Some(self.config.silence_timeout)))
            .map_err(|source| Error::Connect {
                address: self.address,
                source,
            })?;
        self.hello
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .instance = welcome.instance;
        let mut state = self.lock();
        if state.end.is_some() {
            return Err(Error::Closed);
        }
        state.connections = state.connections.saturating_add(1);
        let number = state.connections;
        state.connection = Some(Connection {
            socket: Arc::new(socket),
            number,
            sending: false,
        });
        state.closed_by_server = false;
        state.engine.connected(welcome.window);
        drop(state);
        self.changed.notify_all();
        self.output.notify_one();
        Ok(welcome)
    }

    /// How long one read waits: two such waits in a row for an answer that is due are too long.
    fn silence_step(&self) -> Duration {
        (self.config.silence_timeout / 2).max(Duration::from_millis(1))
    }

    /// The connection is gone; called by the receiver only, so that no page is half received.
    pub(crate) fn disconnected(&self) {
        let mut state = self.lock();
        if let Some(connection) = state.connection.take() {
            hang_up(&connection.socket);
        }
        state.engine.disconnected();
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the stream for the reason given, if it has not ended before.
    pub(crate) fn end(&self, reason: Arc<Error>) {
        let mut state = self.lock();
        state.end.get_or_insert(reason);
        if let Some(connection) = &state.connection {
            hang_up(&connection.socket);
        }
        drop(state);
        self.changed.notify_all();
        self.output.notify_all();
    }

    // Sending.

    /// Sends what can be sent, unless somebody else does.
    fn send(&self) {
        let mut state = self.lock();
        let (socket, number) = match &mut state.connection {
            Some(connection) if !connection.sending => {
                connection.sending = true;
                (connection.socket.clone(), connection.number)
            }
            _ => return,
        };
        let mut out = Vec::new();
        loop {
            let connection = state.connection.as_ref();
            if connection.is_none_or(|connection| connection.number != number) {
                return;
            }
            out.clear();
            state.gather(&mut out);
            if out.is_empty() {
                if let Some(connection) = &mut state.connection {
                    connection.sending = false;
                }
                return;
            }
            drop(state);
            if (&*socket).write_all(&out).is_err() {
                // The receiver sees it and makes a new connection; nobody sends on this one any more.
                hang_up(&socket);
                return;
            }
            state = self.lock();
        }
    }

    /// Wakes the sender if there is something to send.
    pub(crate) fn wake_sender(&self, state: &State) {
        let idle = state
            .connection
            .as_ref()
            .is_some_and(|connection| !connection.sending);
        if idle && state.engine.has_output() {
            self.output.notify_one();
        }
    }

    /// The sender's thread: sends what nobody else does, until the stream ends.
    pub(crate) fn run_sender(&self) {
        loop {
            let mut state = self.lock();
            loop {
                if state.end.is_some() {
                    return;
                }
                let idle = state.connection.as_ref().is_some_and(|c| !c.sending);
                if idle && state.engine.has_output() {
                    break;
                }
                state = self
                    .output
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            self.send();
        }
    }

    // Asking.

    /// Asks for something, waiting until there is room for it.
    fn ask(&self, mut ask: impl FnMut(&mut State, u64) -> Option<u32>) -> Result<u32, Error> {
        let mut state = self.lock();
        let token = loop {
            state.check()?;
            if let Some(token) = ask(&mut state, self.now_ms()) {
                break token;
            }
            state = self.wait(state);
        };
        drop(state);
        self.send();
        Ok(token)
    }

    pub(crate) fn store(&self, slot: Slot, page: &Page) -> Result<u32, Error> {
        self.ask(|state, now_ms| state.store(slot, page, now_ms))
    }

    pub(crate) fn load(&self, slot: Slot, count: u16) -> Result<u32, Error> {
        self.ask(|state, now_ms| state.load(slot, count, now_ms))
    }

    pub(crate) fn free(&self, slot: Slot, count: u16) -> Result<(), Error> {
        let mut state = self.lock();
        state.check()?;
        state.free(slot, count);
        drop(state);
        self.send();
        Ok(())
    }

    /// Waits until everything asked before is answered.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let limit = self.config.store_timeout;
        let limit_ms = ms(limit);
        let mut state = self.lock();
        let mut connected_ms = self.now_ms();
        while !state.is_quiet() {
            state.check()?;
            if state.connection.is_some() {
                connected_ms = self.now_ms();
            } else if self.now_ms().saturating_sub(connected_ms) > limit_ms {
                return Err(Error::Unreachable {
                    seconds: limit.as_secs(),
                });
            }
            state = self.wait_ms(state, 100);
        }
        Ok(())
    }

    /// Waits until the server has taken a last message and closed the connection.
    pub(crate) fn say_last(&self, message: &[u8]) -> Result<(), Error> {
        let seconds = self.config.store_timeout.as_secs();
        let unreachable = || Error::Unreachable { seconds };
        let socket = self.take_over()?.ok_or_else(unreachable)?;
        self.output.notify_all();
        (&*socket).write_all(message).map_err(|_| unreachable())?;
        let end_ms = self
            .now_ms()
            .saturating_add(ms(self.config.silence_timeout));
        let mut state = self.lock();
        while state.connection.is_some() {
            if self.now_ms() >= end_ms {
                return Err(unreachable());
            }
            state = self.wait_ms(state, 100);
        }
        if state.closed_by_server {
            Ok(())
        } else {
            Err(unreachable())
        }
    }

    /// Ends the stream but leaves its connection to the caller; `None` if there was none for too long.
    fn take_over(&self) -> Result<Option<Arc<TcpStream>>, Error> {
        let end_ms = self.now_ms().saturating_add(ms(self.config.store_timeout));
        let mut state = self.lock();
        loop {
            state.check()?;
            if let Some(connection) = &state.connection {
                let socket = connection.socket.clone();
                state.end = Some(Arc::new(Error::Closed));
                return Ok(Some(socket));
            }
            if self.now_ms() >= end_ms {
                return Ok(None);
            }
            state = self.wait_ms(state, 100);
        }
    }
}

/// Milliseconds.
pub(crate) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Makes reads and writes of a socket end; one that is gone already needs nothing.
fn hang_up(socket: &TcpStream) {
    let _gone = socket.shutdown(Shutdown::Both);
}
