// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The memory server as a library, so that tests run it with a listener of their own.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`], [`size`], [`error`], [`log`] | options, their errors and exit codes, log lines |
//! | [`sys`], [`memory`] | memory from the kernel; with `rooms/sys.rs` all of the `unsafe` |
//! | [`arena`], [`rooms`], [`table`] | free pages, parts of pages, and the page table of a region |
//! | [`regions`] | clients, regions, streams, and who owns them |
//! | [`session`], [`batch`] | the protocol, without I/O |
//! | [`pull`] | pages fetched from another server |
//! | [`mirror`] | stores and frees sent on to another server |
//! | [`listener`], [`conn`], [`worker`], [`server`] | sockets and threads |
//! | [`persist`] | the log on a disk, and what a start makes of it |
//! | [`stats`] | what STAT answers |

pub mod arena;
pub mod batch;
pub mod config;
pub mod conn;
pub mod error;
pub mod listener;
pub mod log;
pub mod memory;
pub mod mirror;
pub mod num;
pub mod persist;
pub mod pull;
pub mod regions;
pub mod rooms;
pub mod server;
pub mod session;
pub mod size;
pub mod stats;
pub mod sys;
pub mod table;
pub mod worker;
