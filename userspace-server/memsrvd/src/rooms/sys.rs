// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Where a page lies: a frame of the arena, or an equal part of one if it is compressed.
//!
//! ```text
//!  a frame, 4096 bytes                           whole: a page of 4096 bytes
//!  +-------------------------------------------+ long: up to 4094, and its length in the last two bytes
//!
//!  +--------+---------------+------------------+ divided into 2, 3, 4 or 8 parts of 2016, 1344, 1008 or
//!  | header |    part 0     |  part 1 ...      | 504 bytes, each with its length in its last two;
//!  +--------+---------------+------------------+ the header, 64 bytes, is [`Divided`]'s
//! ```
//!
//! A [`Room`] is as exclusive as the reference to a page that it was made from: it is not copied, and each
//! of its bytes belongs to it alone. The header of a divided frame, and the parts that nobody has, belong to the
//! [`Divided`] that has divided it, which knows them by the header: so there is nothing beside the frame, and a frame
//! that is not divided costs nothing. When the last part has come back the frame is a page again.
//!
//! This and `sys.rs` are the only files with `unsafe`. All of it rests on these:
//!
//! 1. A room's pointer came from a [`Page`] that was given up for it, so its frame is alive for ever, aligned, and
//!    initialised, and nobody else refers to it.
//! 2. The rooms of a frame do not overlap each other or the header: there is one for each bit that was taken out
//!    of `free`, and it has the part of that number.
//! 3. But for `owner`, which is not written after the frame was divided, a header is read and written only through an
//!    exclusive reference to the `Divided` whose number is in it.

#![expect(unsafe_code, reason = "parts of a page are joined to a page again")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use memsrv_protocol::PAGE_SIZE;

use crate::sys::{prefetch, Frame, Page};

/// Bytes of a part or frame that hold the payload's length.
const LEN_BYTES: usize = 2;

/// Bytes of a divided frame before its parts.
const HEADER_LEN: usize = 64;
const _: () = assert!(size_of::<Header>() <= HEADER_LEN && align_of::<Header>() <= HEADER_LEN);

/// What kind of room it is. The number of parts stands for the kinds of divided frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A frame with a page of 4096 bytes.
    Whole,
    /// A frame with fewer.
    Long,
    /// A part of a divided frame: which of [`PARTS`].
    Part(u8),
}

/// Into how many parts frames are divided. Each divides what the header leaves, and leaves the bits of the tag free.
pub const PARTS: [u8; 4] = [2, 3, 4, 8];

/// The bits of a pointer to a room that tell its kind; where it begins they are zero.
const TAG_MASK: usize = 7;
const _: () = assert!(HEADER_LEN % (TAG_MASK + 1) == 0 && PARTS.len() + 2 <= TAG_MASK + 1);

impl Kind {
    /// The kind of room in which so many bytes take the least memory; `None`: more than a page.
    pub fn of(len: usize) -> Option<Kind> {
        if len == PAGE_SIZE {
            return Some(Kind::Whole);
        }
        let parts = PARTS.iter().enumerate().rev();
        let fit = parts
            .filter_map(|(n, _)| u8::try_from(n).ok())
            .map(Kind::Part)
            .find(|kind| len <= kind.capacity());
        fit.or_else(|| (len <= Kind::Long.capacity()).then_some(Kind::Long))
    }

    /// How many rooms a frame has.
    pub fn rooms(self) -> u8 {
        match self {
            Kind::Whole | Kind::Long => 1,
            Kind::Part(n) => PARTS.get(usize::from(n)).copied().unwrap_or(1),
        }
    }

    /// Bytes of the room.
    fn size(self) -> usize {
        match self {
            Kind::Whole | Kind::Long => PAGE_SIZE,
            Kind::Part(_) => (PAGE_SIZE - HEADER_LEN) / usize::from(self.rooms()),
        }
    }

    /// Bytes of the payload, at the most.
    pub fn capacity(self) -> usize {
        match self {
            Kind::Whole => PAGE_SIZE,
            Kind::Long | Kind::Part(_) => self.size().saturating_sub(LEN_BYTES),
        }
    }

    fn tag(self) -> usize {
        match self {
            Kind::Whole => 0,
            Kind::Long => 1,
            Kind::Part(n) => usize::from(n).saturating_add(2),
        }
    }

    fn of_tag(tag: usize) -> Kind {
        match tag {
            0 => Kind::Whole,
            1 => Kind::Long,
            n => Kind::Part(u8::try_from(n.saturating_sub(2)).unwrap_or(0)),
        }
    }
}

