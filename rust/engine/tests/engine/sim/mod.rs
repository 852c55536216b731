// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A simulated network: streams of the engine, pipes that deliver any number of bytes at any time and
//! break at any byte, and a model of a server.
//!
//! Everything runs in the test's thread; *when* a byte moves is the test's choice. So every delay, and
//! every order between streams, is some order of steps.

mod client;
mod mirrored;
mod pair;
mod pulls;
mod server;

pub use client::Client;
pub use mirrored::{lane, Counts, Done, Mirrored, TestLane};
pub use pair::{place, Book, Host};
pub use server::Server;

use std::collections::VecDeque;

/// One direction of a connection: bytes on their way.
pub type Pipe = VecDeque<u8>;

/// A connection: bytes to the server, bytes to the client.
#[derive(Default)]
pub struct Wire {
    pub up: Pipe,
    pub down: Pipe,
}

/// Takes at most `n` bytes out of a pipe.
pub fn take(pipe: &mut Pipe, n: usize) -> Vec<u8> {
    pipe.drain(..n.min(pipe.len())).collect()
}

/// A page that only this seed has.
pub fn page_of(seed: u64) -> Vec<u8> {
    seed.to_le_bytes().repeat(memsrv_protocol::PAGE_SIZE / 8)
}
