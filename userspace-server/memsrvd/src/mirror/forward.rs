// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One stream's forwarding, without I/O or clock: bytes for the mirror, bytes from it, what the client is owed.
//!
//! ```text
//!  off --ask--> asking --WELCOME--> answered --start--> on --bye--> parting
//!                 |                    |                 |
//!                 |  REFUSED, late     | refuse          | the mirror is lost
//!                 v                    v                 v
//!              answered              off               lost --take_loss--> off
//! ```
//!
//! What was executed stands in a queue until the mirror has acknowledged it. In the place of a STORE that was refused
//! here goes a FREE of nothing: the mirror has to have seen every number that the client may be acknowledged. The
//! queue's length and the bytes to be sent have bounds, and at these the stream executes nothing more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use memsrv_protocol::{FreeMask, Hello, Message, Sender, Seq, Slot, Status, Welcome, HEADER_LEN};

use super::{MirrorAck, Streaming};
use crate::batch::checksum;
use crate::num::{to_u32, to_usize};

/// How many operations the mirror may owe an answer.
pub const MOST_OWED: usize = 2048;

/// Bytes for the mirror at which nothing more is executed until its socket has taken some.
pub const OUT_LIMIT: usize = 256 * 1024;

/// Bytes of a refusal's words that are told on.
const WORDS_LEN: usize = 200;

/// The least that a server's window may be.
const LEAST_WINDOW: u32 = 16;

/// What an operation is to the mirror.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A STORE that was forwarded.
    Store,
    /// A FREE that was forwarded.
    Free,
    /// A STORE that was forwarded, and that the mirror has refused.
    Refused,
}

#[derive(Clone, Copy)]
struct Owed {
    seq: Seq,
    kind: Kind,
}

/// Why the mirror is of no use, in words for a person.
pub type Reason = String;

enum Phase {
    Off,
    Asking(Instant),
    Answered(Result<Welcome, Reason>),
    On,
    Lost(Reason),
    Parting,
}

/// What one stream has sent to the mirror, and what is owed for it.
pub struct Forward {
    phase: Phase,
    ack: MirrorAck,
    silence: Duration,
    /// Bytes for the mirror's socket.
    out: Vec<u8>,
    owed: VecDeque<Owed>,
    /// How many may be in `owed`.
    window: usize,
    /// The highest number that was forwarded.
    sent: Seq,
    /// The highest number that was forwarded and that the mirror has acknowledged.
    covered: Seq,
    /// Refusals of the mirror that the client has not been told yet.
    refused: Vec<(Seq, Status)>,
    /// Since when the mirror has owed an answer and given none.
    since: Option<Instant>,
    /// Bytes still to come that mean nothing.
    skip: u32,
    /// Operations forwarded that were not counted yet.
    uncounted: u64,
    streaming: Option<Streaming>,
}

impl Default for Forward {
    fn default() -> Forward {
        Forward {
            phase: Phase::Off,
            ack: MirrorAck::default(),
            silence: super::MIRROR_TIMEOUT,
            out: Vec::new(),
            owed: VecDeque::new(),
            window: 0,
            sent: Seq(0),
            covered: Seq(0),
            refused: Vec::new(),
            since: None,
            skip: 0,
            uncounted: 0,
            streaming: None,
        }
    }
}

impl Forward {
    /// Says `hello` to the mirror, which has until `until` to answer it.
    pub fn ask(hello: &Hello, options: &super::Options, until: Instant) -> Forward {
        let mut out = Message::Hello.encode().to_vec();
        out.extend_from_slice(&hello.encode());
        Forward {
            phase: Phase::Asking(until),
            ack: options.ack,
            silence: options.silence,
            out,
            ..Forward::default()
        }
    }

    /// Whether there is to be a connection to the mirror.
    pub fn wants_link(&self) -> bool {
        matches!(
            self.phase,
            Phase::Asking(_) | Phase::Answered(Ok(_)) | Phase::On
        )
    }

    /// Whether the client's WELCOME waits for the mirror.
    pub fn is_asking(&self) -> bool {
        matches!(self.phase, Phase::Asking(_) | Phase::Answered(_))
    }

    /// Whether the client is acknowledged only what the mirror has done.
    pub fn is_first(&self) -> bool {
        self.ack == MirrorAck::After
    }

    /// Whether operations are forwarded.
    pub fn is_on(&self) -> bool {
        matches!(self.phase, Phase::On)
    }

    /// Whether nothing may be executed for now.
    pub fn blocks(&self) -> bool {
        match self.phase {
            Phase::Asking(_) | Phase::Answered(_) => true,
            Phase::On => self.out.len() >= OUT_LIMIT || self.owed.len() >= self.window,
            Phase::Off | Phase::Lost(_) | Phase::Parting => false,
        }
    }

