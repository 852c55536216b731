// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One connection's side of the protocol, without I/O: bytes in, bytes out, effects on the store.
//!
//! ```text
//!   greeting --HELLO--> open --BYE--> closed
//!      |                 |              ^
//!      +--- any error ---+--- REFUSED --+     (also: a newer connection took the stream)
//!
//!   With ATTACH in place of HELLO it is open, too, but only reads, and has no stream.
//! ```
//!
//! A message is executed only when all of it is there, so a torn store changes nothing. Execution stops
//! when the output reaches its limit, even within a LOAD, and goes on when the caller has sent that:
//! what a peer makes the server hold has a bound. All stores and frees of one call are acknowledged by
//! one ACK at its end, or once the disk and the mirror have what they are to have.

mod forward;

use std::sync::atomic::Ordering;
use std::sync::Arc;

use memsrv_protocol::{
    Hello, HelloError, Message, Sender, Seq, Status, Tag, Welcome, WireError, HEADER_LEN, PAGE_SIZE,
};

use crate::batch::{Acks, Batch, Paused, Run};
use crate::mirror::forward::Forward;
use crate::num::{to_u32, to_usize};
use crate::persist::promise::{Broken, Promises};
use crate::persist::refusal;
use crate::regions::{refused, Attachment, Peer, Refused, Shared};
use crate::stats::Operations;
use crate::table::Ended;

/// Output at which a session stops executing until it is sent.
pub const OUTPUT_LIMIT: usize = 128 * 1024;

/// The longest message that must be complete before it is executed.
pub const LONGEST: usize = HEADER_LEN + PAGE_SIZE;

/// The words of a NOTICE that the server is draining.
const DRAINING: &str = "server is about to stop; fetch your pages";

/// Tells a client that the server is draining.
pub fn notice_draining(output: &mut Vec<u8>) {
    let message = Message::Notice {
        status: Status::Draining,
        len: to_u32(DRAINING.len()),
    };
    output.extend_from_slice(&message.encode());
    output.extend_from_slice(DRAINING.as_bytes());
}

/// Why [`Session::feed`] stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Every complete message was executed: feed what was not consumed again, with more behind it.
    NeedInput,
    /// The output is at its limit: send it, then feed what was not consumed again.
    OutputFull,
    /// A STAT was answered, which is dear: send the output, let other connections have their turns, then
    /// feed what was not consumed again.
    Yield,
    /// A free has no room in the log: feed what was not consumed again when there is
    /// ([`Session::is_ripe`]). Or the mirror has not answered yet, or has as much as it may have: when that has
    /// changed ([`Forward::blocks`]).
    Stalled,
    /// The session is over: send the output, then close.
    Close,
}

/// What [`Session::feed`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// Why it stopped.
    pub stop: Stop,
}

enum State {
    Greeting,
    Open(Attachment),
    Closed,
}

/// Why a session ends.
pub(crate) enum End {
    /// With words to the peer.
    Refused(Refused),
    /// The peer said BYE.
    Bye,
    /// The stream or the region is another's by now, who has been told.
    Fenced,
}

impl From<Refused> for End {
    fn from(refused: Refused) -> End {
        End::Refused(refused)
    }
}

impl From<Ended> for End {
    fn from(_: Ended) -> End {
        End::Fenced
    }
}

pub(crate) fn bad(text: impl Into<String>) -> End {
    End::Refused(refused(Status::BadRequest, text))
}

/// One connection's session.
pub struct Session {
    shared: Arc<Shared>,
    peer: Arc<dyn Peer>,
    state: State,
    /// Bytes still to come of an operation that we do not know.
    skip: u32,
    /// The options that are on.
    options: u32,
    run: Option<Run>,
    last: Seq,
    /// Whether it has asked for statistics.
    asked: bool,
    /// Held by each PULL that is not answered.
    pulls: Arc<()>,
    /// Whether it has said something of use since somebody looked.
    spoken: bool,
    /// Where the log ends with what this connection did.
    logged: u64,
    /// What is to be acknowledged once the disk has it.
    promises: Promises,
    /// Whether a free waits for room in the log.
    stalled: bool,
    acks: Acks,
    /// How many stores and frees were executed that are to be acknowledged with the next ones.
    owed: u32,
    /// What goes to the mirror and comes from it.
    forward: Forward,
    /// The WELCOME that waits for the mirror's answer, and which stream it is for.
    held: Option<(Hello, Welcome)>,
}

