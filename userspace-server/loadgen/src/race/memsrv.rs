// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Speaks memsrv: one session of one stream for each connection, each with a client's name of its own.

use std::collections::VecDeque;

use memsrv_protocol::{
    Hello, Incarnation, Instance, Message, Name, Sender, Seq, Slot, Status, Tag, Welcome,
    HEADER_LEN, PAGE_LEN, VERSION,
};

use crate::protocol::{put_page, take, Answer, Gave, Greeting, Kind, Place, Protocol, Wrong};

/// One connection's codec.
pub struct Memsrv {
    client: Name,
    incarnation: Incarnation,
    /// The number of the first slot's mark.
    base: u64,
    /// Pages that it will store.
    pages: u32,
    /// How many requests will be in flight at most.
    depth: Place,
    /// The last STORE sent, and the last that is covered by an ACK.
    sent: Seq,
    acked: Seq,
    /// Whose the STOREs behind it are.
    storing: VecDeque<(Seq, Place)>,
}

impl Memsrv {
    /// A client of that name, whose pages carry marks from `base` on.
    pub fn new(client: Name, incarnation: [u8; 16], base: u64, pages: u32, depth: Place) -> Self {
        Self {
            client,
            incarnation: Incarnation(incarnation),
            base,
            pages,
            depth,
            sent: Seq(0),
            acked: Seq(0),
            storing: VecDeque::new(),
        }
    }

    /// The next STORE that an ACK has covered.
    fn covered(&mut self) -> Option<Answer<'static>> {
        let (_, place) = *self.storing.front().filter(|(seq, _)| *seq <= self.acked)?;
        self.storing.pop_front();
        Some(Answer {
            place,
            gave: Gave::Done,
        })
    }

    fn welcome(&self, payload: &[u8; Welcome::LEN]) -> Result<(), Wrong> {
        let welcome = Welcome::decode(payload)
            .map_err(|_| Wrong::Foreign("memsrv", "WELCOME without its magic"))?;
        if welcome.window < u32::from(self.depth) {
            let window = welcome.window;
            return Err(Wrong::Refused(format!(
                "no more than {window} requests in flight"
            )));
        }
        if welcome.granted < u64::from(self.pages) {
            let granted = welcome.granted;
            return Err(Wrong::Refused(format!("no more than {granted} pages")));
        }
        Ok(())
    }
}

/// The header at the front, as a message; `None`: it is not all there yet.
fn message(input: &[u8]) -> Result<Option<Message>, Wrong> {
    let Some(header) = input.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    Message::decode(header, Sender::Server)
        .map(Some)
        .map_err(|_| Wrong::Foreign("memsrv", "a header breaks the protocol's rules"))
}

/// As [`Wrong::Failed`].
fn failed(what: &str, status: Status) -> Wrong {
    Wrong::Failed(format!("{what}: {}", status.as_str()))
}

