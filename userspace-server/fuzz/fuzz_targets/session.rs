// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Any bytes as what a client sends: the server's connection state machine without sockets.

#![no_main]

#[expect(dead_code, reason = "each target uses a part of it")]
#[path = "../../memsrvd/tests/server/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::session(data));
