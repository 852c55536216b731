// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The client side of one memsrv connection as a state machine: events in, messages and completions
//! out, without I/O, allocation or a clock.
//!
//! A [`Stream`] keeps what was asked and not yet answered: stores and frees in a ring, in the order of
//! their numbers, and loads in a table. A driver (the kernel module, the user-space client, a server's
//! link to its mirror) owns the socket, the clock and the lock; it asks, takes messages out with
//! [`Stream::next`], and puts what came in through [`Stream::message`], [`Stream::page`] and
//! [`Stream::page_done`]. A [`Receiver`] cuts the incoming bytes into these; it needs no lock, as only
//! the one who reads the socket touches it.
//!
//! # The life of a store or free
//!
//! ```text
//!              store(), free()                                    expire_stores()
//!  (0) empty ------------------> (1) queued ---------------------------------------> Expired
//!      ^  ^                        |    ^
//!      |  |                 next() |    | disconnected(): to be sent again, in the
//!      |  |                        v    | old order, under the old number
//!      |  +------ ACK --------- (2) sent
//!      |          Ok               |
//!      |                           | NAK (stores only)
//!      +---- ACK, disconnected, ---v
//!            or room needed     (3) refused -----------------------------------------> Refused
//! ```
//!
//! | | entry | who owns the page's bytes | leaves by |
//! |---|---|---|---|
//! | 0 | empty | the caller | `store`, `free` |
//! | 1 | queued: has its number, not on this connection | the engine; they must not change | `next`, `expire_stores` |
//! | 2 | sent: given out by `next` on this connection | the engine | ACK, NAK, `disconnected` |
//! | 3 | refused: completed, only its number is left | the caller | ACK of its number, `disconnected` |
//!
//! Whenever bytes pass back to the caller there is exactly one [`Completion`] with the token, and
//! none without. A free has no completion; it only ends. An expired or refused store leaves a gap in
//! the numbers, which a server must bear.
//!
//! A completed store may still be going out: a hostile peer can acknowledge what it has seen half of.
//! The driver therefore keeps the memory of the message that it is writing (not: its content)
//! valid until it has written it or dropped the connection.
//!
//! # The life of a load
//!
//! ```text
//!              load()                  next(), new tag               page()
//!  (0) empty ----------> (1) queued --------------------> (2) sent ---------> (3) receiving
//!      ^                   |   ^                           |  |  ^                |   |
//!      |  expire_loads()   |   |        disconnected()     |  |  |  page_done(),  |   |
//!      +-------------------+   +---------------------------+  |  +- more to come -+   |
//!      |                       +------------------------------|-----------------------+
//!      +---------- NOPAGE, or page_done(): the last of its pages was answered --------+
//! ```
//!
//! | | entry | who may write the load's memory | leaves by |
//! |---|---|---|---|
//! | 0 | empty | the caller | `load` |
//! | 1 | queued, or to be asked again from its next unanswered page | nobody | `next`, `expire_loads` |
//! | 2 | sent: known on the wire by a tag used only once | nobody | `page`, NOPAGE, `disconnected` |
//! | 3 | receiving: a page's bytes come in | the one who called `page`, without the lock | `page_done`, `disconnected` |
//!
//! The driver calls [`Stream::disconnected`] only when nobody is between `page` and `page_done`.
//!
//! # What the caller must keep
//!
//! - One lock around the stream; every call is short: constant time on average but for `new`,
//!   `connected`, `disconnected` and the `expire` calls, which look at each entry once, and an ACK,
//!   which completes what it covers.
//! - No load of a slot that has a store unanswered: loads overtake stores.
//! - Two operations on one slot go to the same stream.
//! - The mask that [`Stream::next`] asks for holds only slots that are free at that moment and have no
//!   store unanswered. Then a free never undoes a store, however often it is sent.

mod asks;
mod copies;
mod lane;
mod lane_io;
mod loads;
mod ops;
mod receiver;
mod replica;
mod stream;
mod types;

pub use asks::AskSlot;
pub use copies::CopySlot;
pub use lane::Lane;
pub use loads::LoadSlot;
pub use ops::{OpSlot, FREE_LIMIT};
pub use receiver::{Event, Receiver, Want};
pub use replica::{Clusters, Replica, Standing};
pub use stream::Stream;
pub use types::{Completion, Fault, LoadError, NoRoom, NotTaken, Outgoing, PageTarget, StoreError};
