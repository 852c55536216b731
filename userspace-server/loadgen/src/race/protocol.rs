// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the generator needs to know of a protocol: how to ask, and where an answer ends.
//!
//! A codec only turns requests into bytes and bytes into answers; sockets, times and what is asked next
//! are the generator's, and so the same for all.

/// Bytes in a page.
pub const PAGE_LEN: usize = 4096;

/// The place in a connection's table that a request in flight has.
pub type Place = u16;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To have a page back.
    Load,
    /// To put one there.
    Store,
}

/// An answer, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Whose it is.
    pub place: Place,
    /// What came with it.
    pub gave: Gave<'a>,
}

/// What came with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gave<'a> {
    /// That a page is stored.
    Done,
    /// A page, which is to carry its slot's mark.
    Page(&'a [u8]),
    /// As many bytes as a page has, from one who stores nothing.
    Filler,
}

/// How far the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// More bytes must come before anything can be said.
    More,
    /// So many bytes are done with; others follow.
    Went(usize),
    /// So many bytes are done with, and requests may be sent.
    Ready(usize),
}

/// What a server has said that it should not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Wrong {
    /// It does not speak the protocol.
    #[error("the server does not speak {0}: {1}")]
    Foreign(&'static str, &'static str),
    /// It does not want us, in its own words.
    #[error("the server refuses: {0}")]
    Refused(String),
    /// A page was not taken, or could not be given.
    #[error("the server failed a request: {0}")]
    Failed(String),
    /// It answers what was not asked.
    #[error("the server answers what was not asked")]
    Unasked,
    /// A page was another one than that stored.
    #[error("the page that came back for slot {0} is not the one stored there")]
    Page(u64),
}

/// One connection's codec.
pub trait Protocol: Send {
    /// What is said first.
    fn begin(&mut self, out: &mut Vec<u8>);

    /// Takes what the server says until requests may be sent; writes what is to be said in between.
    ///
    /// # Errors
    ///
    /// The server speaks something else, or refuses.
    fn greet(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Greeting, Wrong>;

    /// Writes a request for one of this connection's slots; with a store goes [`put_page`]'s page.
    fn ask(&mut self, place: Place, kind: Kind, slot: u32, out: &mut Vec<u8>);

    /// Takes the next answer from the front of what has come; `None`: it is not all there yet.
    ///
    /// # Errors
    ///
    /// It is no answer, or says that the request has failed.
    fn answer<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Answer<'a>>, Wrong>;

    /// What is said last.
    fn end(&mut self, _out: &mut Vec<u8>) {}
}

/// The part of each page between its marks.
static FILLING: [u8; PAGE_LEN - 16] = [0x5a; PAGE_LEN - 16];

/// Writes the page of this mark: it stands at either end, so that a page put together from two is seen. To
/// fill all of it would measure the generator.
pub fn put_page(mark: u64, out: &mut Vec<u8>) {
    let mark = mark.to_le_bytes();
    out.extend_from_slice(&mark);
    out.extend_from_slice(&FILLING);
    out.extend_from_slice(&mark);
}

/// Whether a page is that of the mark.
pub fn has_mark(page: &[u8], mark: u64) -> bool {
    let mark = mark.to_le_bytes();
    page.len() == PAGE_LEN && page.starts_with(&mark) && page.ends_with(&mark)
}

/// Takes so many bytes from the front, if they are there.
pub fn take<'a>(input: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (front, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(front)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Feeds the bytes up to each possible break, then the rest: the answers must be the same.
    pub fn answers_at_every_break(
        new: &dyn Fn() -> Box<dyn Protocol>,
        bytes: &[u8],
        wanted: &[Answer<'_>],
    ) {
        for break_at in 0..=bytes.len() {
            let mut codec = new();
            let mut got = Vec::new();
            let mut rest = &bytes[..break_at];
            while let Some(answer) = codec.answer(&mut rest).unwrap() {
                got.push(answer);
            }
            let mut rest = &bytes[break_at - rest.len()..];
            while let Some(answer) = codec.answer(&mut rest).unwrap() {
                got.push(answer);
            }
            assert!(rest.is_empty(), "left over after a break at {break_at}");
            assert_eq!(got, wanted, "after a break at {break_at}");
        }
    }

    /// The same for a handshake; gives what the client has said in all.
    pub fn greets_at_every_break(new: &dyn Fn() -> Box<dyn Protocol>, bytes: &[u8], said: &[u8]) {
        for break_at in 0..=bytes.len() {
            let (mut codec, mut out, mut at) = (new(), Vec::new(), 0);
            let mut ready = false;
            codec.begin(&mut out);
            for end in [break_at, bytes.len()] {
                while !ready {
                    match codec.greet(&bytes[at..end], &mut out).unwrap() {
                        Greeting::More => break,
                        Greeting::Went(count) => at += count,
                        Greeting::Ready(count) => {
                            at += count;
                            ready = true;
                        }
                    }
                }
            }
            assert!(
                ready && at == bytes.len(),
                "not ready after a break at {break_at}"
            );
            assert_eq!(out, said, "after a break at {break_at}");
        }
    }

    /// The page of a mark.
    pub fn page(mark: u64) -> Vec<u8> {
        let mut page = Vec::new();
        put_page(mark, &mut page);
        page
    }

    #[test]
    fn a_page_put_together_from_two_is_seen() {
        let (one, two) = (page(1), page(2));
        assert_eq!(one.len(), PAGE_LEN);
        assert!(has_mark(&one, 1) && !has_mark(&one, 2));
        let mixed = [&one[..2048], &two[2048..]].concat();
        assert!(!has_mark(&mixed, 1) && !has_mark(&mixed, 2));
        assert!(!has_mark(&one[..8], 1));
    }
}
