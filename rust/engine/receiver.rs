// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Cuts the bytes from the server into messages, however they arrive.
//!
//! The driver asks what is wanted, supplies as much of it as it has, and says how much that was. Page
//! bytes never pass through here: the driver puts them where they belong. It begins after the
//! handshake, which the driver does by itself.

use super::super::protocol::{Message, Sender, Slot, Tag, WireError, HEADER_LEN};

/// What the next bytes of the connection are for.
#[derive(PartialEq, Eq, Debug)]
pub enum Want<'a> {
    /// The next bytes of a header: to be put here.
    Header(&'a mut [u8]),
    /// The next bytes of the page whose [`Event::PageHeader`] came last.
    Page {
        /// Where in the page the next byte belongs.
        offset: usize,
        /// How many bytes are missing.
        len: usize,
    },
    /// So many bytes that nobody needs.
    Skip(usize),
}

/// What the bytes have come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A message other than a PAGE. Its payload, if it has one, will be skipped.
    Message(Message),
    /// A PAGE's header; the page's bytes follow.
    PageHeader {
        /// The load's tag.
        tag: Tag,
        /// The page's slot.
        slot: Slot,
        /// CRC-32C over slot and payload.
        crc: u32,
        /// Bytes of the payload: a page's, or fewer, which are the page compressed.
        len: usize,
    },
    /// The last byte of the page has come. The fields are those of its [`Event::PageHeader`].
    PageEnd {
        /// The load's tag.
        tag: Tag,
        /// The page's slot.
        slot: Slot,
        /// CRC-32C over slot and payload.
        crc: u32,
        /// Bytes of the payload.
        len: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// So many bytes of a header are there.
    Header(usize),
    /// A page: its header's fields, its length, how many bytes of it are there.
    Page {
        tag: Tag,
        slot: Slot,
        crc: u32,
        len: usize,
        got: usize,
    },
    /// So many bytes of a payload are still to come.
    Skip(usize),
    /// A header was wrong; the stream cannot be followed.
    Broken(WireError),
}

/// The state of one connection's incoming bytes.
#[derive(Debug)]
pub struct Receiver {
    header: [u8; HEADER_LEN],
    state: State,
    /// The options that are on.
    options: u32,
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Receiver {
    /// A receiver at the beginning of a message, on a connection without options.
    pub const fn new() -> Self {
        Self::with(0)
    }

    /// The same where these options are on, as the WELCOME says.
    pub const fn with(options: u32) -> Self {
        Self {
            header: [0; HEADER_LEN],
            state: State::Header(0),
            options,
        }
    }

    /// Forgets what came: the next byte is the first after a new connection's handshake. The options stay.
    pub fn reset(&mut self) {
        *self = Self::with(self.options);
    }

    /// What the next bytes are for; at least one byte, unless [`Receiver::advance`] has failed.
    pub fn want(&mut self) -> Want<'_> {
        match self.state {
            State::Header(got) => Want::Header(self.header.get_mut(got..).unwrap_or(&mut [])),
            State::Page { len, got, .. } => Want::Page {
                offset: got,
                len: len.saturating_sub(got),
            },
            State::Skip(left) => Want::Skip(left),
            State::Broken(_) => Want::Skip(0),
        }
    }

    /// `n` bytes of what was wanted have come; `n` is never more than was wanted.
    ///
    /// # Errors
    ///
    /// A header that breaks the protocol: close the connection. It fails again until
    /// [`Receiver::reset`].
    pub fn advance(&mut self, n: usize) -> Result<Option<Event>, WireError> {
        match self.state {
            State::Header(got) => self.header_bytes(got.saturating_add(n)),
            State::Page {
                tag,
                slot,
                crc,
                len,
                got,
            } => {
                let got = got.saturating_add(n);
                if got < len {
                    self.state = State::Page {
                        tag,
                        slot,
                        crc,
                        len,
                        got,
                    };
                    return Ok(None);
                }
                self.state = State::Header(0);
                Ok(Some(Event::PageEnd {
                    tag,
                    slot,
                    crc,
                    len,
                }))
            }
            State::Skip(left) => {
                self.state = match left.saturating_sub(n) {
                    0 => State::Header(0),
                    left => State::Skip(left),
                };
                Ok(None)
            }
            State::Broken(error) => Err(error),
        }
    }

    /// The header has `got` bytes now.
    fn header_bytes(&mut self, got: usize) -> Result<Option<Event>, WireError> {
        if got < HEADER_LEN {
            self.state = State::Header(got);
            return Ok(None);
        }
        let message = match Message::decode_with(&self.header, Sender::Server, self.options) {
            Ok(message) => message,
            Err(error) => {
                self.state = State::Broken(error);
                return Err(error);
            }
        };
        // Lengths are bounded by MAX_PAYLOAD; where they don't fit a usize nothing would.
        let len = usize::try_from(message.payload_len()).unwrap_or(usize::MAX);
        if let Message::Page { tag, slot, crc, .. } = message {
            self.state = State::Page {
                tag,
                slot,
                crc,
                len,
                got: 0,
            };
            return Ok(Some(Event::PageHeader {
                tag,
                slot,
                crc,
                len,
            }));
        }
        self.state = if len == 0 {
            State::Header(0)
        } else {
            State::Skip(len)
        };
        Ok(Some(Event::Message(message)))
    }
}