impl Session {
    /// A connection that has said nothing yet.
    pub fn new(shared: Arc<Shared>, peer: Arc<dyn Peer>) -> Session {
        Session {
            shared,
            peer,
            state: State::Greeting,
            skip: 0,
            options: 0,
            run: None,
            last: Seq(0),
            asked: false,
            pulls: Arc::default(),
            spoken: false,
            logged: 0,
            promises: Promises::default(),
            stalled: false,
            acks: Acks::default(),
            owed: 0,
            forward: Forward::default(),
            held: None,
        }
    }

    /// Whether it waits for the log.
    pub fn waits(&self) -> bool {
        self.stalled || !self.promises.is_empty()
    }

    /// Whether what it waits for has come: then call [`Session::settle`] and feed it again.
    pub fn is_ripe(&self) -> bool {
        self.shared
            .persist
            .as_ref()
            .is_some_and(|log| self.promises.is_ripe(log) || (self.stalled && log.has_room()))
    }

    /// Says what the mirror and the disk have made due by now; true: the session is over.
    pub fn settle(&mut self, output: &mut Vec<u8>) -> bool {
        match self.try_settle(output) {
            Ok(()) => false,
            Err(end) => self.end(end, output) == Stop::Close,
        }
    }

    fn try_settle(&mut self, output: &mut Vec<u8>) -> Result<(), End> {
        self.hear_mirror(output)?;
        if let (Some(log), false) = (&self.shared.persist, self.promises.is_empty()) {
            match self.promises.settle(log) {
                Ok(done) => self.acks.ours = done.unwrap_or(self.acks.ours),
                Err(Broken) => {
                    let (status, words) = refusal(log.health());
                    return Err(refused(status, words).into());
                }
            }
        }
        self.acknowledge(output)
    }

    /// Whether the peer has sent a HELLO or a STAT that was answered, since this was last called.
    pub fn take_spoken(&mut self) -> bool {
        std::mem::take(&mut self.spoken)
    }

    /// Whether the peer has a session, though the mirror may not have answered yet.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether the peer has had its WELCOME.
    pub fn is_welcomed(&self) -> bool {
        self.is_open() && self.held.is_none()
    }

    /// Executes the messages that `input` begins with, and puts the answers behind `output`.
    ///
    /// `output` grows to at most [`OUTPUT_LIMIT`] and one message.
    pub fn feed(&mut self, input: &[u8], output: &mut Vec<u8>) -> Progress {
        let mut rest = input;
        let result = loop {
            match &self.state {
                State::Closed => break Ok(Stop::Close),
                State::Greeting => match self.greet(&mut rest, output) {
                    Ok(None) => {} // now open
                    Ok(Some(stop)) => break Ok(stop),
                    Err(end) => break Err(end),
                },
                State::Open(_) => break self.serve(&mut rest, output),
            }
        };
        let mut stop = result.unwrap_or_else(|end| self.end(end, output));
        self.stalled = stop == Stop::Stalled && !self.forward.blocks();
        if self.settle(output) {
            stop = Stop::Close;
        }
        Progress {
            consumed: input.len().saturating_sub(rest.len()),
            stop,
        }
    }

    /// Leaves the open or greeting state for good.
    fn end(&mut self, end: End, output: &mut Vec<u8>) -> Stop {
        self.run = None;
        self.promises = Promises::default();
        self.held = None;
        // What is not acknowledged by now never is.
        self.acks.ours = self.acks.sent;
        let state = std::mem::replace(&mut self.state, State::Closed);
        let peer = self.peer.address();
        match (end, state) {
            (End::Refused(Refused { status, text }), _) => {
                self.shared.refusals.count(status);
                tracing::warn!(peer, reason = status.as_str(), "connection refused: {text}");
                let message = Message::Refused {
                    status,
                    len: to_u32(text.len()),
                };
                output.extend_from_slice(&message.encode());
                output.extend_from_slice(text.as_bytes());
            }
            (End::Bye, State::Open(at)) => match self.shared.end(&at) {
                Some(pages) => {
                    self.forward.bye();
                    tracing::info!(peer, client = %at.client, region = %at.region, pages,
                    "client left; its pages are freed")
                }
                None => tracing::info!(peer, client = %at.client, region = %at.region,
                    stream = at.stream, "BYE of a connection whose stream a newer one has: ignored"),
            },
            (_, State::Open(at)) => {
                tracing::info!(peer, client = %at.client, region = %at.region, stream = at.stream,
                    "connection gave up its stream");
            }
            _ => {}
        }
        if !self.forward.is_parting() {
            self.forward.close();
        }
        Stop::Close
    }

