// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The files of the log, as the writer sees them: one that it writes to, older ones, one kept ready.
//!
//! The head file names the segments that count. A segment is named there before its first record is
//! written, so that one which is missing later is missed. What a segment is to hold is set aside when it
//! is made: a disk that fills up says so then, and not in the middle of a group.

use std::collections::VecDeque;
use std::io;

use memsrv_protocol::Instance;

use super::disk::Disk;
use super::format::{segment_name, Head, Key, SegmentHead, HEAD_LEN, HEAD_STEP, SEGMENT_HEAD};
use crate::num::to_u64;

/// The head file's name.
pub const HEAD: &str = "head";

/// The files of a log that is being written.
pub struct Segments {
    disk: Box<dyn Disk>,
    head: Head,
    /// How long a segment may get.
    len: u64,
    /// Number and length of each that counts; the last is being written.
    files: VecDeque<(u64, u64)>,
    /// Where the log ends.
    end: u64,
    /// Whether the next file is there already.
    spare: bool,
    /// Where the records begin that a sync has not covered.
    synced: bool,
}

/// What a log was, and is to be.
pub struct Start {
    /// The server's life.
    pub instance: Instance,
    /// Acknowledgements do not wait for the disk.
    pub behind: bool,
    /// The segments that still count, by number and length.
    pub files: VecDeque<(u64, u64)>,
    /// Where the log goes on.
    pub end: u64,
    /// The number of the next segment, never used before.
    pub next: u64,
    /// The generation of the head that was read.
    pub generation: u64,
}

impl Segments {
    /// Goes on with a log in a new segment of at most `len` bytes; once this is done the disk says so.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn begin(mut disk: Box<dyn Disk>, start: Start, len: usize) -> io::Result<Segments> {
        if !disk.list()?.iter().any(|name| name == HEAD) {
            disk.create(HEAD, to_u64(HEAD_LEN))?;
        }
        let first = start
            .files
            .front()
            .map_or(start.next, |(number, _)| *number);
        let mut segments = Segments {
            disk,
            head: Head {
                instance: start.instance,
                first,
                last: start.next.saturating_sub(1),
                behind: start.behind,
                end: None,
                withdrawn: false,
                generation: start.generation,
            },
            len: to_u64(len),
            files: start.files,
            end: start.end,
            spare: false,
            synced: true,
        };
        segments.open_next()?;
        Ok(segments)
    }

    /// Removes what no head names any more; cuts each kept file to its length.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn tidy(&mut self, names: &[(u64, String)]) -> io::Result<()> {
        for (number, name) in names {
            if !self.files.iter().any(|(kept, _)| kept == number) {
                self.disk.remove(name)?;
            }
        }
        let last = self.files.len().saturating_sub(1);
        for (number, len) in self.files.iter().take(last) {
            self.disk.truncate(&segment_name(*number), *len)?;
        }
        self.disk.sync_names()
    }

    /// The number of the segment that is being written.
    pub fn current(&self) -> u64 {
        self.head.last
    }

    /// How many files there are, and bytes in them.
    pub fn size(&self) -> (u64, u64) {
        let bytes = self.files.iter().map(|(_, len)| *len).sum();
        (to_u64(self.files.len()), bytes)
    }

    /// How long a segment may get.
    pub fn segment_len(&self) -> u64 {
        self.len
    }

    fn used(&self) -> u64 {
        self.files.back().map_or(self.len, |(_, used)| *used)
    }

    /// Writes whole records behind the others.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let len = to_u64(records.len());
        if self.used().saturating_add(len) > self.len {
            self.rotate()?;
        }
        let (name, offset) = (segment_name(self.current()), self.used());
        self.synced = false;
        self.disk.write(&name, offset, records)?;
        if let Some((_, used)) = self.files.back_mut() {
            *used = used.saturating_add(len);
        }
        self.end = self.end.saturating_add(len);
        Ok(())
    }

    /// Waits until all that was written is on the disk.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn sync(&mut self) -> io::Result<()> {
        if !self.synced {
            self.disk.sync(&segment_name(self.current()))?;
            self.synced = true;
        }
        Ok(())
    }

    /// Goes on in the next segment. What is in the present one is on the disk first.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        let (name, used) = (segment_name(self.current()), self.used());
        self.open_next()?;
        // Only now: until then it might be the last, and a crash reads it.
        self.disk.truncate(&name, used)?;
        self.disk.forget(&name);
        Ok(())
    }

    fn open_next(&mut self) -> io::Result<()> {
        self.make_spare()?;
        let number = self.head.last.saturating_add(1);
        let name = segment_name(number);
        let key = Key::of(self.head.instance);
        let head = SegmentHead {
            number,
            start: self.end,
        };
        self.disk.write(&name, 0, &head.encode(key))?;
        self.disk.sync(&name)?;
        self.head.last = number;
        self.write_head()?;
        self.spare = false;
        self.files.push_back((number, to_u64(SEGMENT_HEAD)));
        Ok(())
    }

    /// Whether there are less than three groups' room left, and no next segment: then it is time to make it.
    pub fn wants_spare(&self) -> bool {
        let left = self.len.saturating_sub(self.used());
        !self.spare && left < self.len / 4 * 3
    }

    /// Makes the next segment's file, if it is not there.
    ///
    /// # Errors
    ///
    /// The disk's; [`super::disk::is_full`] tells whether trying again makes sense.
    pub fn make_spare(&mut self) -> io::Result<()> {
        if !self.spare {
            let name = segment_name(self.head.last.saturating_add(1));
            self.disk.create(&name, self.len)?;
            self.disk.sync(&name)?;
            self.disk.sync_names()?;
            self.spare = true;
        }
        Ok(())
    }

    /// Forgets all segments before `first`.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn drop_before(&mut self, first: u64) -> io::Result<()> {
        self.head.first = first;
        self.write_head()?;
        while let Some((number, _)) = self.files.front().copied() {
            if number >= first {
                break;
            }
            self.disk.remove(&segment_name(number))?;
            self.files.pop_front();
        }
        self.disk.sync_names()
    }

    /// Says that the log is whole and ends here.
    ///
    /// # Errors
    ///
    /// The disk's; then it does not say so, or may not.
    pub fn close(&mut self) -> io::Result<()> {
        self.sync()?;
        self.head.end = Some(self.end);
        self.write_head()?;
        // Its room is worth more than a quick start.
        let (name, used) = (segment_name(self.current()), self.used());
        self.disk.truncate(&name, used)?;
        if std::mem::take(&mut self.spare) {
            let next = segment_name(self.head.last.saturating_add(1));
            self.disk.remove(&next)?;
        }
        self.disk.sync_names()
    }

    /// Says that the server goes on without the log.
    ///
    /// # Errors
    ///
    /// The disk's; then the log stands there as if it were good up to where it ends.
    pub fn withdraw(&mut self) -> io::Result<()> {
        self.head.withdrawn = true;
        self.write_head()
    }

    /// One copy after the other, so that one is whole at any time. In place: it needs no room.
    fn write_head(&mut self) -> io::Result<()> {
        self.head.generation = self.head.generation.saturating_add(1);
        let copy = self.head.encode();
        for at in [0, HEAD_STEP] {
            self.disk.write(HEAD, to_u64(at), &copy)?;
            self.disk.sync(HEAD)?;
        }
        // The first time its name is new; later this costs little, once a segment.
        self.disk.sync_names()
    }
}
