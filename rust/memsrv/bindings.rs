// SPDX-License-Identifier: GPL-2.0-only

//! What bindgen made of `helpers.h`; the types are the kernel crate's.

#![allow(
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "generated"
)]

use kernel::bindings::{bio_vec, folio, ftrace_regs, kvec, page, sk_buff, sock, socket};
use kernel::ffi;

include!(env!("MEMSRV_BINDINGS"));
