// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The bare echo server, which bounds what any server could do, and its codec.
//!
//! 32 bytes ask for 4128 back, as a LOAD does, and 4128 for 32, as a STORE does; the first byte says which.
//! Nothing is stored, looked up or checked: what is left is sockets. One thread waits for ready ones, reads as
//! much as there is, and answers what it has read with one system call.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::protocol::{
    put_page, take, Answer, Gave, Greeting, Kind, Place, Protocol, Wrong, PAGE_LEN,
};

/// Bytes before a page, and of what has none.
const HEADER_LEN: usize = 32;
/// Bytes of a page and what is before it.
const BLOCK_LEN: usize = HEADER_LEN + PAGE_LEN;
const LOAD: u8 = 1;
const STORE: u8 = 2;
const PAGE: u8 = 0x81;
const DONE: u8 = 0x82;

/// One connection's codec.
#[derive(Default)]
pub struct Echo {
    /// Whose the next answers are.
    asked: VecDeque<Place>,
}

impl Protocol for Echo {
    fn begin(&mut self, _out: &mut Vec<u8>) {}

    fn greet(&mut self, _input: &[u8], _out: &mut Vec<u8>) -> Result<Greeting, Wrong> {
        Ok(Greeting::Ready(0))
    }

    fn ask(&mut self, place: Place, kind: Kind, slot: u32, out: &mut Vec<u8>) {
        self.asked.push_back(place);
        let mut header = [0; HEADER_LEN];
        header[0] = if kind == Kind::Load { LOAD } else { STORE };
        out.extend_from_slice(&header);
        if kind == Kind::Store {
            put_page(u64::from(slot), out);
        }
    }

    fn answer<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Answer<'a>>, Wrong> {
        let (len, gave) = match input.first() {
            None => return Ok(None),
            Some(&PAGE) => (BLOCK_LEN, Gave::Filler),
            Some(&DONE) => (HEADER_LEN, Gave::Done),
            Some(_) => return Err(Wrong::Foreign("echo", "no answer begins so")),
        };
        if take(input, len).is_none() {
            return Ok(None);
        }
        let place = self.asked.pop_front().ok_or(Wrong::Unasked)?;
        Ok(Some(Answer { place, gave }))
    }
}

/// Bytes that one read may give, for all connections: few enough to stay in the processor's cache.
const READ_LEN: usize = 128 * 1024;
/// Answers that one write may have.
const WRITE_COUNT: usize = 128;
/// What each answer to a load is, and to a store.
static BLOCK: [u8; BLOCK_LEN] = answer(PAGE);
static SHORT: [u8; HEADER_LEN] = answer(DONE);

const fn answer<const N: usize>(kind: u8) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[0] = kind;
    bytes
}

/// What is known of a connection.
struct Peer {
    socket: TcpStream,
    /// Bytes to come that belong to a message which has begun.
    rest: usize,
    /// Answers that are owed, and how much of the first has been sent.
    owed: VecDeque<&'static [u8]>,
    sent: usize,
}

impl Peer {
    /// Counts the messages that begin in these bytes.
    fn take(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        loop {
            let rest = self.rest.min(bytes.len());
            self.rest -= rest;
            bytes = bytes.get(rest..).unwrap_or_default();
            let (answer, len): (&'static [u8], _) = match bytes.first() {
                None => return Ok(()),
                Some(&LOAD) => (&BLOCK, HEADER_LEN),
                Some(&STORE) => (&SHORT, BLOCK_LEN),
                Some(_) => return Err(ErrorKind::InvalidData.into()),
            };
            self.owed.push_back(answer);
            self.rest = len;
        }
    }

