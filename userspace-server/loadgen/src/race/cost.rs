// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a process has used: processor time and memory, as the kernel tells it in /proc.

use std::fs;
use std::io;

use serde::Serialize;

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Bytes in RAM.
    pub rss_bytes: u64,
    /// Bytes that are locked there.
    pub locked_bytes: u64,
}

/// Processor time of all threads of a process, in user space and in the kernel, in microseconds.
///
/// # Errors
///
/// There is no such process, or no /proc.
pub fn cpu_us(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&text).ok_or(io::ErrorKind::InvalidData)?;
    let each = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
    Ok(ticks.saturating_mul(each))
}

/// What a process holds now.
///
/// # Errors
///
/// There is no such process, or no /proc.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name| kib(&text, name).map(|kib| kib.saturating_mul(1024));
    let fields = field("VmRSS:").zip(field("VmLck:"));
    let (rss_bytes, locked_bytes) = fields.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Memory {
        rss_bytes,
        locked_bytes,
    })
}

/// `utime` + `stime`, fields 14 and 15. The second, a name in brackets, may have blanks and brackets in it.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user.saturating_add(system))
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a ) (b) S 1 7 7 0 -1 4194560 1 2 3 4 55 66 7 8 20 0 1 0";
        assert_eq!(ticks(stat), Some(121));
        let status = "Name:\tx\nVmLck:\t     512 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kib(status, "VmRSS:"), Some(1024));
        assert_eq!(kib(status, "VmLck:"), Some(512));
        assert_eq!(kib(status, "VmNo:"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let own = std::process::id();
        assert!(memory(own).unwrap().rss_bytes > 100_000);
        assert!(cpu_us(own).is_ok());
        assert!(cpu_us(u32::MAX).is_err());
    }
}