    /// Up to where the client may be acknowledged; `None`: the mirror has no say in it.
    pub fn limit(&self) -> Option<Seq> {
        match self.phase {
            // Until the client has been told.
            Phase::On | Phase::Lost(_) if self.ack == MirrorAck::After => Some(self.covered),
            _ => None,
        }
    }

    /// What the mirror said to the HELLO, once.
    pub fn take_answer(&mut self) -> Option<Result<Welcome, Reason>> {
        if !matches!(self.phase, Phase::Answered(_)) {
            return None;
        }
        match std::mem::replace(&mut self.phase, Phase::Off) {
            Phase::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    /// Begins to forward, behind that answer.
    pub fn start(&mut self, answer: &Welcome, streaming: Streaming) {
        self.phase = Phase::On;
        self.window = MOST_OWED.min(to_usize(u64::from(answer.window)));
        self.streaming = Some(streaming);
    }

    /// Takes note of an operation that was executed here; `message` is all of it. The caller has asked
    /// [`Forward::blocks`].
    pub fn executed(&mut self, seq: Seq, kind: Kind, header: &[u8], payload: &[u8]) {
        if !self.is_on() {
            return;
        }
        self.out.extend_from_slice(header);
        self.out.extend_from_slice(payload);
        self.owed.push_back(Owed { seq, kind });
        self.sent = seq;
        self.uncounted = self.uncounted.saturating_add(1);
    }

    /// Takes note of a STORE that was refused here: the mirror is told its number.
    pub fn passed_over(&mut self, seq: Seq, slot: Slot) {
        let (slot, nothing) = (FreeMask::base(slot), FreeMask::EMPTY.0);
        let crc = checksum(slot, &nothing);
        let header = Message::Free { seq, slot, crc }.encode();
        self.executed(seq, Kind::Free, &header, &nothing);
    }

    /// The mirror's refusals, to be passed to the client.
    pub fn take_refused(&mut self) -> Vec<(Seq, Status)> {
        std::mem::take(&mut self.refused)
    }

    /// How many operations were forwarded since this was last asked.
    pub fn take_count(&mut self) -> u64 {
        std::mem::take(&mut self.uncounted)
    }

    /// Whether the mirror was lost, and the client was not told yet.
    pub fn is_lost(&self) -> bool {
        matches!(self.phase, Phase::Lost(_))
    }

    /// Why the mirror was lost, once; from then on nothing is held back any more.
    pub fn take_loss(&mut self) -> Option<Reason> {
        if !matches!(self.phase, Phase::Lost(_)) {
            return None;
        }
        match std::mem::replace(&mut self.phase, Phase::Off) {
            Phase::Lost(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether there is something that the client is to be told.
    pub fn has_news(&self) -> bool {
        matches!(self.phase, Phase::Answered(_) | Phase::Lost(_)) || !self.refused.is_empty()
    }

    /// The mirror, or the connection to it, is of no use any more.
    pub fn fail(&mut self, reason: impl Into<Reason>) {
        self.phase = match self.phase {
            Phase::Asking(_) | Phase::Answered(Ok(_)) => Phase::Answered(Err(reason.into())),
            Phase::On => Phase::Lost(reason.into()),
            // The first reason is the one.
            Phase::Off | Phase::Answered(Err(_)) | Phase::Lost(_) | Phase::Parting => return,
        };
        self.empty();
    }

    /// The client ends the session, and so does the mirror.
    pub fn bye(&mut self) {
        let on = self.is_on();
        let out = std::mem::take(&mut self.out);
        self.close();
        if on {
            self.phase = Phase::Parting;
            self.out = out;
            self.out.extend_from_slice(&Message::Bye.encode());
        }
    }

    /// The client's session is over.
    pub fn close(&mut self) {
        self.phase = Phase::Off;
        self.refused = Vec::new();
        self.empty();
    }

    fn empty(&mut self) {
        self.out = Vec::new();
        self.owed = VecDeque::new();
        self.since = None;
        self.streaming = None;
    }

    /// Whether there are last words to be taken.
    pub fn is_parting(&self) -> bool {
        matches!(self.phase, Phase::Parting)
    }

    /// The last words to the mirror, once.
    pub fn take_parting(&mut self) -> Option<Vec<u8>> {
        if !matches!(self.phase, Phase::Parting) {
            return None;
        }
        self.phase = Phase::Off;
        Some(std::mem::take(&mut self.out))
    }

    /// The bytes for the mirror's socket; what was sent is to be taken out.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// When to call [`Forward::tick`], at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Asking(until) => Some(until),
            Phase::On => self.since?.checked_add(self.silence),
            _ => None,
        }
    }

    /// Takes note of when the mirror began to owe something.
    pub fn note(&mut self, now: Instant) {
        if self.is_on() && !self.owed.is_empty() && self.since.is_none() {
            self.since = Some(now);
        }
    }

    /// Looks whether the mirror is late. The caller has told what there was to hear: this process, too, may have stood
    /// still.
    pub fn tick(&mut self, now: Instant) {
        self.note(now);
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            let words = match self.phase {
                Phase::Asking(_) => "it did not answer in time".to_owned(),
                _ => format!("it has answered nothing for {:?}", self.silence),
            };
            self.fail(words);
        }
    }

    /// Understands what came from the mirror; gives back how many of the bytes are done with.
    pub fn hear(&mut self, input: &[u8]) -> usize {
        let mut rest = input;
        while self.wants_link() {
            match self.hear_one(&mut rest) {
                Ok(true) => {}
                Ok(false) => break,
                Err(reason) => self.fail(reason),
            }
        }
        input.len().saturating_sub(rest.len())
    }

    /// Takes one message off `rest`; false: there is no whole one.
    fn hear_one(&mut self, rest: &mut &[u8]) -> Result<bool, Reason> {
        let step = rest.len().min(to_usize(u64::from(self.skip)));
        *rest = rest.get(step..).unwrap_or(&[]);
        self.skip = self.skip.saturating_sub(to_u32(step));
        let Some((header, behind)) = rest.split_first_chunk::<HEADER_LEN>() else {
            return Ok(false);
        };
        let message = Message::decode(header, Sender::Server)
            .map_err(|error| format!("it breaks the protocol: {error:?}"))?;
        let mut behind = behind;
        match message {
            Message::Welcome => {
                let Some((payload, after)) = behind.split_first_chunk::<{ Welcome::LEN }>() else {
                    return Ok(false);
                };
                behind = after;
                self.welcomed(Welcome::decode(payload).ok())?;
            }
            Message::Refused { status, len } => {
                let len = to_usize(u64::from(len)).min(WORDS_LEN);
                let Some(words) = behind.get(..len) else {
                    return Ok(false);
                };
                let words = String::from_utf8_lossy(words);
                return Err(format!("it refuses ({}): {words:?}", status.as_str()));
            }
            Message::Ack { seq } => self.acknowledged(seq)?,
            Message::Nak { seq, status } => self.refuses(seq, status)?,
            Message::Notice { len, .. } | Message::Strange { len, .. } => self.skip = len,
            Message::Pong { .. } => {}
            other => return Err(format!("it says {other:?}, which answers nothing")),
        }
        *rest = behind;
        Ok(true)
    }

    fn welcomed(&mut self, welcome: Option<Welcome>) -> Result<(), Reason> {
        if !matches!(self.phase, Phase::Asking(_)) {
            return Err("it says WELCOME twice".to_owned());
        }
        let welcome = welcome
            .filter(|welcome| welcome.window >= LEAST_WINDOW)
            .ok_or("its WELCOME is none of memsrv's")?;
        self.phase = Phase::Answered(Ok(welcome));
        Ok(())
    }

    fn acknowledged(&mut self, seq: Seq) -> Result<(), Reason> {
        if seq > self.sent {
            return Err(format!("it acknowledges operation {}, not sent", seq.0));
        }
        let before = self.owed.len();
        while let Some(owed) = self.owed.front().filter(|owed| owed.seq <= seq) {
            // Not `seq` itself, which the client may never have sent.
            self.covered = self.covered.max(owed.seq);
            self.owed.pop_front();
        }
        if self.owed.len() < before {
            // It has answered something; what it owes yet it owes from now on.
            self.since = None;
        }
        Ok(())
    }

    fn refuses(&mut self, seq: Seq, status: Status) -> Result<(), Reason> {
        let found = self.owed.binary_search_by_key(&seq, |owed| owed.seq);
        let owed = found.ok().and_then(|at| self.owed.get_mut(at));
        match owed {
            Some(owed) if owed.kind == Kind::Store => owed.kind = Kind::Refused,
            _ => {
                return Err(format!(
                    "it refuses operation {}, no store that it owes",
                    seq.0
                ))
            }
        }
        if self.ack == MirrorAck::Before {
            return Err(format!(
                "it refuses operation {} ({}), which was acknowledged",
                seq.0,
                status.as_str()
            ));
        }
        self.since = None;
        self.refused.push((seq, status));
        Ok(())
    }
}