impl Protocol for Memsrv {
    fn begin(&mut self, out: &mut Vec<u8>) {
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            options: 0,
            incarnation: self.incarnation,
            instance: Instance::default(),
            stream: 0,
            streams: 1,
            wanted: u64::from(self.pages),
            issued: Seq(0),
            client: self.client,
            region: self.client,
        };
        out.extend_from_slice(&Message::Hello.encode());
        out.extend_from_slice(&hello.encode());
    }

    fn greet(&mut self, input: &[u8], _out: &mut Vec<u8>) -> Result<Greeting, Wrong> {
        let Some(message) = message(input)? else {
            return Ok(Greeting::More);
        };
        let payload = input.get(HEADER_LEN..).unwrap_or_default();
        let len = usize::try_from(message.payload_len()).unwrap_or(usize::MAX);
        let Some(payload) = payload.get(..len) else {
            return Ok(Greeting::More);
        };
        match message {
            Message::Welcome => {
                let payload = payload.first_chunk();
                self.welcome(payload.ok_or(Wrong::Foreign("memsrv", "a short WELCOME"))?)?;
                Ok(Greeting::Ready(HEADER_LEN + len))
            }
            Message::Refused { .. } => Err(Wrong::Refused(String::from_utf8_lossy(payload).into())),
            _ => Err(Wrong::Foreign("memsrv", "no WELCOME")),
        }
    }

    fn ask(&mut self, place: Place, kind: Kind, slot: u32, out: &mut Vec<u8>) {
        let (mark, slot) = (self.base + u64::from(slot), Slot(u64::from(slot)));
        if kind == Kind::Load {
            let (tag, count) = (Tag(u64::from(place)), 1);
            out.extend_from_slice(&Message::Load { tag, slot, count }.encode());
            return;
        }
        self.sent = Seq(self.sent.0 + 1);
        self.storing.push_back((self.sent, place));
        let seq = self.sent;
        // The page first, for its checksum stands before it.
        let at = out.len();
        out.resize(at + HEADER_LEN, 0);
        put_page(mark, out);
        let page = out.get(at + HEADER_LEN..).unwrap_or_default();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&slot.0.to_le_bytes()), page);
        if let Some(header) = out.get_mut(at..at + HEADER_LEN) {
            let len = PAGE_LEN;
            let store = Message::Store {
                seq,
                slot,
                crc,
                len,
            };
            header.copy_from_slice(&store.encode());
        }
    }

    fn answer<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Answer<'a>>, Wrong> {
        if let Some(answer) = self.covered() {
            return Ok(Some(answer));
        }
        let Some(message) = message(input)? else {
            return Ok(None);
        };
        match message {
            Message::Ack { seq } if seq <= self.sent => {
                take(input, HEADER_LEN);
                self.acked = seq;
                // One that repeats an earlier one covers nothing.
                match self.covered() {
                    None => self.answer(input),
                    some => Ok(some),
                }
            }
            Message::Page { tag, .. } => {
                let len = usize::try_from(message.payload_len()).unwrap_or(usize::MAX);
                let Some(answer) = take(input, HEADER_LEN + len) else {
                    return Ok(None);
                };
                Ok(Some(Answer {
                    place: Place::try_from(tag.0).map_err(|_| Wrong::Unasked)?,
                    gave: Gave::Page(answer.get(HEADER_LEN..).unwrap_or_default()),
                }))
            }
            Message::NoPage { status, .. } => Err(failed("load", status)),
            Message::Nak { status, .. } => Err(failed("store", status)),
            Message::Refused { status, .. } | Message::Notice { status, .. } => {
                Err(Wrong::Refused(status.as_str().to_owned()))
            }
            _ => Err(Wrong::Unasked),
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&Message::Bye.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{answers_at_every_break, greets_at_every_break, page};

    fn codec() -> Memsrv {
        Memsrv::new(Name::new(b"race-1").unwrap(), [7; 16], 1000, 512, 32)
    }

    fn welcome(window: u32, granted: u64) -> Vec<u8> {
        let welcome = Welcome {
            version: VERSION,
            options: 0,
            instance: Instance([9; 16]),
            granted,
            stored: 0,
            executed: Seq(0),
            window,
            mirror: None,
        };
        [&Message::Welcome.encode()[..], &welcome.encode()].concat()
    }

    #[test]
    fn the_handshake_is_a_hello_and_its_welcome() {
        let mut hello = Vec::new();
        codec().begin(&mut hello);
        assert_eq!(hello.len(), HEADER_LEN + Hello::LEN);
        assert_eq!(hello[..8], [1, 0, 0, 0, 208, 0, 0, 0]);
        assert_eq!(hello[32..40], *b"memsrv\r\n");
        greets_at_every_break(&|| Box::new(codec()), &welcome(4096, 512), &hello);
    }

    #[test]
    fn a_window_or_grant_below_what_is_needed_is_refused() {
        for bytes in [welcome(16, 512), welcome(4096, 511)] {
            let greeting = codec().greet(&bytes, &mut Vec::new());
            assert!(matches!(greeting, Err(Wrong::Refused(_))), "{greeting:?}");
        }
        let (status, len) = (Status::Busy, 3);
        let mut refused = Message::Refused { status, len }.encode().to_vec();
        refused.extend_from_slice(b"why");
        let greeting = codec().greet(&refused, &mut Vec::new());
        assert_eq!(greeting, Err(Wrong::Refused("why".to_owned())));
    }

    #[test]
    fn requests_are_the_bytes_of_the_protocol() {
        let (mut codec, mut out) = (codec(), Vec::new());
        codec.ask(3, Kind::Load, 5, &mut out);
        let load = [3, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(out[..16], load);
        assert_eq!(out[16..], [&[5][..], &[0; 15]].concat());
        out.clear();
        codec.ask(4, Kind::Store, 5, &mut out);
        assert_eq!(
            out[..24],
            [2, 0, 0, 0, 0, 16, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(out[32..], page(1005));
        let crc = crc32c::crc32c(&[&5_u64.to_le_bytes()[..], &page(1005)].concat());
        assert_eq!(out[28..32], crc.to_le_bytes());
    }

    #[test]
    fn an_ack_ends_all_stores_up_to_it() {
        let asked = || -> Box<dyn Protocol> {
            let mut codec = codec();
            for (place, kind) in [Kind::Store, Kind::Load, Kind::Store, Kind::Store]
                .into_iter()
                .enumerate()
            {
                codec.ask(Place::try_from(place).unwrap(), kind, 5, &mut Vec::new());
            }
            Box::new(codec)
        };
        let ack = |seq| Message::Ack { seq: Seq(seq) }.encode().to_vec();
        let (tag, slot, crc, len) = (Tag(1), Slot(5), 0, PAGE_LEN);
        let header = Message::Page {
            tag,
            slot,
            crc,
            len,
        }
        .encode()
        .to_vec();
        let bytes = [ack(2), header, page(1005), ack(2), ack(3)].concat();
        let done = |place| Answer {
            place,
            gave: Gave::Done,
        };
        let page = page(1005);
        let loaded = Answer {
            place: 1,
            gave: Gave::Page(&page),
        };
        answers_at_every_break(&asked, &bytes, &[done(0), done(2), loaded, done(3)]);
        let mut unasked = &ack(4)[..];
        assert_eq!(asked().answer(&mut unasked), Err(Wrong::Unasked));
    }

    #[test]
    fn what_the_server_could_not_do_is_an_error() {
        let (seq, status) = (Seq(1), Status::Full);
        let nak = Message::Nak { seq, status }.encode();
        let (tag, slot, status) = (Tag(1), Slot(1), Status::NotFound);
        let missing = Message::NoPage { tag, slot, status }.encode();
        for bytes in [nak, missing] {
            let answer = codec().answer(&mut &bytes[..]).unwrap_err();
            assert!(matches!(answer, Wrong::Failed(_)), "{answer:?}");
        }
    }
}
