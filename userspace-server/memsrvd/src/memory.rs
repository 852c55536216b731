// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Takes the server's memory at start: as much as it was told, present and locked, or says why not.

use std::io;

use memsrv_protocol::PAGE_SIZE;
use rustix::io::Errno;

use crate::arena::Arena;
use crate::error::StartError;
use crate::num::to_u64;
use crate::size::Size;
use crate::sys;

/// Takes pages and tables for `pages` pages; with `lock`, sees that `later` bytes more can be had.
///
/// # Errors
///
/// [`StartError::Memory`] or [`StartError::Locked`].
pub fn take(pages: usize, lock: bool, later: usize) -> Result<Arena, StartError> {
    let bytes = to_u64(pages).saturating_mul(to_u64(PAGE_SIZE));
    let wanted = Size(bytes.saturating_add(Arena::overhead_bytes(pages)));
    let mapping = sys::map_pages(pages, lock).map_err(|error| no_memory(wanted, &error))?;
    if !mapping.hugetlb {
        // Asked first: the kernel's own answer to too large a wish is to kill somebody.
        check_available(wanted)?;
    }
    if lock {
        // Though `lock_process` would lock them too: it does not say when a page could not be had.
        sys::lock_pages(mapping.pages)
            .map_err(|error| not_locked(wanted, bytes, limit(), &error))?;
    }
    let arena = Arena::new(mapping);
    if lock {
        lock_all(wanted, later)?;
    }
    tracing::info!(capacity = %Size(bytes), overhead = %Size(Arena::overhead_bytes(pages)),
        locked = lock, hugetlb = arena.hugetlb, "memory taken");
    Ok(arena)
}

/// Locks the whole process, and sees that it can grow by `later` bytes.
fn lock_all(wanted: Size, later: usize) -> Result<(), StartError> {
    sys::lock_process().map_err(|error| {
        // All that is mapped counts, and other threads map: so the most that there was, and whatever
        // the limit is, the kernel has found it to be too low.
        let peak = Size(wanted.0.max(mapped("VmPeak:")));
        not_locked(peak, u64::MAX, limit(), &error)
    })?;
    // From here on the limit meets each allocation, and one that fails ends the process with a signal.
    sys::try_map(later).map_err(|error| {
        let needed = Size(mapped("VmSize:").saturating_add(to_u64(later)));
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => locked(needed, limit()),
            _ => no_memory(needed, &error),
        }
    })
}

/// Sets what keeps the kernel from making this process wait for swap, or from killing it; gives back
/// what could not be set, and what that means.
///
/// Threads inherit it, so call it before there are any; those of the log are among them, and so the
/// words are the caller's to log.
#[must_use = "what could not be set is to be logged"]
pub fn protect() -> Vec<String> {
    let mut failures = Vec::new();
    if let Err(error) = sys::set_io_flusher() {
        failures.push(format!(
            "cannot set PR_SET_IO_FLUSHER (it takes CAP_SYS_RESOURCE): {error}; if this machine swaps \
             to a memory server, too, the two may wait for each other"
        ));
    }
    if let Err(error) = sys::spare_from_oom() {
        failures.push(format!(
            "cannot set oom_score_adj to -1000 (it takes CAP_SYS_RESOURCE): {error}; when memory runs \
             out, the kernel may end this server"
        ));
    }
    failures
}

fn no_memory(wanted: Size, error: &io::Error) -> StartError {
    StartError::Memory {
        wanted,
        reason: error.to_string(),
    }
}

/// Why `bytes` could not be locked, on the way to locking all that is `wanted`.
fn not_locked(wanted: Size, bytes: u64, limit: Option<u64>, error: &io::Error) -> StartError {
    match Errno::from_io_error(error) {
        Some(Errno::PERM) => locked(wanted, Some(0)),
        // Above the limit it is this, before any memory is looked for; memory that is short is AGAIN.
        Some(Errno::NOMEM) if limit.is_some_and(|limit| limit < bytes) => locked(wanted, limit),
        _ => no_memory(wanted, error),
    }
}

fn locked(wanted: Size, limit: Option<u64>) -> StartError {
    let limit = limit.map_or_else(|| "unlimited".to_owned(), |limit| Size(limit).to_string());
    StartError::Locked { wanted, limit }
}

/// The limit on locked memory, in bytes; `None`: there is none.
fn limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

/// What this process has mapped (`VmSize:`), or had at most (`VmPeak:`), in bytes.
fn mapped(key: &str) -> u64 {
    kib_of("/proc/self/status", key).unwrap_or(0)
}

/// Why threads could not be started: where all memory is locked, the limit on that may be the reason.
pub fn no_threads(lock: bool, stacks: u64, error: io::Error) -> StartError {
    let wanted = Size(mapped("VmSize:").saturating_add(stacks));
    let limited = lock && limit().is_some_and(|limit| limit < wanted.0);
    match Errno::from_io_error(&error) {
        Some(Errno::NOMEM | Errno::AGAIN) if limited => locked(wanted, limit()),
        _ => StartError::io("cannot start serving")(error),
    }
}

fn check_available(wanted: Size) -> Result<(), StartError> {
    for (what, available) in [
        ("this machine has", machine()),
        ("its cgroup has", cgroup()),
    ] {
        if let Some(available) = available.filter(|available| *available < wanted.0) {
            let reason = format!("{what} {} available", Size(available));
            return Err(StartError::Memory { wanted, reason });
        }
    }
    Ok(())
}

/// MemAvailable of /proc/meminfo, in bytes.
fn machine() -> Option<u64> {
    kib_of("/proc/meminfo", "MemAvailable:")
}

/// A line of a file that gives KiB, in bytes.
fn kib_of(path: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

/// What the limit of our own control group (version 2) leaves, in bytes; limits above are not looked at.
fn cgroup() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let number = |file: &str| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup{path}/{file}")).ok()?;
        text.trim().parse().ok()
    };
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

/// A life's number: random.
///
/// # Errors
///
/// The kernel's, if it has no random bytes.
pub fn random_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    let mut filled: usize = 0;
    while let Some(rest) = id.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled = filled.saturating_add(rustix::rand::getrandom(rest, flags)?);
    }
    // All zeroes stands for "none" on the wire.
    Ok(if id == [0; 16] { [1; 16] } else { id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_limit_forbids_exits_with_5_and_what_is_not_there_with_4() {
        let mib = |n: u64| n << 20;
        for (bytes, limit, errno, code) in [
            // Locking 4 MiB of pages on the way to 5 MiB.
            (mib(4), Some(mib(3)), Errno::NOMEM, 5),
            (mib(4), Some(mib(4)), Errno::NOMEM, 4),
            (mib(4), Some(mib(3)), Errno::AGAIN, 4),
            (mib(4), Some(mib(0)), Errno::PERM, 5),
            (mib(4), None, Errno::NOMEM, 4),
            // Locking the process: the limit was above what is wanted, and too low all the same.
            (u64::MAX, Some(mib(6)), Errno::NOMEM, 5),
            (u64::MAX, Some(mib(6)), Errno::AGAIN, 4),
            (u64::MAX, None, Errno::NOMEM, 4),
        ] {
            let error = not_locked(Size(mib(5)), bytes, limit, &errno.into());
            assert_eq!(
                error.exit_code(),
                code,
                "{bytes} {limit:?} {errno:?}: {error}"
            );
        }
    }
}
