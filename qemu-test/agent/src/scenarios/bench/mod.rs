// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is measured, and with whom memsrv is compared. None of it is a test: no test depends on speed.

mod apps;
mod checksum;
mod contender;
mod evict;
mod links;
mod nvme;
mod page;
mod server;

pub use apps::{apps, quick_apps};
pub use links::{links, quick_links};
pub use nvme::target as nvme_target;
pub use page::{cost, quick, time};
