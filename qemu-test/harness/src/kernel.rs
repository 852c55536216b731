// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The kernels that guests can boot, and how they differ to the harness.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use qemu_test_wire::Purpose;

use crate::tree::Tree;

/// TAINT_OOT_MODULE and TAINT_UNSIGNED_MODULE, include/linux/panic.h of the kernel.
const OUT_OF_TREE: u64 = 1 << 12;
const UNSIGNED: u64 = 1 << 13;
/// TAINT_CPU_OUT_OF_SPEC, which the kernel sets if it knows the name of what `clearcpuid` takes away.
const OTHER_PROCESSOR: u64 = 1 << 2;

/// TCG's instruction for CRC-32C, which is among SSE4.2's, goes bit by bit. Where time is measured, the kernel uses its table,
/// which is nearer to what a processor takes. (Programs have SSE4.2: some rely on it.)
const NO_CRC32C: &str = "clearcpuid=sse4_2";

/// A kernel complaint is a panic, a panic ends QEMU, and slow is not dead (TCG).
const PARAMETERS: &str = "console=ttyS0 rootfstype=ramfs loglevel=7 panic=-1 oops=panic \
    panic_on_warn=1 softlockup_panic=1 hung_task_panic=1 \
    sysctl.kernel.watchdog_thresh=60 sysctl.vm.panic_on_oom=0 \
    tsc=nowatchdog random.trust_cpu=on";

/// Which kernel the guests boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// Debian's own.
    #[default]
    Stock,
    /// The same version with KASAN, lockdep and the like (qemu-test/env/kernel-debug.sh).
    Debug,
}

impl Kernel {
    /// The kernel's image.
    pub fn image(self, tree: &Tree) -> Result<PathBuf> {
        tree.file(match self {
            Self::Stock => "kernel/vmlinuz",
            Self::Debug => "kernel-debug/vmlinuz",
        })
    }

    /// The directory of its modules; in the debug kernel everything is built in.
    pub fn modules(self, tree: &Tree) -> Result<Option<PathBuf>> {
        match self {
            Self::Stock => tree.file("kernel/modules").map(Some),
            Self::Debug => Ok(None),
        }
    }

    /// memsrv.ko for it, below build/.
    pub fn module(self) -> &'static str {
        match self {
            Self::Stock => "test/memsrv.ko",
            Self::Debug => "debug/memsrv.ko",
        }
    }

    /// Where the logs go, below build/.
    pub fn logs(self) -> &'static str {
        match self {
            Self::Stock => "test-logs",
            Self::Debug => "test-logs-debug",
        }
    }

    /// Its command line. Where instructions are counted, the clock runs through hours while the host reads from a
    /// disk: no task hangs there.
    pub fn parameters(self, purpose: Purpose) -> String {
        let own = match (self, purpose) {
            (_, Purpose::Count) => "sysctl.kernel.hung_task_timeout_secs=0",
            (Self::Stock, _) => {
                "sysctl.kernel.hung_task_timeout_secs=300 rcupdate.rcu_cpu_stall_timeout=180"
            }
            (Self::Debug, _) => {
                "sysctl.kernel.hung_task_timeout_secs=900 rcupdate.rcu_cpu_stall_timeout=600"
            }
        };
        let processor = match purpose {
            Purpose::Bench => NO_CRC32C,
            Purpose::Test | Purpose::Count => "",
        };
        format!("{PARAMETERS} {own} {processor}")
    }

    /// QEMU's name of the machine. Of the older, the usual one, ACPI makes each device's table of interrupts
    /// in a loop, which takes the debug kernel half a minute for each.
    pub fn machine(self) -> &'static str {
        match self {
            Self::Stock => "pc",
            Self::Debug => "q35",
        }
    }

    /// RAM for a guest whose scenarios are to have `mib`. What KASAN (an eighth for its shadow, and what it
    /// keeps of freed objects), kmemleak and the larger kernel take comes on top.
    pub fn memory_mib(self, mib: u32) -> u32 {
        match self {
            Self::Stock => mib,
            Self::Debug => mib + mib / 4 + 160,
        }
    }

    /// How long something may take that may take `limit` with the stock kernel.
    pub fn patience(self, limit: Duration) -> Duration {
        match self {
            Self::Stock => limit,
            Self::Debug => limit * 4,
        }
    }

    /// The taint that its command line leaves.
    pub fn taint(self, purpose: Purpose) -> u64 {
        match purpose {
            Purpose::Bench => OTHER_PROCESSOR,
            Purpose::Test | Purpose::Count => 0,
        }
    }

    /// The taint that the module leaves; without CONFIG_MODULE_SIG nothing counts as unsigned.
    pub fn module_taint(self) -> u64 {
        match self {
            Self::Stock => OUT_OF_TREE | UNSIGNED,
            Self::Debug => OUT_OF_TREE,
        }
    }
}
