// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the engine's tests share: a stream on the heap, and short words for what they do with it.

use super::twin::Twin;
use memsrv_engine::{Completion, Fault, Outgoing};
use memsrv_protocol::{FreeMask, Message, Sender, Seq, Slot, Tag, HEADER_LEN};
use proptest::test_runner::{Config as ProptestConfig, FileFailurePersistence};

/// How many cases, unless PROPTEST_CASES says otherwise. A case that fails prints its seed and leaves it in
/// `tests/engine/regressions`, to be committed.
pub fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/engine/regressions",
        ))),
        ..ProptestConfig::default()
    }
}

pub type Done = Completion<u32, u32>;
/// A stream; a lane of one replica does the same beside it.
pub type TestStream = Twin;

/// A stream with room for so many, not connected.
pub fn stream(ops: usize, loads: usize) -> TestStream {
    Twin::new(ops, loads)
}

/// CRC-32C over the slot and the payload, as the wire has it.
pub fn crc(slot: Slot, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&slot.0.to_le_bytes()), payload)
}

/// The next message, every FREE with the same mask.
pub fn next(stream: &mut TestStream) -> Option<Message> {
    stream.next(|_| FreeMask::ALL, crc).map(|out| decode(&out))
}

/// All messages that can be sent now.
pub fn drain(stream: &mut TestStream) -> Vec<Message> {
    core::iter::from_fn(|| next(stream)).collect()
}

pub fn decode(out: &Outgoing<u32>) -> Message {
    let decode = |header: &[u8; HEADER_LEN]| {
        Message::decode(header, Sender::Client).expect("the engine sends only valid headers")
    };
    match out {
        Outgoing::Load { header, .. }
        | Outgoing::Store { header, .. }
        | Outgoing::Free { header, .. } => decode(header),
        Outgoing::Read { headers } => {
            let (reach, load) = headers.split_at(HEADER_LEN);
            let reach = decode(reach.try_into().unwrap());
            let load = decode(load.try_into().unwrap());
            assert!(
                matches!((reach, load), (Message::Reach { tag }, Message::Load { tag: same, .. }) if tag == same)
            );
            load
        }
    }
}

/// Sends what can be sent and returns the tags of the LOADs in it.
pub fn drain_tags(stream: &mut TestStream) -> Vec<Tag> {
    let tag = |message| match message {
        Message::Load { tag, .. } => Some(tag),
        _ => None,
    };
    drain(stream).into_iter().filter_map(tag).collect()
}

/// Sends what can be sent and returns the numbers of the STOREs and FREEs in it.
pub fn drain_seqs(stream: &mut TestStream) -> Vec<u64> {
    let seq = |message| match message {
        Message::Store { seq, .. } | Message::Free { seq, .. } => Some(seq.0),
        _ => None,
    };
    drain(stream).into_iter().filter_map(seq).collect()
}

/// Gives the stream a message and returns the completions.
pub fn answer(stream: &mut TestStream, message: Message) -> Result<Vec<Done>, Fault> {
    let mut done = Vec::new();
    stream.message(message, &mut |completion| done.push(completion))?;
    Ok(done)
}

pub fn ack(stream: &mut TestStream, seq: u64) -> Result<Vec<Done>, Fault> {
    answer(stream, Message::Ack { seq: Seq(seq) })
}

pub fn stored(token: u32) -> Done {
    Completion::Store {
        token,
        result: Ok(()),
    }
}

pub fn loaded(token: u32) -> Done {
    Completion::Load {
        token,
        result: Ok(()),
    }
}
