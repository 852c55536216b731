// SPDX-License-Identifier: GPL-2.0-only

//! A kernel thread that sleeps until something asks for it.
//!
//! One that reclaim may be waiting for runs with `PF_MEMALLOC`: what it allocates comes from the
//! reserves if it must, and never from reclaim. As a kernel thread it is in the root cgroup, and so
//! are the sockets that it makes.

use super::{bindings, sys};
use kernel::{
    bindings as kernel_bindings,
    error::from_err_ptr,
    prelude::*,
    str::CStr,
    sync::{
        atomic::{Acquire, Atomic, Full, Relaxed, Release},
        Arc, //
    }, //
};

/// Reasons to wake a thread, as bits, and the thread to be woken.
///
/// Can be rung in any context, by anyone who shares it, until the thread's [`Thread`] is dropped.
pub(crate) struct Bell {
    events: Atomic<u32>,
    task: Atomic<usize>,
    /// When the thread was woken, in microseconds; [`AWAKE`] or [`ASLEEP`] if it is that.
    rung_us: Atomic<u64>,
    /// What it takes of late from a ring to the thread's going on: each time counts for an eighth.
    wake_us: Atomic<u32>,
}

const AWAKE: u64 = 0;
const ASLEEP: u64 = 1;

/// What a wake-up is taken to cost before one was seen, and the most that counts, in microseconds.
const WAKE_US: u32 = 60;
const MOST_WAKE_US: u32 = 1000;

impl Bell {
    /// A bell that nobody hears yet; what is rung stays until somebody does.
    pub(crate) const fn new() -> Self {
        Self {
            events: Atomic::new(0),
            task: Atomic::new(0),
            rung_us: Atomic::new(AWAKE),
            wake_us: Atomic::new(WAKE_US),
        }
    }

    /// What it takes, in microseconds, from somebody's waking the thread to its going on: the way to a processor that
    /// may sleep, too, and a wait for it. Of other tasks that are woken it is a good guess.
    pub(crate) fn wake_us(&self) -> u32 {
        self.wake_us.load(Relaxed)
    }

    /// Adds `events` and wakes the thread.
    pub(crate) fn ring(&self, events: u32) {
        let mut old = self.events.load(Relaxed);
        loop {
            match self.events.cmpxchg(old, old | events, Full) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        if old & events == events {
            // They were pending already, and whoever added them has woken the thread.
            return;
        }
        let task = self.task.load(Acquire) as *mut kernel_bindings::task_struct;
        if !task.is_null() {
            if self.rung_us.load(Relaxed) == ASLEEP {
                self.rung_us.store(sys::now_us(), Relaxed);
            }
            // SAFETY: `Thread` holds a reference on the task until nobody can ring any more.
            unsafe { kernel_bindings::wake_up_process(task) };
        }
    }

    /// Sleeps until there are events, the thread is to stop, or `timeout_ms` are over (0: no limit);
    /// takes the events.
    pub(crate) fn wait(&self, timeout_ms: u32) -> u32 {
        self.sleep(timeout_ms, false)
    }

    /// As [`Self::wait`], for a thread that is on its way out already.
    pub(crate) fn wait_stopping(&self, timeout_ms: u32) -> u32 {
        self.sleep(timeout_ms, true)
    }

    fn sleep(&self, timeout_ms: u32, stopping: bool) -> u32 {
        let events = self.events.as_ptr().cast::<i32>().cast_const();
        self.rung_us.store(ASLEEP, Relaxed);
        // SAFETY: The word lives as long as `self`.
        unsafe { bindings::memsrv_wait(events, timeout_ms, stopping) };
        let rung_us = self.rung_us.xchg(AWAKE, Relaxed);
        if rung_us > ASLEEP {
            let took = u32::try_from(sys::now_us().saturating_sub(rung_us)).unwrap_or(MOST_WAKE_US);
            let before = self.wake_us.load(Relaxed);
            // One that had to wait for a processor does not count for much.
            let took = took.min(before * 2 + 8).min(MOST_WAKE_US);
            let now = before - before / 8 + took / 8;
            self.wake_us.store(now, Relaxed);
        }
        self.events.xchg(0, Full)
    }
}

/// What a thread does.
pub(crate) trait ThreadMain: Send + Sync + 'static {
    /// Whether reclaim may wait for the thread, so that it must not wait for reclaim.
    const IN_RECLAIM: bool;

