// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The conversation with the server that pages are fetched from: ATTACH, then LOADs and their answers.
//!
//! That server is another machine, at an address that a client named: nothing it sends is trusted. Each
//! answer must be to a LOAD that is under way, for the slot that is next in it, and match its checksum;
//! no length is believed beyond the protocol's; and everything is over by the job's deadline, however
//! slowly it sends. All buffers are the thread's own, made at its start.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use memsrv_protocol::{
    FreeMask, Hello, Instance, Message, Sender, Slot, Status, Tag, Welcome, HEADER_LEN, PAGE_SIZE,
};

use super::put::{put, Got};
use super::thread::still_awaited;
use super::Job;
use crate::arena::SLOTS;
use crate::batch::checksum;
use crate::num::{to_u64, to_usize};
use crate::regions::Shared;

/// How many pages may be asked for and not come yet. It bounds what lies in the other server's socket,
/// which the answers to its own clients must not wait for.
const MOST_ASKED: usize = 128;

/// With so many left, the next are asked for.
const FEW_ASKED: usize = MOST_ASKED / 2;

/// Bytes of input that are held.
const INPUT_LEN: usize = 128 * 1024;

/// Bytes of a refusal's words that are worth a log line.
const WORDS_LEN: usize = 200;

/// Why the fetching stopped half way.
pub(super) enum Fault {
    /// The connection, or whoever is at its other end, is no good.
    Broken(String),
    /// The job is over, for that reason.
    Over(Status),
    /// This server stops.
    Stopping,
}

impl Fault {
    pub(super) fn io(error: io::Error) -> Fault {
        Fault::Broken(error.to_string())
    }

    fn nonsense(message: Message) -> Fault {
        Fault::Broken(format!("it says {message:?}, which answers nothing"))
    }
}

/// A connection, and how long to wait for it.
pub(super) struct Line<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
    silence: Duration,
}

impl<'a> Line<'a> {
    pub(super) fn new(stream: &'a TcpStream, deadline: Instant, silence: Duration) -> Line<'a> {
        Line {
            stream,
            deadline,
            silence,
        }
    }

    /// How long to wait now.
    fn patience(&self) -> Result<Option<Duration>, Fault> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Fault::Broken("it takes too long".to_owned()));
        }
        Ok(Some(self.silence.min(left)))
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Fault> {
        let patience = self.patience()?;
        self.stream.set_write_timeout(patience).map_err(Fault::io)?;
        let mut stream = self.stream;
        stream.write_all(bytes).map_err(Fault::io)
    }

    fn read(&self, room: &mut [u8]) -> Result<usize, Fault> {
        let patience = self.patience()?;
        self.stream.set_read_timeout(patience).map_err(Fault::io)?;
        let mut stream = self.stream;
        match stream.read(room) {
            Ok(0) => Err(Fault::Broken("it closed the connection".to_owned())),
            Ok(n) => Ok(n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(Fault::Broken("it is silent".to_owned()))
            }
            Err(error) => Err(Fault::io(error)),
        }
    }
}

/// What came and was not looked at yet.
struct Input {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes at the start that the last message had.
    shown: usize,
}

impl Input {
    /// Sees that `len` bytes are there, and shows them.
    fn fill(&mut self, line: &Line<'_>, len: usize) -> Result<&[u8], Fault> {
        while self.end.saturating_sub(self.start) < len {
            if self.bytes.len().saturating_sub(self.start) < len {
                self.bytes.copy_within(self.start..self.end, 0);
                self.end = self.end.saturating_sub(self.start);
                self.start = 0;
            }
            let room = self.bytes.get_mut(self.end..).unwrap_or(&mut []);
            self.end = self.end.saturating_add(line.read(room)?);
        }
        let end = self.start.saturating_add(len);
        Ok(self.bytes.get(self.start..end).unwrap_or(&[]))
    }

