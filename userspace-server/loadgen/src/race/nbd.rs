// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Speaks NBD: the fixed newstyle handshake with `NBD_OPT_GO` for the default export, then reads and writes of
//! a page each, answered by simple replies in any order.
//!
//! Numbers and names are those of the NBD project's `doc/proto.md`. They are big-endian.

use crate::protocol::{
    put_page, take, Answer, Gave, Greeting, Kind, Place, Protocol, Wrong, PAGE_LEN,
};

const NAME: &str = "NBD";
const MAGIC: [u8; 8] = *b"NBDMAGIC";
const OPTION_MAGIC: [u8; 8] = *b"IHAVEOPT";
const OPTION_REPLY: [u8; 8] = 0x0003_e889_0455_65a9_u64.to_be_bytes();
/// Both sides' handshake flags: fixed newstyle, and no 124 zeroes, which `NBD_OPT_GO` does not send anyway.
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
/// From here on a reply to an option is an error.
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISC: u16 = 2;
/// Bytes of a page, as a request carries them.
const LENGTH: u32 = 4096;
/// In a cookie, above the place: a load, whose answer has a page behind it.
const LOADING: u64 = 1 << 16;

/// One connection's codec.
pub struct Nbd {
    /// The first of its pages in the export, and how many they are.
    base: u64,
    pages: u32,
    greeted: bool,
}

impl Nbd {
    /// A connection that uses so many pages from `base` on.
    pub fn new(base: u64, pages: u32) -> Self {
        Self {
            base,
            pages,
            greeted: false,
        }
    }

    /// The server's first words.
    fn greeting(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<Greeting, Wrong> {
        let Some(words) = take(&mut input, 18) else {
            return Ok(Greeting::More);
        };
        let mut words = words;
        if array(&mut words) != MAGIC || array(&mut words) != OPTION_MAGIC {
            return Err(Wrong::Foreign(NAME, "it does not begin as newstyle does"));
        }
        let flags = u16::from_be_bytes(array(&mut words));
        if flags & FIXED_NEWSTYLE == 0 {
            return Err(Wrong::Foreign(NAME, "its newstyle is not the fixed one"));
        }
        let flags = flags & (FIXED_NEWSTYLE | NO_ZEROES);
        out.extend_from_slice(&u32::from(flags).to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC);
        out.extend_from_slice(&OPT_GO.to_be_bytes());
        // The default export's empty name, its length before it, and no information that is asked for.
        let data = [0; 6];
        out.extend_from_slice(&6_u32.to_be_bytes());
        out.extend_from_slice(&data);
        self.greeted = true;
        Ok(Greeting::Went(18))
    }

    /// Checks what the server tells of the export.
    fn info(&self, mut data: &[u8]) -> Result<(), Wrong> {
        if u16::from_be_bytes(array(&mut data)) != INFO_EXPORT {
            return Ok(());
        }
        let size = u64::from_be_bytes(array(&mut data));
        let needed = (self.base + u64::from(self.pages)) * u64::from(LENGTH);
        if size < needed {
            return Err(Wrong::Refused(format!(
                "the export has {size} bytes, {needed} are needed"
            )));
        }
        Ok(())
    }

    fn request(command: u16, cookie: u64, offset: u64, length: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&REQUEST.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&command.to_be_bytes());
        out.extend_from_slice(&cookie.to_be_bytes());
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
    }
}

/// The next bytes; zeroes where there are none, which callers rule out.
fn array<const N: usize>(input: &mut &[u8]) -> [u8; N] {
    match input.split_first_chunk() {
        Some((front, rest)) => {
            *input = rest;
            *front
        }
        None => [0; N],
    }
}

impl Protocol for Nbd {
    fn begin(&mut self, _out: &mut Vec<u8>) {}

