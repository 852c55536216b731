// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The memsrv wire format for user space: the crate around the files that the kernel module includes.
//!
//! The kernel has no Cargo, so it includes `mod.rs` by path; everything that is shared stands there.

#![no_std]
#![forbid(unsafe_code)]

#[path = "mod.rs"]
mod wire;

pub use wire::*;
