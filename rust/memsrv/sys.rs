// SPDX-License-Identifier: GPL-2.0-only

//! Small things of the kernel: clock, checksum, random numbers, counters, the calling task.

use super::bindings;
use kernel::{
    prelude::*,
    str::CStr,
    sync::atomic::{Atomic, Relaxed}, //
};

/// The monotonic clock, in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    // SAFETY: No requirements.
    unsafe { bindings::memsrv_now_ns() }
}

/// The same in microseconds.
pub(crate) fn now_us() -> u64 {
    now_ns() / 1000
}

/// Whether the calling task is in the midst of asking for several things, as in a readahead.
pub(crate) fn has_plug() -> bool {
    // SAFETY: No requirements.
    unsafe { bindings::memsrv_has_plug() }
}

/// The monotonic clock, in milliseconds.
pub(crate) fn now_ms() -> u64 {
    now_us() / 1000
}

/// CRC-32C over the slot's eight little-endian bytes and then `payload`, as the protocol has it.
pub(crate) fn crc32c(slot: u64, payload: &[u8]) -> u32 {
    let slot = slot.to_le_bytes();
    // SAFETY: The pointer and the length are one slice's.
    let crc = unsafe { bindings::memsrv_crc32c(!0, slot.as_ptr().cast(), slot.len()) };
    // SAFETY: As above.
    !unsafe { bindings::memsrv_crc32c(crc, payload.as_ptr().cast(), payload.len()) }
}

/// Random bytes, good enough for an identity.
pub(crate) fn random() -> [u8; 16] {
    let mut out = [0u8; 16];
    // SAFETY: The pointer and the length are one array's.
    unsafe { bindings::memsrv_random(out.as_mut_ptr().cast(), out.len()) };
    out
}

/// A task that waits for a page that has been asked for, counted as long as this lives.
pub(crate) struct Waiting(());

impl Waiting {
    /// One more.
    pub(crate) fn begin() -> Self {
        // SAFETY: No requirements.
        unsafe { bindings::memsrv_wait_begins() };
        Self(())
    }

    /// Whether so many wait that nobody is to do so without sleeping.
    pub(crate) fn are_many() -> bool {
        // SAFETY: No requirements.
        unsafe { bindings::memsrv_many_wait() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // SAFETY: It has begun.
        unsafe { bindings::memsrv_wait_ends() };
    }
}

/// How many CPUs are online.
pub(crate) fn cpus() -> u32 {
    // SAFETY: No requirements.
    unsafe { bindings::memsrv_cpus() }
}

/// How many pages of memory the machine has.
pub(crate) fn ram_pages() -> u64 {
    // SAFETY: No requirements.
    unsafe { bindings::memsrv_ram_pages() as u64 }
}

/// How many pages are free in all swap areas.
pub(crate) fn free_swap_pages() -> u64 {
    // SAFETY: No requirements.
    unsafe { bindings::memsrv_free_swap_pages() as u64 }
}

/// Whether the calling task is in swapoff(2).
pub(crate) fn current_is_swapoff() -> bool {
    // SAFETY: There always is a current task.
    unsafe { bindings::memsrv_current_is_swapoff() }
}

/// The machine's host name.
pub(crate) fn hostname() -> &'static CStr {
    // SAFETY: The name is an array of the initial namespace with a NUL at its end; a change while it
    // is read can give a mixture of the two names, but no missing NUL (the last byte is never set).
    unsafe { CStr::from_char_ptr(bindings::memsrv_hostname()) }
}

/// Adds to the `zswpout` counter of /proc/vmstat.
pub(crate) fn count_out(pages: u32) {
    // SAFETY: No requirements.
    unsafe { bindings::memsrv_count_out(pages) }
}

/// Adds to the `zswpin` counter of /proc/vmstat.
pub(crate) fn count_in(pages: u32) {
    // SAFETY: No requirements.
    unsafe { bindings::memsrv_count_in(pages) }
}

/// A reference to our own module, taken while there are pages away.
#[derive(Clone, Copy)]
pub(crate) struct ModulePin(&'static ThisModule);

impl ModulePin {
    /// For the module to be held.
    pub(crate) fn new(module: &'static ThisModule) -> Self {
        Self(module)
    }

    /// Takes a reference; false when the module is on its way out. May be called in any context.
    pub(crate) fn get(self) -> bool {
        // SAFETY: The module is this one, whose code is running.
        unsafe { kernel::bindings::try_module_get(self.0.as_ptr()) }
    }

    /// Gives a reference back that [`Self::get`] took. May be called in any context.
    pub(crate) fn put(self) {
        // SAFETY: The caller took a reference.
        unsafe { kernel::bindings::module_put(self.0.as_ptr()) }
    }
}

/// Lets ten messages a second pass; two that race may both be the tenth.
pub(crate) struct Limit {
    second: Atomic<u64>,
    passed: Atomic<u64>,
}

impl Limit {
    /// Nothing has passed yet.
    pub(crate) const fn new() -> Self {
        Self {
            second: Atomic::new(0),
            passed: Atomic::new(0),
        }
    }

    /// Whether one more may pass now.
    pub(crate) fn allows(&self) -> bool {
        let second = now_ms() / 1000;
        if self.second.load(Relaxed) != second {
            self.second.store(second, Relaxed);
            self.passed.store(0, Relaxed);
        }
        self.passed.fetch_add(1u64, Relaxed) < 10
    }
}
