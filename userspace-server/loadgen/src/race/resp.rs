// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Speaks RESP2, as redis does: `GET` and `SET` of a page under a key of 8 bytes, answered in order.

use std::collections::VecDeque;

use crate::protocol::{
    put_page, take, Answer, Gave, Greeting, Kind, Place, Protocol, Wrong, PAGE_LEN,
};

const NAME: &str = "RESP";
const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$8\r\n";
const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$8\r\n";
/// How a page begins, in a request and in an answer.
const PAGE: &[u8] = b"$4096\r\n";
const STORED: &[u8] = b"+OK\r\n";
const END: &[u8] = b"\r\n";
/// No line that is an error's is longer.
const LINE_MAX: usize = 512;

/// One connection's codec.
pub struct Resp {
    /// The first of its keys.
    base: u64,
    /// Whose the next answers are.
    asked: VecDeque<Place>,
}

impl Resp {
    /// A connection whose keys begin at `base`.
    pub fn new(base: u64) -> Self {
        Self {
            base,
            asked: VecDeque::new(),
        }
    }
}

/// Something else than what was to come, as it is now: an error's line, or what is no answer.
fn other(input: &[u8]) -> Result<Option<Answer<'static>>, Wrong> {
    let expected = [PAGE, STORED];
    if expected.iter().any(|answer| answer.starts_with(input)) {
        return Ok(None);
    }
    let end = input.windows(END.len()).position(|bytes| bytes == END);
    let Some(line) = end.and_then(|end| input.get(..end)) else {
        return if input.len() < LINE_MAX {
            Ok(None)
        } else {
            Err(Wrong::Foreign(NAME, "a line without an end"))
        };
    };
    match line {
        b"$-1" => Err(Wrong::Failed("no such key".to_owned())),
        [b'-', words @ ..] => Err(Wrong::Failed(String::from_utf8_lossy(words).into())),
        _ => Err(Wrong::Foreign(NAME, "neither a page nor OK")),
    }
}

impl Protocol for Resp {
    fn begin(&mut self, _out: &mut Vec<u8>) {}

    fn greet(&mut self, _input: &[u8], _out: &mut Vec<u8>) -> Result<Greeting, Wrong> {
        Ok(Greeting::Ready(0))
    }

    fn ask(&mut self, place: Place, kind: Kind, slot: u32, out: &mut Vec<u8>) {
        let mark = self.base + u64::from(slot);
        self.asked.push_back(place);
        out.extend_from_slice(if kind == Kind::Load { GET } else { SET });
        out.extend_from_slice(&mark.to_le_bytes());
        out.extend_from_slice(END);
        if kind == Kind::Store {
            out.extend_from_slice(PAGE);
            put_page(mark, out);
            out.extend_from_slice(END);
        }
    }

    fn answer<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Answer<'a>>, Wrong> {
        let mut rest = *input;
        let gave = if let Some(after) = rest.strip_prefix(STORED) {
            rest = after;
            Gave::Done
        } else if let Some(after) = rest.strip_prefix(PAGE) {
            rest = after;
            let Some(page) = take(&mut rest, PAGE_LEN + END.len()) else {
                return Ok(None);
            };
            Gave::Page(page.strip_suffix(END).unwrap_or_default())
        } else {
            return other(rest);
        };
        let place = self.asked.pop_front().ok_or(Wrong::Unasked)?;
        *input = rest;
        Ok(Some(Answer { place, gave }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{answers_at_every_break, page};

    #[test]
    fn requests_are_the_bytes_of_the_protocol() {
        let (mut codec, mut out) = (Resp::new(16), Vec::new());
        codec.ask(0, Kind::Load, 1, &mut out);
        let key = b"\x11\0\0\0\0\0\0\0\r\n";
        assert_eq!(out, [b"*2\r\n$3\r\nGET\r\n$8\r\n", &key[..]].concat());
        out.clear();
        codec.ask(0, Kind::Store, 1, &mut out);
        let set = [b"*3\r\n$3\r\nSET\r\n$8\r\n", &key[..], b"$4096\r\n"].concat();
        assert_eq!(out, [set, page(17), b"\r\n".to_vec()].concat());
    }

    #[test]
    fn answers_come_in_the_order_of_asking() {
        let asked = || -> Box<dyn Protocol> {
            let mut codec = Resp::new(16);
            codec.ask(7, Kind::Store, 1, &mut Vec::new());
            codec.ask(3, Kind::Load, 1, &mut Vec::new());
            codec.ask(5, Kind::Store, 1, &mut Vec::new());
            Box::new(codec)
        };
        let page = page(17);
        let bytes = [b"+OK\r\n$4096\r\n", &page[..], b"\r\n+OK\r\n"].concat();
        let answer = |place, gave| Answer { place, gave };
        let wanted = [
            answer(7, Gave::Done),
            answer(3, Gave::Page(&page)),
            answer(5, Gave::Done),
        ];
        answers_at_every_break(&asked, &bytes, &wanted);
        let unasked = Resp::new(16).answer(&mut &b"+OK\r\n"[..]);
        assert_eq!(unasked, Err(Wrong::Unasked));
    }

    #[test]
    fn what_the_server_could_not_do_is_an_error() {
        for (line, words) in [
            (&b"$-1\r\n"[..], "no such key"),
            (b"-OOM command not allowed\r\n", "OOM command not allowed"),
        ] {
            for end in 0..line.len() {
                assert_eq!(Resp::new(0).answer(&mut &line[..end]), Ok(None));
            }
            let failed = Resp::new(0).answer(&mut &line[..]);
            assert_eq!(failed, Err(Wrong::Failed(words.to_owned())));
        }
        let foreign = Resp::new(0).answer(&mut &b"HTTP/1.1 400 Bad Request\r\n"[..]);
        assert!(matches!(foreign, Err(Wrong::Foreign(..))));
    }
}