    /// Reads and answers until there is no more to read, or no room to write.
    fn turn(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        while self.send()? {
            let count = match self.socket.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                result => result?,
            };
            self.take(buffer.get(..count).unwrap_or_default())?;
            if count < buffer.len() {
                // All that was there; more will be told.
                return self.send().map(drop);
            }
        }
        Ok(())
    }

    /// Sends what is owed; whether that is all sent.
    fn send(&mut self) -> std::io::Result<bool> {
        while !self.owed.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_COUNT];
            let mut skip = self.sent;
            for (slice, answer) in slices.iter_mut().zip(&self.owed) {
                *slice = IoSlice::new(answer.get(skip..).unwrap_or_default());
                skip = 0;
            }
            let count = self.owed.len().min(WRITE_COUNT);
            match self
                .socket
                .write_vectored(slices.get(..count).unwrap_or_default())
            {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                result => self.sent += result?,
            }
            while let Some(first) = self.owed.front().filter(|first| first.len() <= self.sent) {
                self.sent -= first.len();
                self.owed.pop_front();
            }
        }
        Ok(true)
    }
}

/// Serves until it is killed.
///
/// # Errors
///
/// It cannot listen, or wait.
pub fn serve(address: SocketAddr) -> std::io::Result<()> {
    const LISTENER: Token = Token(usize::MAX);
    let mut listener = TcpListener::bind(address)?;
    let mut poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("listening on {}", listener.local_addr()?);
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; READ_LEN];
    let mut peers: Vec<Option<Peer>> = Vec::new();
    loop {
        if let Err(error) = poll.poll(&mut events, None) {
            if error.kind() != ErrorKind::Interrupted {
                return Err(error);
            }
            continue;
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    admit(socket, &poll, &mut peers)?;
                }
            } else if let Some(place) = peers.get_mut(event.token().0) {
                let ended = place
                    .as_mut()
                    .is_some_and(|peer| peer.turn(&mut buffer).is_err());
                if ended {
                    *place = None;
                }
            }
        }
    }
}

fn admit(mut socket: TcpStream, poll: &Poll, peers: &mut Vec<Option<Peer>>) -> std::io::Result<()> {
    let free = peers.iter().position(Option::is_none);
    let place = free.unwrap_or(peers.len());
    let both = Interest::READABLE | Interest::WRITABLE;
    socket.set_nodelay(true)?;
    poll.registry().register(&mut socket, Token(place), both)?;
    let peer = Some(Peer {
        socket,
        rest: 0,
        owed: VecDeque::new(),
        sent: 0,
    });
    match peers.get_mut(place) {
        Some(free) => *free = peer,
        None => peers.push(peer),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::answers_at_every_break;

    #[test]
    fn a_load_is_32_bytes_for_4128_and_a_store_4128_for_32() {
        let mut codec = Echo::default();
        let mut out = Vec::new();
        codec.ask(0, Kind::Load, 5, &mut out);
        assert_eq!(out, [&[1][..], &[0; 31]].concat());
        out.clear();
        codec.ask(0, Kind::Store, 5, &mut out);
        assert_eq!(out.len(), 4128);
        assert_eq!(out[..33], [&[2][..], &[0; 31], &[5]].concat());

        let asked = || -> Box<dyn Protocol> {
            let mut codec = Echo::default();
            codec.ask(6, Kind::Load, 0, &mut Vec::new());
            codec.ask(4, Kind::Store, 0, &mut Vec::new());
            Box::new(codec)
        };
        let bytes = [&BLOCK[..], &SHORT].concat();
        let answer = |place, gave| Answer { place, gave };
        let wanted = [answer(6, Gave::Filler), answer(4, Gave::Done)];
        answers_at_every_break(&asked, &bytes, &wanted);
    }

    #[test]
    fn the_server_counts_messages_however_they_are_cut() {
        let mut bytes = Vec::new();
        for kind in [Kind::Store, Kind::Load, Kind::Load, Kind::Store] {
            Echo::default().ask(0, kind, 0, &mut bytes);
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for break_at in 0..=bytes.len() {
            let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            // The other end is not needed; it would fill the queue.
            drop(listener.accept().unwrap());
            let mut peer = Peer {
                socket,
                rest: 0,
                owed: VecDeque::new(),
                sent: 0,
            };
            peer.take(&bytes[..break_at]).unwrap();
            peer.take(&bytes[break_at..]).unwrap();
            let lens: Vec<usize> = peer.owed.iter().map(|answer| answer.len()).collect();
            assert_eq!((peer.rest, &lens[..]), (0, &[32, 4128, 4128, 32][..]));
            assert!(peer.take(&[9]).is_err());
        }
    }
}