    /// The thread's body; returns once [`should_stop`], or by itself.
    fn main(self: Arc<Self>);
    /// The bell that the thread listens to.
    fn bell(&self) -> &Bell;
}

/// Whether the calling thread, one of ours, is to end.
pub(crate) fn should_stop() -> bool {
    // SAFETY: Called in a kernel thread.
    unsafe { kernel_bindings::kthread_should_stop() }
}

/// A thread; dropping it stops it and waits for its end.
pub(crate) struct Thread<T: ThreadMain> {
    task: *mut kernel_bindings::task_struct,
    data: Arc<T>,
    stopped: bool,
}

// SAFETY: A task may be stopped by any task.
unsafe impl<T: ThreadMain> Send for Thread<T> {}
// SAFETY: Nothing can be done through a shared reference.
unsafe impl<T: ThreadMain> Sync for Thread<T> {}

extern "C" fn entry<T: ThreadMain>(data: *mut c_void) -> c_int {
    // SAFETY: `Thread::start` made the pointer by `Arc::into_raw` for this thread.
    let data: Arc<T> = unsafe { Arc::from_raw(data.cast::<T>().cast_const()) };
    if T::IN_RECLAIM {
        // SAFETY: Paired below, in the same task.
        let flags = unsafe { bindings::memsrv_noreclaim_save() };
        data.main();
        // SAFETY: The flags of the call above.
        unsafe { bindings::memsrv_noreclaim_restore(flags) };
    } else {
        data.main();
    }
    0
}

impl<T: ThreadMain> Thread<T> {
    /// Starts a thread. `name` is what `ps` shows.
    pub(crate) fn start(name: &CStr, data: Arc<T>) -> Result<Self> {
        let raw = Arc::into_raw(data.clone());
        // SAFETY: The function and its data fit each other; the name is copied through "%s".
        let task = from_err_ptr(unsafe {
            kernel_bindings::kthread_create_on_node(
                Some(entry::<T>),
                raw.cast_mut().cast(),
                -1,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        });
        let task = match task {
            Ok(task) => task,
            Err(error) => {
                // SAFETY: No thread came to be that would have taken it.
                drop(unsafe { Arc::from_raw(raw) });
                return Err(error);
            }
        };
        // SAFETY: The task was just made and has not run.
        unsafe { bindings::memsrv_task_get(task.cast()) };
        data.bell().task.store(task as usize, Release);
        // SAFETY: As above.
        unsafe { kernel_bindings::wake_up_process(task) };
        Ok(Self {
            task,
            data,
            stopped: false,
        })
    }
}

impl<T: ThreadMain> Thread<T> {
    /// Tells the thread to stop and waits for its end. Its bell may still be rung, until it is dropped.
    pub(crate) fn stop(&mut self) {
        if core::mem::replace(&mut self.stopped, true) {
            return;
        }
        // SAFETY: The task is one of kthread_create, and our reference keeps it should it have ended.
        let result = unsafe { kernel_bindings::kthread_stop(self.task) };
        if result == EINTR.to_errno() {
            // It was stopped before it ever ran, and has not taken its reference.
            // SAFETY: `start` made the pointer of an Arc of this data by `Arc::into_raw`.
            drop(unsafe { Arc::from_raw(Arc::as_ptr(&self.data)) });
        }
    }
}

impl<T: ThreadMain> Drop for Thread<T> {
    fn drop(&mut self) {
        self.stop();
        self.data.bell().task.store(0, Release);
        // SAFETY: The reference of `start`. Nobody rings any more: the hooks are gone before the threads
        // are, each thread detaches its socket before it ends, and those that ring each other are all
        // stopped before the first is dropped.
        unsafe { bindings::memsrv_task_put(self.task.cast()) };
    }
}
