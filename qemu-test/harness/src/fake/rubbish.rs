// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A server that keeps nothing and gives out blocks of the right checksum that are no page's, and a page's whose
//! checksum is wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use memsrv_protocol::{Hello, Message, Sender, Slot, Tag, HEADER_LEN};

/// Answers until the client goes, or `stop`.
pub fn serve(socket: &mut TcpStream, stop: &AtomicBool) -> std::io::Result<()> {
    let mut header = [0; HEADER_LEN];
    while read(socket, &mut header, stop)? {
        let message = Message::decode_with(&header, Sender::Client, Hello::LZ4)
            .map_err(|error| std::io::Error::other(format!("{error:?}")))?;
        let len = usize::try_from(message.payload_len()).unwrap_or(usize::MAX);
        if !read(socket, &mut vec![0; len], stop)? {
            break;
        }
        match message {
            Message::Store { seq, .. } | Message::Free { seq, .. } => {
                socket.write_all(&Message::Ack { seq }.encode())?;
            }
            Message::Load { tag, slot, count } => {
                for slot in (0..count).filter_map(|n| slot.plus(n)) {
                    socket.write_all(&answer(tag, slot))?;
                }
            }
            Message::Ping { tag } => socket.write_all(&Message::Pong { tag }.encode())?,
            _ => break,
        }
    }
    Ok(())
}

/// A PAGE whose block is one of several kinds of rubbish, by its slot.
fn answer(tag: Tag, slot: Slot) -> Vec<u8> {
    let kind = slot.0 % 7;
    let block: Vec<u8> = match kind {
        // Noise.
        0 => (0..300_u64)
            .map(|n| (n.wrapping_mul(slot.0 | 1) >> 3).to_le_bytes()[0])
            .collect(),
        // A block of LZ4, of ten bytes and not of a page's.
        1 => [&[0xa0][..], &[7; 10]].concat(),
        // One that is a byte longer than a page: a match of 4096 zeroes behind one, less what ends a block.
        2 => run(4097),
        // One that is a byte shorter.
        3 => run(4095),
        // A match that begins before the block does.
        4 => [&[0x1f, 0, 0xff, 0xff][..], &[0xff; 14], &[0x10]].concat(),
        // Nothing.
        5 => vec![0],
        // A page's, that was damaged on the way.
        _ => run(4096),
    };
    let crc = checksum(slot, &block) ^ u32::from(kind == 6);
    let len = u32::try_from(block.len()).unwrap_or(0);
    let header = Message::Page {
        tag,
        slot,
        crc,
        len,
    };
    [&header.encode()[..], &block].concat()
}

fn checksum(slot: Slot, block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&slot.0.to_le_bytes()), block)
}

/// A good block of so many bytes that are all the same: one of them, a match of all but six, and five.
fn run(len: usize) -> Vec<u8> {
    let beyond = len - 6 - 4 - 15;
    let mut block = vec![0x1f, b'x', 1, 0];
    block.extend(std::iter::repeat_n(0xff, beyond / 255));
    block.push((beyond % 255).to_le_bytes()[0]);
    block.extend([0x50, b'x', b'x', b'x', b'x', b'x']);
    block
}

/// Reads all of it; false if the other side, or the test, ends first.
fn read(socket: &mut TcpStream, mut to: &mut [u8], stop: &AtomicBool) -> std::io::Result<bool> {
    while !to.is_empty() && !stop.load(Ordering::Relaxed) {
        match socket.read(to) {
            Ok(0) => return Ok(false),
            Ok(n) => to = to.get_mut(n..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(to.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would make of a block, by the format's description: sequences of literals and matches.
    fn unpacked(block: &[u8]) -> Option<usize> {
        let (mut at, mut out) = (0, 0);
        let long = |at: &mut usize, nibble: usize| -> Option<usize> {
            let mut len = nibble;
            let mut more = nibble == 15;
            while more {
                let byte = *block.get(*at)?;
                *at += 1;
                len += usize::from(byte);
                more = byte == 255;
            }
            Some(len)
        };
        loop {
            let token = usize::from(*block.get(at)?);
            at += 1;
            let literals = long(&mut at, token >> 4)?;
            at += literals;
            out += literals;
            if at == block.len() {
                return Some(out);
            }
            let offset = usize::from(u16::from_le_bytes([*block.get(at)?, *block.get(at + 1)?]));
            at += 2;
            if offset == 0 || offset > out {
                return None;
            }
            out += long(&mut at, token & 15)? + 4;
        }
    }

    #[test]
    fn what_it_gives_out_is_no_page() {
        assert_eq!(
            unpacked(&run(4096)),
            Some(4096),
            "the block would be a good one"
        );
        for slot in 0..600 {
            let answer = answer(Tag(1), Slot(slot));
            let (header, block) = answer.split_first_chunk().unwrap();
            let message = Message::decode_with(header, Sender::Server, Hello::LZ4).unwrap();
            let Message::Page { crc, .. } = message else {
                panic!("{message:?}");
            };
            let right = crc == checksum(Slot(slot), block);
            assert_eq!(unpacked(block) == Some(4096), !right, "slot {slot}");
        }
    }
}
