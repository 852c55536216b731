// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A connection's connection to the mirror: made when the session wants one, dropped when it does not.

use std::sync::Arc;
use std::time::Instant;

use mio::{Registry, Token};

use super::{Buffers, Conn, Place};
use crate::mirror::forward::Forward;
use crate::mirror::link::{Heard, Link, Parting};

/// The token of a connection's connection to the mirror: those of connections are even.
pub fn link_token(token: Token) -> Token {
    Token(token.0 | 1)
}

/// The connection that a token is for, and whether it is its mirror's.
pub fn owner(token: Token) -> (Token, bool) {
    (Token(token.0 & !1), token.0 & 1 == 1)
}

/// Lends the thread's buffer to a stream that has nothing in its own: most have nothing to keep between two turns.
pub(super) fn lend(forward: &mut Forward, buffer: &mut Vec<u8>) {
    if forward.is_on() && forward.out().is_empty() {
        std::mem::swap(forward.out(), buffer);
    }
}

/// Takes the buffer back once all of it is sent.
pub(super) fn reclaim(forward: &mut Forward, buffer: &mut Vec<u8>) {
    let out = forward.out();
    if out.is_empty() && out.capacity() > 0 {
        let emptied = std::mem::take(out);
        if buffer.capacity() == 0 {
            *buffer = emptied;
        }
    }
}

impl Conn {
    /// Takes note of what the connection to the mirror is ready for.
    pub fn mirror_ready(&mut self, readable: bool) {
        if let Some(link) = &mut self.mirror {
            link.ready(readable);
        }
    }

    /// When to let it look whether the mirror is late.
    pub fn mirror_deadline(&mut self) -> Option<Instant> {
        self.session.forward().deadline()
    }

    /// Its last words to the mirror, which outlive it.
    pub fn take_parting(&mut self) -> Option<(Parting, Arc<Place>)> {
        Some((self.parting.take()?, self.place.clone()))
    }

    /// Sends to the mirror and hears it; true: there is more to hear.
    pub(super) fn hear_mirror(&mut self, buffers: &mut Buffers) -> bool {
        let forward = self.session.forward();
        let Some(link) = self.mirror.as_mut().filter(|_| forward.wants_link()) else {
            return false;
        };
        let sent = link.send(forward.out());
        // Though it cannot be sent to: what it said last may say why.
        let heard = link.hear(forward, &mut buffers.input);
        reclaim(forward, &mut buffers.forwarded);
        match (heard, sent) {
            (Err(error), _) | (_, Err(error)) => {
                forward.fail(error.to_string());
                false
            }
            (Ok(heard), Ok(())) => {
                forward.tick(Instant::now());
                heard == Heard::More
            }
        }
    }

    /// Sends what there is for the mirror, over a connection that is made now if there is none.
    pub(super) fn send_mirror(&mut self, registry: &Registry) {
        let forward = self.session.forward();
        let shared = &self.place.shared;
        let Some(mirror) = shared.mirror.as_ref().filter(|_| forward.wants_link()) else {
            return;
        };
        let result = match &mut self.mirror {
            Some(link) => link.send(forward.out()),
            None => {
                let opened = Link::open(mirror, registry, link_token(self.link.token));
                opened.map(|link| self.mirror = Some(link))
            }
        };
        if let Err(error) = result {
            forward.fail(error.to_string());
        }
        forward.note(Instant::now());
    }

    /// Gives up the connection to the mirror if it is not wanted any more.
    pub(super) fn part(&mut self) {
        let forward = self.session.forward();
        if forward.wants_link() {
            return;
        }
        let link = self.mirror.take();
        self.parting = match (link, forward.take_parting()) {
            (Some(link), Some(out)) => Some(Parting::new(link, out)),
            _ => None,
        };
    }
}