    fn greet(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Greeting, Wrong> {
        if !self.greeted {
            return self.greeting(input, out);
        }
        let mut rest = input;
        let Some(mut header) = take(&mut rest, 20) else {
            return Ok(Greeting::More);
        };
        let (magic, option) = (array(&mut header), u32::from_be_bytes(array(&mut header)));
        if magic != OPTION_REPLY || option != OPT_GO {
            return Err(Wrong::Foreign(NAME, "it does not answer NBD_OPT_GO"));
        }
        let reply = u32::from_be_bytes(array(&mut header));
        let len = usize::try_from(u32::from_be_bytes(array(&mut header))).unwrap_or(usize::MAX);
        let Some(data) = take(&mut rest, len) else {
            return Ok(Greeting::More);
        };
        let taken = 20 + len;
        match reply {
            REP_ACK => Ok(Greeting::Ready(taken)),
            REP_INFO => self.info(data).map(|()| Greeting::Went(taken)),
            error if error >= REP_ERROR => {
                Err(Wrong::Refused(String::from_utf8_lossy(data).into()))
            }
            _ => Ok(Greeting::Went(taken)),
        }
    }

    fn ask(&mut self, place: Place, kind: Kind, slot: u32, out: &mut Vec<u8>) {
        let mark = self.base + u64::from(slot);
        let offset = mark * u64::from(LENGTH);
        let cookie = u64::from(place);
        if kind == Kind::Load {
            Self::request(CMD_READ, cookie | LOADING, offset, LENGTH, out);
        } else {
            Self::request(CMD_WRITE, cookie, offset, LENGTH, out);
            put_page(mark, out);
        }
    }

    fn answer<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Answer<'a>>, Wrong> {
        let mut rest = *input;
        let Some(mut header) = take(&mut rest, 16) else {
            return Ok(None);
        };
        if u32::from_be_bytes(array(&mut header)) != SIMPLE_REPLY {
            return Err(Wrong::Foreign(NAME, "no simple reply"));
        }
        let error = u32::from_be_bytes(array(&mut header));
        if error != 0 {
            return Err(Wrong::Failed(format!("NBD error {error}")));
        }
        let cookie = u64::from_be_bytes(array(&mut header));
        let place = Place::try_from(cookie & !LOADING).map_err(|_| Wrong::Unasked)?;
        let gave = if cookie & LOADING == 0 {
            Gave::Done
        } else {
            match take(&mut rest, PAGE_LEN) {
                Some(page) => Gave::Page(page),
                None => return Ok(None),
            }
        };
        *input = rest;
        Ok(Some(Answer { place, gave }))
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        Self::request(CMD_DISC, 0, 0, 0, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{answers_at_every_break, greets_at_every_break, page};

    /// An option's reply.
    fn reply(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7];
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    fn export(size: u64) -> Vec<u8> {
        let data = [&[0, 0][..], &size.to_be_bytes(), &[0, 1]].concat();
        reply(3, &data)
    }

    #[test]
    fn the_handshake_asks_for_the_default_export() {
        let mut server = b"NBDMAGICIHAVEOPT\x00\x03".to_vec();
        server.extend(export(1 << 20));
        // Block sizes, which nobody has asked for.
        server.extend(reply(3, &[0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]));
        server.extend(reply(1, &[]));
        let said =
            b"\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00";
        greets_at_every_break(&|| Box::new(Nbd::new(0, 256)), &server, said);
    }

    #[test]
    fn other_servers_and_small_exports_are_refused() {
        let greet = |bytes: &[u8]| {
            let mut codec = Nbd::new(0, 257);
            codec.greeted = !bytes.starts_with(b"NBD");
            codec.greet(bytes, &mut Vec::new()).unwrap_err()
        };
        let old = greet(b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x00");
        assert!(matches!(old, Wrong::Foreign(..)));
        assert!(matches!(greet(&export(1 << 20)), Wrong::Refused(_)));
        let unknown = reply((1 << 31) + 6, b"no such export");
        assert_eq!(greet(&unknown), Wrong::Refused("no such export".to_owned()));
    }

    #[test]
    fn requests_are_the_bytes_of_the_protocol() {
        let (mut codec, mut out) = (Nbd::new(16, 16), Vec::new());
        codec.ask(3, Kind::Load, 1, &mut out);
        let cookie = [0, 0, 0, 0, 0, 1, 0, 3];
        let place = [0, 0, 0, 0, 0, 1, 0x10, 0, 0, 0, 0x10, 0];
        let start = [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 0];
        assert_eq!(out, [&start[..], &cookie, &place].concat());
        out.clear();
        codec.ask(4, Kind::Store, 1, &mut out);
        let start = [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 1];
        let cookie = [0, 0, 0, 0, 0, 0, 0, 4];
        assert_eq!(out, [&start[..], &cookie, &place, &page(17)].concat());
    }

    #[test]
    fn answers_come_in_any_order() {
        let reply = |error: u8, cookie: [u8; 3]| {
            let [high, middle, low] = cookie;
            let start = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, error];
            [&start[..], &[0, 0, 0, 0, 0, high, middle, low]].concat()
        };
        let bytes = [reply(0, [0, 0, 9]), reply(0, [1, 0, 2]), page(5)].concat();
        let page = page(5);
        let stored = Answer {
            place: 9,
            gave: Gave::Done,
        };
        let loaded = Answer {
            place: 2,
            gave: Gave::Page(&page),
        };
        answers_at_every_break(&|| Box::new(Nbd::new(0, 16)), &bytes, &[stored, loaded]);
        let full = reply(28, [0, 0, 1]);
        let failed = Nbd::new(0, 16).answer(&mut &full[..]);
        assert_eq!(failed, Err(Wrong::Failed("NBD error 28".to_owned())));
    }
}
