// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The memsrv engine for user space: the crate around the files that the kernel module includes.
//!
//! The kernel has no Cargo, so its crate root includes `mod.rs` by path, beside the protocol's; the
//! same shape is made here: a root that has `protocol` and `engine` as its children.

#![no_std]
#![forbid(unsafe_code)]

use memsrv_protocol as protocol;

#[path = "mod.rs"]
mod engine;

pub use engine::*;
