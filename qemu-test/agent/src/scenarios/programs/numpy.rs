// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Python with numpy: relaxation on a grid of 18 MiB, of which it has two or three at a time, swept from end to end,
//! and a sort of it.

use anyhow::Result;

use super::{write, Printing, Ran};
use crate::guest::Cgroup;

const SCRIPT: &str = "\
import numpy as np
n = 1536
random = np.arange(n * n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
a = (random >> np.uint64(40)).astype(np.float64).reshape(n, n)
del random
b = np.zeros_like(a)
for sweep in range(4):
    b[1:-1, 1:-1] = 0.25 * (a[:-2, 1:-1] + a[2:, 1:-1] + a[1:-1, :-2] + a[1:-1, 2:])
    a, b = b, a
print(float(a.sum()).hex(), float(np.sort(a, axis=None)[::1000].sum()).hex())
";

const NUMPY: Printing = Printing {
    name: "numpy",
    words: &["/usr/bin/python3", "/srv/relax.py"],
};

/// Its script, and what that prints.
pub fn prepare() -> Result<()> {
    write("/srv/relax.py", SCRIPT)?;
    NUMPY.prepare()
}

/// Runs it.
pub fn run(cgroup: &Cgroup) -> Result<Ran> {
    NUMPY.run(cgroup)
}
