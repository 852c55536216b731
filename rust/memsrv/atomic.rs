// SPDX-License-Identifier: GPL-2.0-only

//! Bits in an atomic word, which the kernel crate's atomics do not offer.

use kernel::sync::atomic::{Atomic, Full, Relaxed};

/// Replaces the word by `change(word)` in one step and returns what it was.
fn update(word: &Atomic<u64>, change: impl Fn(u64) -> u64) -> u64 {
    let mut old = word.load(Relaxed);
    loop {
        match word.cmpxchg(old, change(old), Full) {
            Ok(was) => return was,
            Err(now) => old = now,
        }
    }
}

/// Sets the bits of `mask` and returns what the word was. Fully ordered.
pub(crate) fn set(word: &Atomic<u64>, mask: u64) -> u64 {
    update(word, |old| old | mask)
}

/// Clears the bits of `mask` and returns what the word was. Fully ordered.
pub(crate) fn clear(word: &Atomic<u64>, mask: u64) -> u64 {
    update(word, |old| old & !mask)
}

/// Makes the word at least `to`. Fully ordered.
pub(crate) fn raise(word: &Atomic<u64>, to: u64) {
    update(word, |old| old.max(to));
}

/// Takes `n` from a counter if it holds as many. Fully ordered.
pub(crate) fn take(counter: &Atomic<u64>, n: u64) -> bool {
    let mut old = counter.load(Relaxed);
    loop {
        let Some(left) = old.checked_sub(n) else {
            return false;
        };
        match counter.cmpxchg(old, left, Full) {
            Ok(_) => return true,
            Err(now) => old = now,
        }
    }
}
