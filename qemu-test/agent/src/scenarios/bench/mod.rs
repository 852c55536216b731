// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is measured, and with whom memsrv is compared. None of it is a test: no test depends on speed.

mod contender;
mod cost;
mod evict;
mod micro;
mod server;

pub use cost::cost;
pub use micro::micro;
