// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A pattern program that works on and on while the scenario does something to its server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{anyhow, Result};

use crate::guest::{poll, Filler};

/// The program, driven by a thread of its own.
pub struct Worker {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Result<Filler>>,
}

impl Worker {
    /// Has it follow these orders over and over. A wrong byte ends it with an error.
    pub fn start(mut filler: Filler, orders: &'static [&'static str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            for order in orders.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                filler.expect_right(order)?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(filler)
        });
        Self { stop, done, thread }
    }

    /// Lets it follow at least one order from its beginning to its end.
    pub fn goes_on(&self, patience: Duration) -> Result<()> {
        let begun = self.done.load(Ordering::Relaxed);
        poll("the program's next orders", patience, || {
            Ok(self.done.load(Ordering::Relaxed) >= begun + 2 || self.thread.is_finished())
        })
    }

    /// Ends its work; the program, or how that ended.
    pub fn finish(self, patience: Duration) -> Result<Filler> {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that hangs is left behind: it ends when the program is killed.
        poll("the end of the program's work", patience, || {
            Ok(self.thread.is_finished())
        })?;
        self.thread
            .join()
            .map_err(|_| anyhow!("the thread that drives the program panicked"))?
    }
}