    /// Executes messages until there is a session; `None` then.
    fn greet(&mut self, rest: &mut &[u8], output: &mut Vec<u8>) -> Result<Option<Stop>, End> {
        while output.len() < OUTPUT_LIMIT {
            let Some((message, payload)) = next(rest, &mut self.skip, self.options)? else {
                return Ok(Some(Stop::NeedInput));
            };
            match message {
                Message::Hello => {
                    self.hello(payload, output)?;
                    return Ok(None);
                }
                Message::Attach => {
                    self.attach(payload, output)?;
                    return Ok(None);
                }
                Message::Stat { tag } => {
                    self.spoken = true;
                    stat(&self.shared, &mut self.asked, tag, output);
                    return Ok(Some(Stop::Yield));
                }
                Message::Strange { tag, op, .. } => {
                    output.extend_from_slice(&Message::Unknown { tag, op }.encode());
                }
                other => return Err(bad(format!("{} before HELLO", op_name(other)))),
            }
        }
        Ok(Some(Stop::OutputFull))
    }

    /// Reads a HELLO's payload.
    fn decode(&self, payload: &[u8]) -> Result<Hello, End> {
        let payload = payload.first_chunk::<{ Hello::LEN }>();
        let payload = payload.ok_or_else(|| bad("HELLO is too short"))?;
        let ours = self.shared.version;
        let (min, max) = Hello::versions(payload).ok_or_else(|| hello_error(HelloError::Magic))?;
        if !(min..=max).contains(&ours) {
            let text = format!(
                "server speaks protocol version {ours}, client {min} to {max}; \
                 update the older of the two"
            );
            return Err(refused(Status::Version, text).into());
        }
        Hello::decode(payload).map_err(hello_error)
    }

    /// Opens a connection that only reads.
    fn attach(&mut self, payload: &[u8], output: &mut Vec<u8>) -> Result<(), End> {
        let hello = self.decode(payload)?;
        let (attachment, welcome) = self.shared.attach_reader(&hello, &self.peer)?;
        tracing::debug!(peer = self.peer.address(), client = %hello.client, region = %hello.region,
            "a connection that only reads");
        output.extend_from_slice(&Message::Welcome.encode());
        output.extend_from_slice(&welcome.encode());
        self.options = welcome.options;
        self.state = State::Open(attachment);
        self.spoken = true;
        Ok(())
    }

    fn hello(&mut self, payload: &[u8], output: &mut Vec<u8>) -> Result<(), End> {
        let hello = self.decode(payload)?;
        let (attachment, welcome) = self.shared.open(&hello, &self.peer)?;
        self.spoken = true;
        let life = attachment.life.clone();
        self.state = State::Open(attachment);
        self.greeted(&hello, welcome, &life, output);
        Ok(())
    }

    /// Lets a client begin.
    fn welcome(&mut self, hello: &Hello, welcome: &Welcome, output: &mut Vec<u8>) {
        self.options = welcome.options;
        if let (State::Open(at), true) = (&self.state, self.options & Hello::LZ4 != 0) {
            at.life.lz4.store(true, Ordering::Relaxed);
        }
        tracing::info!(peer = self.peer.address(), client = %hello.client, region = %hello.region,
            stream = hello.stream, streams = hello.streams, granted = welcome.granted,
            stored = welcome.stored, forwarded = welcome.options & Hello::FORWARD != 0, lz4 = welcome.options & Hello::LZ4 != 0,
            "client connected");
        output.extend_from_slice(&Message::Welcome.encode());
        output.extend_from_slice(&welcome.encode());
        if self.shared.draining.load(Ordering::Relaxed) {
            notice_draining(output);
        }
    }