    fn consume(&mut self, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    fn skip(&mut self, line: &Line<'_>, len: usize) -> Result<(), Fault> {
        let mut left = len;
        while left > 0 {
            let step = left.min(PAGE_SIZE);
            self.fill(line, step)?;
            self.consume(step);
            left = left.saturating_sub(step);
        }
        Ok(())
    }

    /// The next message that means something to us, with its payload.
    fn message(&mut self, line: &Line<'_>, options: u32) -> Result<(Message, &[u8]), Fault> {
        let shown = std::mem::take(&mut self.shown);
        self.consume(shown);
        loop {
            let header = self.fill(line, HEADER_LEN)?;
            let header = header.first_chunk::<HEADER_LEN>();
            let message =
                header.map(|header| Message::decode_with(header, Sender::Server, options));
            let message = match message {
                Some(Ok(message)) => message,
                other => return Err(Fault::Broken(format!("it breaks the protocol: {other:?}"))),
            };
            let len = to_usize(u64::from(message.payload_len()));
            match message {
                Message::Notice { .. } | Message::Strange { .. } => {
                    self.skip(line, HEADER_LEN.saturating_add(len))?;
                }
                Message::Refused { status, .. } => {
                    let all = HEADER_LEN.saturating_add(len.min(WORDS_LEN));
                    let words = self.fill(line, all)?.get(HEADER_LEN..).unwrap_or(&[]);
                    let words = String::from_utf8_lossy(words);
                    let text = format!("it refuses ({}): {words}", status.as_str());
                    return Err(Fault::Broken(text));
                }
                Message::Page { .. } | Message::NoPage { .. } | Message::Welcome => {
                    self.shown = HEADER_LEN.saturating_add(len);
                    let all = self.fill(line, HEADER_LEN.saturating_add(len))?;
                    return Ok((message, all.get(HEADER_LEN..).unwrap_or(&[])));
                }
                other => return Err(Fault::nonsense(other)),
            }
        }
    }
}

/// A LOAD of which answers are still to come.
struct Asked {
    tag: Tag,
    /// The slot that is answered next.
    slot: Slot,
    left: u16,
}

/// LOADs that are under way.
struct Requests {
    asked: Vec<Asked>,
    /// The pages of them.
    pages: usize,
    /// Never the same twice on a connection.
    last_tag: u64,
    output: Vec<u8>,
}

impl Requests {
    /// Asks for slots of the cluster, and takes them out of the mask.
    fn ask(&mut self, line: &Line<'_>, base: Slot, wanted: &mut FreeMask) -> Result<(), Fault> {
        self.output.clear();
        let mut index = 0;
        while self.pages < MOST_ASKED && index < SLOTS {
            let mut count: u16 = 0;
            while self.pages < MOST_ASKED && take(wanted, index + usize::from(count)) {
                count = count.saturating_add(1);
                self.pages = self.pages.saturating_add(1);
            }
            if count == 0 {
                index += 1;
                continue;
            }
            self.last_tag = self.last_tag.wrapping_add(1);
            let (tag, slot) = (
                Tag(self.last_tag),
                Slot(base.0.saturating_add(to_u64(index))),
            );
            self.output
                .extend_from_slice(&Message::Load { tag, slot, count }.encode());
            self.asked.push(Asked {
                tag,
                slot,
                left: count,
            });
            index += usize::from(count);
        }
        match self.output.is_empty() {
            true => Ok(()),
            false => line.write(&self.output),
        }
    }