/// A place for a page's payload, owned by whoever has it. One that is dropped is lost, as a [`Page`] is.
#[derive(Debug)]
pub struct Room {
    /// Where it begins, and its kind's tag in the low bits.
    tagged: NonNull<u8>,
}

// SAFETY: A room's bytes are its own (1, 2), whichever thread has it.
unsafe impl Send for Room {}

impl Room {
    fn new(start: NonNull<u8>, kind: Kind) -> Room {
        Room {
            tagged: start.map_addr(|addr| addr | kind.tag()),
        }
    }

    /// Of a whole frame. What it shows until it is written is what the page held.
    pub fn of(page: Page) -> Room {
        Room::new(NonNull::from(page).cast(), Kind::Whole)
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        Kind::of_tag(self.tagged.addr().get() & TAG_MASK)
    }

    fn start(&self) -> NonNull<u8> {
        let tag = self.kind().tag();
        self.tagged.map_addr(|addr| {
            // A room does not begin at address 0.
            std::num::NonZeroUsize::new(addr.get() & !tag).unwrap_or(addr)
        })
    }

    /// The frame that it lies in.
    fn frame(&self) -> NonNull<u8> {
        let start = self.start();
        start.map_addr(|addr| {
            std::num::NonZeroUsize::new(addr.get() & !(PAGE_SIZE - 1)).unwrap_or(addr)
        })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: The kind's size from the start on is this room's own, alive and initialised (1, 2).
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.kind().size()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: As in `bytes`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), self.kind().size()) }
    }

    /// What was written last.
    pub fn payload(&self) -> &[u8] {
        let bytes = self.bytes();
        if self.kind() == Kind::Whole {
            return bytes;
        }
        let Some((bytes, len)) = bytes.split_last_chunk::<LEN_BYTES>() else {
            return &[];
        };
        let len = usize::from(u16::from_le_bytes(*len));
        bytes.get(..len).unwrap_or(&[])
    }

    /// Asks the processor for the beginning of its bytes, and for where their length is.
    pub fn prefetch(&self) {
        let bytes = self.bytes();
        prefetch(bytes);
        if self.kind() != Kind::Whole {
            prefetch(bytes.last_chunk::<LEN_BYTES>().unwrap_or(&[0; LEN_BYTES]));
        }
    }

    /// Puts a payload there in place of what there was; false, and nothing has changed, if it does not fit.
    pub fn write(&mut self, payload: &[u8]) -> bool {
        let kind = match self.kind() {
            Kind::Whole | Kind::Long if payload.len() == PAGE_SIZE => Kind::Whole,
            Kind::Whole | Kind::Long => Kind::Long,
            part => part,
        };
        let Ok(len) = u16::try_from(payload.len()) else {
            return false;
        };
        if payload.len() > kind.capacity() {
            return false;
        }
        *self = Room::new(self.start(), kind);
        let bytes = self.bytes_mut();
        if kind != Kind::Whole {
            if let Some(place) = bytes.last_chunk_mut::<LEN_BYTES>() {
                *place = len.to_le_bytes();
            }
        }
        if let Some(place) = bytes.get_mut(..payload.len()) {
            place.copy_from_slice(payload);
        }
        true
    }

    /// The page again, of a room that is a whole frame.
    ///
    /// # Errors
    ///
    /// The room: it is a part.
    pub fn into_page(self) -> Result<Page, Room> {
        match self.kind() {
            Kind::Part(_) => Err(self),
            // SAFETY: The frame was given up for this room (1), which is given up for the reference.
            Kind::Whole | Kind::Long => Ok(unsafe { self.start().cast::<Frame>().as_mut() }),
        }
    }
}

/// What stands at the beginning of a divided frame.
#[repr(C)]
struct Header {
    /// The number of the [`Divided`] whose it is.
    owner: u64,
    /// The other frames of its kind that have a part to give.
    next: Option<NonNull<Header>>,
    previous: Option<NonNull<Header>>,
    /// The parts that nobody has.
    free: u8,
}

/// Frames that are divided, as many as there are pages for them; those that have a part to give are found at once.
pub struct Divided {
    number: u64,
    /// The first frame of each of [`PARTS`] with a part to give.
    first: [Option<NonNull<Header>>; PARTS.len()],
}

// SAFETY: The headers that it points to are its own (3), whichever thread has it.
unsafe impl Send for Divided {}

impl Default for Divided {
    fn default() -> Divided {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Divided {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            first: [None; PARTS.len()],
        }
    }
}

