// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Reading a log back, record by record, and telling a torn end from damage.
//!
//! A record has three parts: header, payload (twice where it is small), header again.
//!
//! | parts that are bad | what it is | what is done |
//! |---|---|---|
//! | none, or one header, or one of two payloads | damage, made good by the copy | said; goes on |
//! | a page | damage, or a power cut | that page is refused until it is stored again; goes on |
//! | two, or more, of which the headers are zeroes, and nothing behind shows that the disk had it | the end that a power cut tore | the log is cut there |
//! | two, or more, elsewhere | damage | the log cannot be used: what was in the record may be any page |
//!
//! Zeroes, for a segment is made of zeroes: what was not written still is. A disk writes sectors, not bytes,
//! so a header is there or not. (A file that ends before the record does is torn, too.)
//!
//! "Shows that the disk had it": a whole header behind it whose `durable` is beyond it; another segment
//! after it; an end that the head file names.

use std::io;

use super::disk::Disk;
use super::format::{
    segment_name, Head, Header, Key, SegmentHead, LONGEST_SMALL, PAGE_RECORD, SEGMENT_HEAD, UNIT,
};
use crate::num::{to_u64, to_usize};

/// Bytes read at a time.
pub const WINDOW: usize = 1024 * 1024;

/// A record as it was found.
#[derive(Debug)]
pub struct Found<'a> {
    /// Its header.
    pub header: Header,
    /// Its payload; not whole only if it is a page.
    pub payload: &'a [u8],
    /// Whether the payload matches its checksum.
    pub whole: bool,
}

/// What became of reading a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is known.
    Whole {
        /// Where it ends.
        end: u64,
        /// The segments, by number and length in use.
        files: Vec<(u64, u64)>,
        /// Whether a torn end was cut off.
        torn: bool,
        /// Records of which one copy of something was bad.
        repaired: u64,
    },
    /// Something that counts is gone, and nobody knows what.
    Lost {
        /// What, and where, in words.
        what: String,
    },
}

/// Where a record stands.
enum Step {
    Record {
        header: Header,
        from: usize,
        whole: bool,
        repaired: bool,
    },
    /// Nothing that can be read; whether a power cut makes it so.
    Nothing { torn: bool },
}

/// A part of a file in memory.
struct Window<'a> {
    disk: &'a mut dyn Disk,
    name: String,
    /// Where `bytes` begins in the file, and how many there are.
    at: u64,
    have: usize,
    bytes: &'a mut [u8],
}

impl Window<'_> {
    /// `len` bytes from `offset` on, no more than a record has; fewer at the end of the file.
    fn view(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let inside = |at: u64, have: usize| -> Option<usize> {
            let from = to_usize(offset.checked_sub(at)?);
            (from.checked_add(len)? <= have).then_some(from)
        };
        let from = match inside(self.at, self.have) {
            Some(from) => from,
            None => {
                self.have = self.disk.read(&self.name, offset, self.bytes)?;
                self.at = offset;
                0
            }
        };
        let rest = self.bytes.get(from..self.have).unwrap_or(&[]);
        Ok(rest.get(..len).unwrap_or(rest))
    }
}

/// Reads the log that `head` names and gives each record to `each`, in order.
///
/// # Errors
///
/// The disk's, or what `each` says.
pub fn scan<E>(
    disk: &mut dyn Disk,
    head: &Head,
    each: &mut dyn FnMut(Found<'_>) -> Result<(), E>,
    failed: &dyn Fn(io::Error) -> E,
) -> Result<Outcome, E> {
    let key = Key::of(head.instance);
    let lost = |what: String| Ok(Outcome::Lost { what });
    let count = head.last.checked_sub(head.first).unwrap_or(u64::MAX);
    if count > 1 << 32 {
        return lost("the head file names impossible segments".to_owned());
    }
    let mut starts = Vec::new();
    for number in head.first..=head.last {
        let name = segment_name(number);
        let mut bytes = [0; SEGMENT_HEAD];
        let found = match disk.read(&name, 0, &mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return lost(format!("{name} is not there"));
            }
            other => {
                let len = other.map_err(failed)?;
                SegmentHead::decode(bytes.get(..len).unwrap_or(&[]), key)
            }
        };
        match found {
            Some(found) if found.number == number => starts.push(found.start),
            _ => return lost(format!("{name} has no head that can be read")),
        }
    }
    let mut bytes = vec![0; WINDOW];
    let (mut files, mut torn, mut repaired) = (Vec::new(), false, 0_u64);
    let mut pos = starts.first().copied().unwrap_or(0);
    for (number, &start) in (head.first..=head.last).zip(&starts) {
        if pos != start {
            let name = segment_name(number);
            return lost(format!(
                "{name} begins at {start}, and the one before ends at {pos}"
            ));
        }
        let next = starts.get(files.len().saturating_add(1)).copied();
        let bound = next.or(head.end);
        let mut window = Window {
            disk,
            name: segment_name(number),
            at: 0,
            have: 0,
            bytes: &mut bytes,
        };
        while bound.is_none_or(|bound| pos < bound) {
            let offset = pos
                .saturating_sub(start)
                .saturating_add(to_u64(SEGMENT_HEAD));
            match step(&mut window, key, offset, pos).map_err(failed)? {
                Step::Record {
                    header,
                    from,
                    whole,
                    repaired: mended,
                } => {
                    let len = header.record_len();
                    let bytes = window.view(offset, len).map_err(failed)?;
                    let payload = bytes.get(from..).unwrap_or(&[]);
                    let payload = payload.get(..header.payload_len()).unwrap_or(&[]);
                    each(Found {
                        header,
                        payload,
                        whole,
                    })?;
                    repaired = repaired.saturating_add(u64::from(mended));
                    pos = pos.saturating_add(to_u64(len));
                }
                Step::Nothing { torn: may_be } => {
                    let shown = bound.is_some()
                        || !may_be
                        || was_durable(&mut window, key, offset, pos).map_err(failed)?;
                    if shown {
                        let name = segment_name(number);
                        return lost(format!("{name}: no record can be read at byte {offset}"));
                    }
                    // Only zeroes: the room that was set aside. Else something was to be a record.
                    let rest = window.view(offset, PAGE_RECORD).map_err(failed)?;
                    torn = rest.iter().any(|&byte| byte != 0);
                    break;
                }
            }
        }
        let used = pos
            .saturating_sub(start)
            .saturating_add(to_u64(SEGMENT_HEAD));
        files.push((number, used));
        disk.forget(&segment_name(number));
    }
    if head.end.is_some_and(|end| end != pos) {
        return lost("the log does not end where it was closed".to_owned());
    }
    Ok(Outcome::Whole {
        end: pos,
        files,
        torn,
        repaired,
    })
}