    /// Takes note of an answer; false where nobody asked for it.
    fn answered(&mut self, tag: Tag, slot: Slot) -> bool {
        let asked = self.asked.iter().position(|asked| asked.tag == tag);
        let Some((place, asked)) = asked.and_then(|n| Some((n, self.asked.get_mut(n)?))) else {
            return false;
        };
        if asked.slot != slot {
            return false;
        }
        self.pages = self.pages.saturating_sub(1);
        match (asked.left.saturating_sub(1), slot.plus(1)) {
            (0, _) | (_, None) => drop(self.asked.swap_remove(place)),
            (left, Some(next)) => (asked.left, asked.slot) = (left, next),
        }
        true
    }
}

/// Takes a slot out of a mask; false where it was not in it.
fn take(mask: &mut FreeMask, index: usize) -> bool {
    let was = mask.contains(index);
    if let Some(byte) = mask.0.get_mut(index / 8) {
        *byte &= !(1 << (index % 8));
    }
    was
}

/// What a thread needs for its conversations, whoever with.
pub struct Buffers {
    input: Input,
    /// The options that are on, on the present connection.
    options: u32,
    requests: Requests,
}

impl Default for Buffers {
    fn default() -> Buffers {
        Buffers {
            input: Input {
                bytes: vec![0; INPUT_LEN].into(),
                start: 0,
                end: 0,
                shown: 0,
            },
            options: 0,
            requests: Requests {
                asked: Vec::with_capacity(MOST_ASKED),
                pages: 0,
                last_tag: 0,
                output: Vec::with_capacity(MOST_ASKED * HEADER_LEN),
            },
        }
    }
}

impl Buffers {
    /// How many bytes they take.
    pub const LEN: usize = INPUT_LEN + MOST_ASKED * (HEADER_LEN + size_of::<Asked>());

    /// Whether answers are still to come.
    pub(super) fn expects_more(&self) -> bool {
        self.requests.pages > 0
    }

    /// Opens a new connection for reading.
    pub(super) fn attach(&mut self, line: &Line<'_>, hello: &Hello) -> Result<(), Fault> {
        (self.input.start, self.input.end, self.input.shown) = (0, 0, 0);
        self.requests.asked.clear();
        self.requests.pages = 0;
        line.stream.set_nodelay(true).map_err(Fault::io)?;
        line.write(&[&Message::Attach.encode()[..], &hello.encode()].concat())?;
        let (message, payload) = self.input.message(line, 0)?;
        if message != Message::Welcome {
            return Err(Fault::nonsense(message));
        }
        let welcome = payload.first_chunk().map(Welcome::decode);
        let (instance, options): (Instance, u32) = match welcome {
            Some(Ok(welcome)) if welcome.version == hello.version_max => {
                (welcome.instance, welcome.options & hello.options)
            }
            _ => return Err(Fault::Broken("it has another protocol".to_owned())),
        };
        if instance != hello.instance {
            return Err(Fault::Broken("it is another life of the server".to_owned()));
        }
        self.options = options;
        Ok(())
    }

    /// Fetches what a job still awaits; notes in `got` what it has put.
    ///
    /// # Errors
    ///
    /// Outer: it stopped half way, and answers may still come. Inner: slots are missing.
    pub(super) fn fetch(
        &mut self,
        shared: &Shared,
        job: &Job,
        line: &Line<'_>,
        got: &mut Got,
    ) -> Result<Result<(), Status>, Fault> {
        let mut wanted = FreeMask::ALL;
        // Those that came damaged once.
        let mut suspect = FreeMask::EMPTY;
        let mut result = Ok(());
        loop {
            if self.requests.pages <= FEW_ASKED && !wanted.is_empty() {
                let awaited = still_awaited(shared, job)?;
                for (byte, awaited) in wanted.0.iter_mut().zip(awaited.0) {
                    *byte &= awaited;
                }
                self.requests.ask(line, job.base, &mut wanted)?;
            }
            if self.requests.pages == 0 {
                return Ok(result);
            }
            let (message, payload) = self.input.message(line, self.options)?;
            let slot = match message {
                Message::Page { tag, slot, .. } | Message::NoPage { tag, slot, .. }
                    if self.requests.answered(tag, slot) =>
                {
                    slot
                }
                other => return Err(Fault::nonsense(other)),
            };
            match message {
                Message::Page { crc, .. } if checksum(slot, payload) == crc => {
                    put(shared, job, line.deadline, slot, crc, payload, got)?;
                }
                Message::Page { .. } if !suspect.contains(slot.index()) => {
                    suspect.insert(slot.index());
                    wanted.insert(slot.index());
                }
                Message::Page { .. } => result = Err(Status::BadChecksum),
                // The client has freed it there, and will here.
                Message::NoPage {
                    status: Status::NotFound,
                    ..
                } => {}
                _ => result = Err(Status::Unreachable),
            }
        }
    }
}