impl Divided {
    /// Takes a part of that kind; `None` where no frame has one to give.
    pub fn take(&mut self, kind: Kind) -> Option<Room> {
        let frame = (*self.list(kind)?)?;
        let header = self.header(frame);
        let number = header.free.trailing_zeros();
        // The lowest bit that is set.
        header.free &= header.free.wrapping_sub(1);
        if header.free == 0 {
            self.unlink(kind, frame);
        }
        part(frame, kind, number)
    }

    /// Divides a page into parts of that kind and takes the first; `None`, and the page is lost, if it is no kind of
    /// part: that does not happen.
    pub fn divide(&mut self, page: Page, kind: Kind) -> Option<Room> {
        self.list(kind)?;
        let frame = NonNull::from(page).cast::<Header>();
        let header = Header {
            owner: self.number,
            next: None,
            previous: None,
            free: all(kind) & !1,
        };
        // SAFETY: The page was given up, is aligned, and has room for a header.
        unsafe { frame.write(header) };
        self.link(kind, frame);
        part(frame, kind, 0)
    }

    /// Takes a part back; the page, if that was the last.
    ///
    /// A room that is no part of a frame of its own it does not take: it is lost then, and that does not happen.
    pub fn put(&mut self, room: Room) -> Option<Page> {
        let (kind, frame) = (room.kind(), room.frame().cast::<Header>());
        self.list(kind)?;
        // SAFETY: The room is a part (it has a list), so its frame has a header.
        let owner = unsafe { &raw const (*frame.as_ptr()).owner };
        // SAFETY: As above, and it is not written while there are rooms (3).
        let owner = unsafe { owner.read() };
        if owner != self.number {
            return None;
        }
        let offset = room.start().addr().get().saturating_sub(frame.addr().get());
        let number = offset.saturating_sub(HEADER_LEN).checked_div(kind.size())?;
        let header = self.header(frame);
        let before = header.free;
        header.free |= 1_u8.checked_shl(u32::try_from(number).ok()?)?;
        if header.free != all(kind) {
            if before == 0 {
                self.link(kind, frame);
            }
            return None;
        }
        if before != 0 {
            self.unlink(kind, frame);
        }
        // SAFETY: All parts have come back (2), so nobody refers to the frame; a frame is any bytes.
        Some(unsafe { frame.cast::<Frame>().as_mut() })
    }

    fn list(&mut self, kind: Kind) -> Option<&mut Option<NonNull<Header>>> {
        match kind {
            Kind::Part(n) => self.first.get_mut(usize::from(n)),
            Kind::Whole | Kind::Long => None,
        }
    }

    /// A header of one of its frames.
    fn header(&mut self, mut frame: NonNull<Header>) -> &mut Header {
        // SAFETY: All pointers in lists, and of rooms whose owner it is, are to headers of its own (3), and `self` is
        // borrowed exclusively as long as the reference lives.
        unsafe { frame.as_mut() }
    }

    /// Puts a frame first in its list.
    fn link(&mut self, kind: Kind, frame: NonNull<Header>) {
        let next = match self.list(kind) {
            Some(first) => first.replace(frame),
            None => return,
        };
        let header = self.header(frame);
        (header.next, header.previous) = (next, None);
        if let Some(next) = next {
            self.header(next).previous = Some(frame);
        }
    }

    /// Takes a frame out of its list.
    fn unlink(&mut self, kind: Kind, frame: NonNull<Header>) {
        let header = self.header(frame);
        let (next, previous) = (header.next.take(), header.previous.take());
        if let Some(next) = next {
            self.header(next).previous = previous;
        }
        match previous {
            Some(previous) => self.header(previous).next = next,
            None => {
                if let Some(first) = self.list(kind) {
                    *first = next;
                }
            }
        }
    }
}

/// The mask of all parts.
fn all(kind: Kind) -> u8 {
    u8::MAX
        .checked_shr(8_u32.saturating_sub(u32::from(kind.rooms())))
        .unwrap_or(0)
}

/// Part `number` of a frame, which the caller has taken out of `free`.
fn part(frame: NonNull<Header>, kind: Kind, number: u32) -> Option<Room> {
    let offset = usize::try_from(number).ok()?.checked_mul(kind.size())?;
    let offset = offset.checked_add(HEADER_LEN)?;
    if offset.checked_add(kind.size())? > PAGE_SIZE {
        return None;
    }
    // SAFETY: The offset is within the frame.
    Some(Room::new(unsafe { frame.cast::<u8>().add(offset) }, kind))
}
