// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Any bytes as headers and payloads.

#![no_main]

#[expect(dead_code, reason = "each target uses a part of it")]
#[path = "../../memsrvd/tests/server/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::decoder(data));
