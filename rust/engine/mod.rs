// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The client side of memsrv's connections as a state machine: events in, messages and completions
//! out, without I/O, allocation or a clock.
//!
//! A [`Stream`] is one connection. It keeps what was asked and not yet answered: stores and frees in a
//! ring, in the order of their numbers, and loads in a table. A driver (the kernel module, the user-space
//! client, a server's link to its mirror) owns the socket, the clock and the lock; it asks, takes messages
//! out with [`Stream::next`], and puts what came in through [`Stream::message`], [`Stream::page`] and
//! [`Stream::page_done`]. A [`Receiver`] cuts the incoming bytes into these; it needs no lock, as only
//! the one who reads the socket touches it.
//!
//! A [`Lane`] is a stream to each of one or two servers, its replicas, under one lock. With only one it does
//! what the stream does, and adds nothing.
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
//! # The life of a store on two replicas
//!
//! Of each cluster a replica is whole, partial or behind ([`Standing`]); the driver keeps this and the
//! lane asks for it. A store goes to each replica that is connected and not behind; if there is none, it is
//! queued for each that is not behind. The others are told of as fallen behind. With each replica it then
//! has a part of its own:
//!
//! ```text
//!   store()                   ACK                          disconnected() of this replica
//!  ----------> (1) pending ---------> (2) stored -----------------------------+
//!                 |    |  NAK                                                  |
//!                 |    +------------> (3) refused                              |
//!                 |  dropped, expired                                          v
//!                 +--------------------------------------------------> (4) missed
//! ```
//!
//! It completes when it is pending nowhere: as refused, if any part is; as stored, if a replica that is not
//! behind has it and each that missed it is behind now; else as expired. In a strict lane it is stored only
//! if no part is missed, and no store leaves a replica behind.
//!
//! - **Dropped** means that it no longer waits for an unconnected replica. This happens at once, when either
//!   connection comes or goes: where the other one is connected and has the store pending or stored, the
//!   replica falls behind; where the other has refused it, or the replica is behind already, it has
//!   nothing to wait for. A store that only an unconnected replica has waits for it.
//! - **A replica falls behind only while the other is whole**, since what only it had could not be read any
//!   more. So a store of a cluster of which the other, partial, is connected alone is not taken; one in flight
//!   waits, and ends as expired.
//! - **Stored** lasts as long as the connection: a server may come back without its pages.
//! - **Expired** are only stores that are pending on no connected replica.
//!
//! # The life of a load on two replicas
//!
//! ```text
//!              load()                  failed, and the other can be asked; or the other one is
//!  (0) empty ----------> (1) asked     the better to ask, by a connected() or disconnected()
//!    ^       ^            |  of one <--------------------------------------------------------+
//!    |       |            |    | |                                                           |
//!    |       +------------+    | +-----------------------------------------------------------+
//!    |      completed          |
//!    |                         | hedge()         one of them fails or goes
//!    |                         v               ---------------------------> (1)
//!    |                        (2) asked of both
//!    |                         |
//!    |                         | one has delivered every page: completed
//!    |                         v
//!    +----------------------- (3) owed by the other: it answers, which is skipped, or disconnects
//! ```
//!
//! - Asked is, of those that have not failed and are not behind, a connected one before one that is
//!   not, a whole one before a partial one, the primary before the mirror. If nobody is left the load
//!   fails with the most telling of the failures: that a partial replica has no page tells nothing.
//! - Who has been refilled is asked for what it lacked before, and for what waits for the other one's connection.
//! - A load that moves is asked from its first page; one that stays with a replica goes on at the next.
//! - One replica at a time writes the load's memory: from [`Lane::page`] with a target to
//!   [`Lane::page_done`]. What the other one sends meanwhile is skipped. An answer of which a page was skipped, or
//!   spoiled by a page of the other that did not arrive whole, completes nothing; it is asked for again if the
//!   other fails.
//! - The entry outlives the completion in (3), so that the late answer is known and the caller's token
//!   is free. Half of the entries can never be held so.
//! - When a whole replica has failed by its own fault, and a whole one delivers, the first falls behind: a
//!   resync will repair it.
//!
//! # A replica that is there for reading only
//!
//! One that the other feeds may have a connection that only reads ([`Lane::attached`]). It is asked for loads as if it
//! were whole, after the other one and before an unconnected one, and answers them in vain unless it proves first that
//! it has come far enough: see `lane_reader.rs`. To stores, frees and refills it is not connected. That it fails says
//! nothing, and what the other one fails to give meanwhile leaves nobody behind. What waits for it leaves it when its
//! connection goes.
//!
//! # The life of a refill
//!
//! A cluster for which a replica is behind becomes whole again while stores, loads and frees go on
//! ([`Lane::refill`]):
//!
//! ```text
//!             refill()               ACK of the FREE                 the other has answered what
//!   behind -----------> (1) wiping ------------------> (2) settling  it was asked before (2)
//!     ^   FREE of every slot,  |        now partial:         |  |
//!     |   behind all stores    |        stores go there      |  v  PULL
//!     |                        | disconnected                | (3) pulling ---> whole
//!     +------------------------+                             |  |   PULLED
//!     ^                            a store is missed         |  |
//!     +------------------------------------------------------+--+
//! ```
//!
//! - After (1) the replica has no old page: nothing was sent to it while it was behind, and what was sent
//!   before is freed.
//! - From (2) on each store goes to both. Those that were under way to the other alone have ended before
//!   (3), so that the pages that are pulled are as new as any that the replica missed.
//! - In (3) the server fetches what it has no page of, past the lane's stream. A store or free that it gets
//!   meanwhile is newer, and it drops what it fetches of that slot (see the protocol's PULL). So nothing late
//!   replaces what is new or brings back what is freed.
//! - A PULL that fails, or whose connection is lost, leaves the replica partial; it is asked again from (2).
//! - A replica may not fall behind while the other is partial: stores that only the partial one could take
//!   are not taken, until the other is back.
//!
//! # What the caller must keep
//!
//! - One lock around the stream or lane; every call is short: constant time on average but for `new`,
//!   `connected`, `disconnected` and the `expire` calls, which look at each entry once, and an ACK,
//!   which completes what it covers.
//! - No load of a slot that has a store unanswered: loads overtake stores.
//! - Two operations on one slot go to the same stream; all of a cluster's to the same lane.
//! - No store of a slot that has a load unanswered, where there are two replicas (with one, what it answers then is of no
//!   use to the caller). So what a replica has of it is as new when it answers as
//!   it was when the replica was chosen.
//! - What a failed store may have left is freed on both replicas.
//! - A replica that comes back without its pages is marked behind for each cluster of which the other is
//!   whole, before [`Lane::connected`]. Where the other is partial, that is all there is: it is whole from
//!   then on, and what it lacks is lost.
//! - The mask that [`Stream::next`] asks for holds only slots that are free at that moment and have no
//!   store unanswered. Then a free never undoes a store, however often it is sent.

mod ahead;
mod asks;
mod copies;
mod lane;
mod lane_io;
mod lane_reader;
mod lane_refill;
mod loads;
mod ops;
mod receiver;
mod refill;
mod replica;
mod spin;
mod stream;
mod tail;
mod types;

pub use ahead::{Ahead, AheadSlot, Found, MOST_AHEAD};
pub use asks::AskSlot;
pub use copies::CopySlot;
pub use lane::Lane;
pub use loads::LoadSlot;
pub use ops::{OpSlot, FREE_LIMIT};
pub use receiver::{Event, Receiver, Want};
pub use refill::REFILLS;
pub use replica::{Clusters, Replica, Standing};
pub use spin::{Spin, Taken};
pub use stream::Stream;
pub use tail::Tail;
pub use types::{
    Completion, Fault, LoadError, NoRoom, NotTaken, Outgoing, PageTarget, Payload, StoreError,
};