/// The record at `offset`, which is at `pos` in the log.
fn step(window: &mut Window<'_>, key: Key, offset: u64, pos: u64) -> io::Result<Step> {
    let at_pos = |header: &Header| header.pos == pos;
    let front = Header::decode(window.view(offset, UNIT)?, key, false).filter(at_pos);
    let header = match front {
        Some(header) => Some(header),
        None => back_of(window, key, offset, pos)?,
    };
    let Some(header) = header else {
        // Either nothing of the header was written, or nothing behind it.
        let area = window.view(offset, PAGE_RECORD)?;
        let (first, rest) = area.split_at(area.len().min(UNIT));
        let torn = is_unwritten(first) || rest.iter().all(|&byte| byte == 0);
        return Ok(Step::Nothing { torn });
    };
    let len = header.record_len();
    let record = window.view(offset, len)?;
    if record.len() < len {
        return Ok(Step::Nothing { torn: true });
    }
    let last = record.get(len.saturating_sub(UNIT)..).unwrap_or(&[]);
    let back = Header::decode(last, key, true).filter(at_pos);
    let mut bad = u32::from(front.is_none()).saturating_add(u32::from(back.is_none()));
    let payload = |from: usize| {
        let bytes = record.get(from..)?.get(..header.payload_len())?;
        (Header::sum(header.kind, header.slot, bytes) == header.crc).then_some(from)
    };
    let first = record.get(..UNIT).unwrap_or(&[]);
    let between = record.get(UNIT..len.saturating_sub(UNIT)).unwrap_or(&[]);
    let torn = match (front, back) {
        (Some(_), Some(_)) => is_unwritten(between),
        _ => (front.is_some() || is_unwritten(first)) && (back.is_some() || is_unwritten(last)),
    };
    let second = UNIT.saturating_add(header.payload_room());
    let whole = match (payload(UNIT), header.doubled()) {
        (Some(from), true) => {
            bad = bad.saturating_add(u32::from(payload(second).is_none()));
            Some(from)
        }
        (None, true) => {
            bad = bad.saturating_add(1);
            match payload(second) {
                Some(from) => Some(from),
                None => return Ok(Step::Nothing { torn }),
            }
        }
        (found, false) => {
            bad = bad.saturating_add(u32::from(found.is_none()));
            found
        }
    };
    if bad > 1 {
        return Ok(Step::Nothing { torn });
    }
    Ok(Step::Record {
        header,
        from: whole.unwrap_or(UNIT),
        whole: whole.is_some(),
        repaired: bad == 1 && whole.is_some(),
    })
}

/// Whether nothing was ever written there; also where the file ends.
fn is_unwritten(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0) || bytes.len() < UNIT
}

/// The second header of a record whose first is bad.
fn back_of(window: &mut Window<'_>, key: Key, offset: u64, pos: u64) -> io::Result<Option<Header>> {
    let most = PAGE_RECORD.max(LONGEST_SMALL);
    for at in (UNIT..most).step_by(UNIT) {
        let bytes = window.view(offset.saturating_add(to_u64(at)), UNIT)?;
        let found = Header::decode(bytes, key, true)
            .filter(|header| header.pos == pos && header.record_len() == at.saturating_add(UNIT));
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Whether something behind `offset` shows that the disk had what is there.
fn was_durable(window: &mut Window<'_>, key: Key, offset: u64, pos: u64) -> io::Result<bool> {
    let mut offset = offset.saturating_add(to_u64(UNIT));
    loop {
        let bytes = window.view(offset, UNIT)?;
        if bytes.len() < UNIT {
            return Ok(false);
        }
        for back in [false, true] {
            let shows = |header: &Header| header.pos > pos && header.durable > pos;
            if Header::decode(bytes, key, back).as_ref().is_some_and(shows) {
                return Ok(true);
            }
        }
        offset = offset.saturating_add(to_u64(UNIT));
    }
}
