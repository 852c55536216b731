// SPDX-License-Identifier: GPL-2.0-only

//! Our layer over the kernel, in the style of `rust/kernel`: what the kernel crate does not have.
//!
//! This is the only place with `unsafe` and with the kernel's bindings. Above it, in
//! `drivers/memsrv`, everything is safe Rust.
//!
//! | file | for |
//! |---|---|
//! | `hook.rs` | the swap path, taken over by ftrace |
//! | `folio.rs` | a folio that is being written to the server or read from it |
//! | `swap_read.rs` | a folio that is read from its swap area after all |
//! | `socket.rs` | a TCP socket that may be used under memory pressure |
//! | `thread.rs` | a kernel thread that sleeps until it has something to do |
//! | `page.rs` | pages of our own, for copies |
//! | `lz4.rs`, `lz4.c` | pages compressed |
//! | `power.rs` | hibernation, restart |
//! | `atomic.rs` | bits in an atomic word |
//! | `params.rs`, `sys.rs` | module parameters; clock, checksum, random numbers, counters |

/// Prints by the macro named first, ten times a second at the most from each place.
macro_rules! ratelimited {
    ($print:ident, $($args:tt)*) => {{
        static LIMIT: $crate::platform::sys::Limit = $crate::platform::sys::Limit::new();
        if LIMIT.allows() {
            ::kernel::$print!($($args)*);
        }
    }};
}

pub(crate) mod atomic;
mod bindings;
pub(crate) mod folio;
pub(crate) mod hook;
pub(crate) mod lz4;
pub(crate) mod page;
pub(crate) mod params;
pub(crate) mod power;
pub(crate) mod socket;
pub(crate) mod swap_read;
pub(crate) mod sys;
pub(crate) mod thread;
