// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What must hold for any bytes at all: entry functions for the fuzzer, and for the property tests.
//!
//! `userspace-server/fuzz` includes this file, so it uses nothing of the other tests.

use std::cell::RefCell;
use std::sync::Arc;

use memsrv_protocol::*;
use memsrvd::arena::Arena;
use memsrvd::config::Limits;
use memsrvd::regions::{Peer, Shared};
use memsrvd::session::{Session, Stop, LONGEST, OUTPUT_LIMIT};

/// Pages that the server of [`session`] has.
const PAGES: usize = 24;

/// A peer without a socket.
pub struct Nobody;

impl Peer for Nobody {
    fn address(&self) -> String {
        "nobody".to_owned()
    }

    fn hang_up(&self) {}

    fn tell(&self, _message: [u8; HEADER_LEN]) {}
}

/// A server without sockets. Its memory is never given back, so keep it.
pub fn server(pages: usize, quota: u64) -> Arc<Shared> {
    let arena = Arena::new(memsrvd::sys::map_pages(pages, false).unwrap());
    let limits = Limits {
        unlisted: Some(quota),
        regions: 100,
        ..Limits::default()
    };
    Arc::new(Shared::new(arena, limits, Instance([7; 16]), VERSION))
}

/// Splits what a server says into messages, and checks that it is nothing else.
pub fn answers(mut bytes: &[u8]) -> Vec<(Message, &[u8])> {
    let mut answers = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk() {
        let message = Message::decode(header, Sender::Server).expect("the server says nonsense");
        assert!(!matches!(message, Message::Strange { .. }), "{message:?}");
        let (payload, rest) = rest.split_at(usize::try_from(message.payload_len()).unwrap());
        answers.push((message, payload));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "the server says half a message");
    answers
}

/// Feeds a session as a connection does, in pieces; gives back all that it said, and whether it closed.
pub fn converse(session: &mut Session, input: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let (mut said, mut held) = (Vec::new(), Vec::new());
    for piece in input.chunks(piece.max(1)) {
        held.extend_from_slice(piece);
        loop {
            let mut output = Vec::new();
            let progress = session.feed(&held, &mut output);
            assert!(progress.consumed <= held.len());
            let limit = OUTPUT_LIMIT + LONGEST + HEADER_LEN + usize::try_from(MAX_PAYLOAD).unwrap();
            assert!(output.len() <= limit, "{} bytes of output", output.len());
            held.drain(..progress.consumed);
            said.extend_from_slice(&output);
            match progress.stop {
                Stop::NeedInput => break,
                Stop::OutputFull => assert!(output.len() >= OUTPUT_LIMIT),
                Stop::Yield | Stop::Stalled => {}
                Stop::Close => {
                    let mut output = Vec::new();
                    let after = session.feed(&held, &mut output);
                    assert_eq!((after.stop, output.len()), (Stop::Close, 0));
                    return (said, true);
                }
            }
        }
        assert!(held.len() < LONGEST, "a whole message is left");
    }
    (said, false)
}

/// Any bytes as a header and as payloads: decoded or refused, and decoding undoes encoding.
pub fn decoder(data: &[u8]) {
    if let Some(header) = data.first_chunk() {
        assert_eq!(&Header::decode(header).encode(), header);
        for from in [Sender::Client, Sender::Server] {
            if let Ok(message) = Message::decode(header, from) {
                assert!(message.payload_len() <= MAX_PAYLOAD);
                assert_eq!(Message::decode(&message.encode(), from), Ok(message));
            }
        }
    }
    if let Some(payload) = data.first_chunk() {
        let _ = Hello::versions(payload);
        if let Ok(hello) = Hello::decode(payload) {
            assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        }
    }
    if let Some(Ok(welcome)) = data.first_chunk().map(Welcome::decode) {
        assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
    }
    if let Some(mask) = data.first_chunk() {
        let mask = FreeMask(*mask);
        let mut again = FreeMask::EMPTY;
        mask.indices().for_each(|index| again.insert(index));
        assert_eq!(mask, again);
    }
}

thread_local! {
    static SERVER: RefCell<Option<Arc<Shared>>> = const { RefCell::new(None) };
}

/// Any bytes from a client. The first byte says whether a HELLO goes before, the second how the bytes
/// are cut. Whatever happens: no panic, bounded output, a well-formed answer, and nothing leaks.
pub fn session(data: &[u8]) {
    let [shape, piece, data @ ..] = data else {
        return;
    };
    let new = || server(PAGES, 20);
    let shared = SERVER.with_borrow_mut(|server| server.get_or_insert_with(new).clone());
    let name = Name::new(b"fuzz").unwrap();
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        options: 0,
        incarnation: Incarnation([*shape; 16]),
        instance: shared.instance,
        stream: 0,
        streams: 1,
        wanted: 0,
        issued: Seq(u64::MAX),
        client: name,
        region: name,
    };
    let opening = [&Message::Hello.encode()[..], &hello.encode()].concat();
    let mut input = if shape & 1 == 1 {
        opening.clone()
    } else {
        Vec::new()
    };
    input.extend_from_slice(data);
    let mut session = Session::new(shared.clone(), Arc::new(Nobody));
    let (said, closed) = converse(&mut session, &input, usize::from(*piece));
    let last = answers(&said).last().map(|(message, _)| *message);
    if matches!(last, Some(Message::Refused { .. })) {
        assert!(closed, "refused, but not closed");
    }
    drop(session);
    forget_all(&shared);
}

/// Ends every region, and checks that all memory has come back.
fn forget_all(shared: &Arc<Shared>) {
    let regions: Vec<_> = {
        let registry = memsrvd::arena::lock(&shared.registry);
        registry
            .regions
            .iter()
            .map(|(key, life)| (*key, life.clone()))
            .collect()
    };
    for ((client, region), life) in regions {
        life.table.end(&shared.arena, &life.client.quota);
        assert_eq!(
            (
                life.client.quota.pages.used(),
                life.client.quota.clusters.used()
            ),
            (0, 0)
        );
        memsrvd::arena::lock(&shared.registry)
            .regions
            .remove(&(client, region));
    }
    assert_eq!(
        shared.arena.pages.free(),
        shared.arena.pages.total(),
        "pages lost"
    );
    assert_eq!(
        shared.arena.clusters.free(),
        shared.arena.clusters.total(),
        "page tables lost"
    );
}
