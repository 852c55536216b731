// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the guest's kernel wrote on its console, and whether any of it is a complaint.

use std::fs;
use std::path::{Path, PathBuf};

/// Words that a healthy kernel does not print.
const COMPLAINTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops:",
    "Call Trace:",
    "blocked for more than",
    "soft lockup",
    "rcu: INFO: rcu_",
    "Kernel panic",
    "general protection fault",
    "Read-error on swap-device",
    "Write-error on swap-device",
    "I/O error",
    "Out of memory",
    "bad page",
    "list_add corruption",
    "list_del corruption",
    "scheduling while atomic",
    "use-after-free",
    "refcount_t:",
    // The debug kernel's; lockdep's and KASAN's own begin with "WARNING:" and "BUG:".
    "BUG kmalloc",
    "INFO: trying to register non-static key",
    "turning off the locking correctness validator",
    "INFO: lockdep is turned off",
    "ODEBUG:",
    "new suspected memory leaks",
    "Kernel memory leak detector disabled",
    "page dumped because",
    "UBSAN:",
];

/// The console's log file.
pub struct Console {
    path: PathBuf,
}

impl Console {
    /// A console whose output QEMU writes to `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// How much there is so far.
    pub fn length(&self) -> usize {
        fs::metadata(&self.path).map_or(0, |data| usize::try_from(data.len()).unwrap_or(usize::MAX))
    }

    /// What came after the first `from` bytes.
    pub fn text_from(&self, from: usize) -> String {
        let bytes = fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }
}

/// The complaints in it, at most a few.
///
/// Where a program may be killed at its cgroup's limit, the trace that the kernel shows then is none.
pub fn complaints(text: &str, kills_allowed: bool) -> Vec<String> {
    let mut excused = false;
    let lines = text.lines().filter(|line| {
        excused |= kills_allowed && line.contains("invoked oom-killer:");
        if excused && line.contains("Call Trace:") {
            excused = false;
            return false;
        }
        // The report's last line: what comes after it is another's.
        excused &= !line.contains("Memory cgroup out of memory:");
        is_complaint(line)
    });
    lines.take(8).map(|line| line.trim().to_owned()).collect()
}

/// Whether the guest died of an instruction that was not there: of a breakpoint where its own dump of the
/// memory shows none.
///
/// The kernel puts breakpoints over instructions while it rewrites them (ftrace, static branches), takes them
/// away, and then has every processor synchronise. Under QEMU's emulation with several threads a
/// processor may go on with what it had translated before that, and nobody knows its breakpoint any more.
pub fn is_stale_breakpoint(text: &str) -> bool {
    let Some((_, oops)) = text.split_once("Oops: int3:") else {
        return false;
    };
    // The byte in <> is the one at RIP, behind the breakpoint's.
    let code = oops.lines().find_map(|line| line.split_once("Code: "));
    let before = code.and_then(|(_, bytes)| bytes.split_once('<'));
    before.is_some_and(|(bytes, _)| !bytes.trim_end().ends_with("cc"))
}

fn is_complaint(line: &str) -> bool {
    COMPLAINTS.iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::{complaints, is_complaint, is_stale_breakpoint};

    #[test]
    fn a_breakpoint_that_is_there_is_the_kernels_own_fault() {
        let oops = |bytes: &str| {
            format!("x\n[ 18.0] Oops: int3: 0000 [#1] SMP\n[ 18.1] RIP: 0010:f\n[ 18.2] Code: {bytes}\n")
        };
        assert!(is_stale_breakpoint(&oops("0f 1f 40 d6 0f <1f> 44 00")));
        assert!(!is_stale_breakpoint(&oops("0f 1f 40 d6 cc <1f> 44 00")));
        assert!(!is_stale_breakpoint("[ 1.0] Oops: 0000\nCode: 0f <1f>"));
        assert!(!is_stale_breakpoint("Oops: int3: and no more"));
    }

    #[test]
    fn of_a_kill_at_a_limit_only_its_own_trace_is_excused() {
        let killed =
            "[ 1.0] sort invoked oom-killer: gfp_mask=0xcc0\n[ 1.1] CPU: 1\n[ 1.2] Call Trace:\n\
            [ 1.3]  <TASK>\n[ 1.4] Memory cgroup out of memory: Killed process 7 (sort)\n";
        assert_eq!(complaints(killed, true), [""; 0]);
        assert_eq!(complaints(killed, false), ["[ 1.2] Call Trace:"]);
        let other = format!("{killed}[ 2.0] BUG: x\n[ 2.1] Call Trace:\n{killed}");
        assert_eq!(
            complaints(&other, true),
            ["[ 2.0] BUG: x", "[ 2.1] Call Trace:"]
        );
        let without_trace = killed.replace("Call Trace", "<TASK>") + "[ 2.1] Call Trace:\n";
        assert_eq!(complaints(&without_trace, true), ["[ 2.1] Call Trace:"]);
        let of_all =
            "[ 1.0] sort invoked oom-killer: x\n[ 1.4] Out of memory: Killed process 7 (sort)\n";
        assert_eq!(complaints(of_all, true).len(), 1);
    }

    #[test]
    fn complaints_are_told_from_chatter() {
        assert!(is_complaint(
            "[    9.1] WARNING: CPU: 0 PID: 1 at mm/zswap.c:1 zswap_store"
        ));
        assert!(is_complaint("[    9.1] BUG: unable to handle page fault"));
        assert!(is_complaint(
            "[   99.1] INFO: task a:1 blocked for more than 120 seconds."
        ));
        assert!(!is_complaint(
            "[    0.0] Command line: panic_on_warn=1 oops=panic"
        ));
        assert!(!is_complaint(
            "[    0.0] memsrv: loading out-of-tree module taints kernel."
        ));
    }
}