    /// Executes the messages of a session, as long as the stream is this connection's.
    fn serve(&mut self, rest: &mut &[u8], output: &mut Vec<u8>) -> Result<Stop, End> {
        let State::Open(at) = &self.state else {
            return Ok(Stop::Close);
        };
        let mut stream = match at.stream {
            None => None,
            Some(_) => Some(at.own().ok_or(End::Fenced)?),
        };
        if self.held.is_some() {
            return Ok(Stop::Stalled);
        }
        let mut batch = Batch {
            shared: &self.shared,
            at,
            stream: stream.as_deref_mut(),
            peer: &self.peer,
            pulls: &self.pulls,
            options: self.options,
            done: Operations::default(),
            last: &mut self.last,
            run: &mut self.run,
            owed: &mut self.owed,
            logged: &mut self.logged,
            promises: &mut self.promises,
            acks: &mut self.acks,
            forward: &mut self.forward,
            output,
        };
        let result = batch.execute(rest, &mut self.skip);
        let partial = matches!(result, Ok(Paused::Stop(Stop::NeedInput))) && !rest.is_empty();
        batch.finish(partial);
        if let Some(mirror) = &self.shared.mirror {
            mirror.count(self.forward.take_count());
        }
        match result? {
            Paused::Stop(stop) => Ok(stop),
            Paused::Stat(tag) => {
                // The report looks at every stream, one lock at a time.
                drop(stream);
                // Who has a session sees what it has just done.
                stat(&self.shared, &mut false, tag, output);
                Ok(Stop::Yield)
            }
        }
    }
}

/// Answers a STAT.
fn stat(shared: &Shared, asked: &mut bool, tag: Tag, output: &mut Vec<u8>) {
    let text = shared.recent.text(shared, std::mem::replace(asked, true));
    output.extend_from_slice(
        &Message::Stats {
            tag,
            len: to_u32(text.len()),
        }
        .encode(),
    );
    output.extend_from_slice(text.as_bytes());
}

/// Takes the next whole message off `rest`, where these options are on; `None` where there is none.
pub(crate) fn next<'a>(
    rest: &mut &'a [u8],
    skip: &mut u32,
    options: u32,
) -> Result<Option<(Message, &'a [u8])>, End> {
    let step = rest.len().min(to_usize(u64::from(*skip)));
    *rest = rest.get(step..).unwrap_or(&[]);
    *skip = skip.saturating_sub(to_u32(step));
    let Some((header, behind)) = rest.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let message = Message::decode_with(header, Sender::Client, options).map_err(wire_error)?;
    if let Message::Strange { len, .. } = message {
        *skip = len;
        *rest = behind;
        return Ok(Some((message, &[])));
    }
    let len = to_usize(u64::from(message.payload_len()));
    let Some((payload, behind)) = behind.split_at_checked(len) else {
        return Ok(None);
    };
    *rest = behind;
    Ok(Some((message, payload)))
}

fn wire_error(error: WireError) -> End {
    bad(match error {
        WireError::BadLength { op, len } => format!("operation {} with {len} bytes", op.0),
        WireError::BadRun { slot, count } => {
            format!(
                "LOAD of {count} slots from {:#x} is not within one cluster",
                slot.0
            )
        }
        WireError::BadCluster { slot } => {
            format!("FREE of slot {:#x}, which does not begin a cluster", slot.0)
        }
    })
}

fn hello_error(error: HelloError) -> End {
    bad(match error {
        HelloError::Magic => "not a memsrv HELLO; is the client a memsrv client?",
        HelloError::Name => "HELLO's client or region name is not 1 to 64 of A-Z a-z 0-9 . _ -",
        HelloError::Stream => "HELLO's stream is not below the number of streams, 1 to 64",
        HelloError::PageSize => "HELLO's page size is not 4096 bytes",
    })
}

pub(crate) fn op_name(message: Message) -> &'static str {
    match message {
        Message::Hello => "HELLO",
        Message::Store { .. } => "STORE",
        Message::Load { .. } => "LOAD",
        Message::Free { .. } => "FREE",
        Message::Ping { .. } => "PING",
        Message::Bye => "BYE",
        Message::Pull { .. } => "PULL",
        Message::Attach => "ATTACH",
        Message::Reach { .. } => "REACH",
        _ => "a message",
    }
}
