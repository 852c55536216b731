// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Kernel modules in the guest: drivers at boot, and memsrv.ko with its statistics.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::io::Errno;

/// The module under test.
pub const FILE: &str = "/memsrv.ko";
const STATS: &str = "/sys/kernel/debug/memsrv/stats";
/// include/uapi/linux/module.h of the kernel: the file is compressed, the kernel unpacks it.
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

/// Loads the drivers that /modules/LIST names, the last with parameters.
pub fn load_list(list: &str, parameters: &str) -> Result<()> {
    let path = format!("/modules/{list}");
    let order = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let mut names = order.lines().peekable();
    while let Some(name) = names.next() {
        let last = names.peek().is_none();
        load_file(
            &format!("/modules/{name}"),
            if last { parameters } else { "" },
        )
        .with_context(|| format!("loading {name}"))?;
    }
    Ok(())
}

/// Loads a module file with parameters.
fn load_file(path: &str, parameters: &str) -> Result<()> {
    insert(path, parameters)?.with_context(|| format!("finit_module of {path} {parameters}"))
}

fn insert(path: &str, parameters: &str) -> Result<Result<(), Errno>> {
    let file = File::open(path).with_context(|| format!("opening {path}"))?;
    let compressed = ["xz", "zst", "gz"].iter().any(|&end| {
        Path::new(path)
            .extension()
            .is_some_and(|extension| extension == end)
    });
    let flags = if compressed {
        MODULE_INIT_COMPRESSED_FILE
    } else {
        0
    };
    let parameters = CString::new(parameters).context("a module parameter with a zero byte")?;
    Ok(
        match rustix::system::finit_module(&file, &parameters, flags) {
            Err(Errno::EXIST) => Ok(()),
            result => result,
        },
    )
}

/// insmod memsrv.ko: the errno if the kernel refuses it.
pub fn insmod(parameters: &str) -> Result<Result<(), Errno>> {
    insert(FILE, parameters)
}

/// insmod of another file of the module.
pub fn insmod_file(path: &str, parameters: &str) -> Result<Result<(), Errno>> {
    insert(path, parameters)
}

/// rmmod memsrv: the errno if the kernel refuses it (EAGAIN: in use).
pub fn rmmod() -> Result<(), Errno> {
    rustix::system::delete_module(c"memsrv", libc::O_NONBLOCK)
}

/// Unloads another module.
pub fn unload(name: &str) -> Result<()> {
    let c_name = CString::new(name).context("a module's name with a zero byte")?;
    rustix::system::delete_module(&c_name, libc::O_NONBLOCK)
        .with_context(|| format!("unloading {name}"))
}

/// Whether memsrv is loaded.
pub fn is_loaded() -> bool {
    Path::new("/sys/module/memsrv").exists()
}

/// The module's statistics, by key.
pub fn stats() -> Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string(STATS).with_context(|| format!("reading {STATS}"))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(char::is_whitespace)?;
            Some((
                key.trim_end_matches(':').to_owned(),
                value.trim().parse().ok()?,
            ))
        })
        .collect())
}

/// Writes a word to the module's control file.
pub fn control(word: &str) -> std::io::Result<()> {
    fs::write("/sys/kernel/debug/memsrv/control", word)
}

/// A statistic that is no number.
pub fn text(key: &str) -> Result<String> {
    let stats = fs::read_to_string(STATS).with_context(|| format!("reading {STATS}"))?;
    stats
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .map(str::to_owned)
        .with_context(|| format!("the module's statistics have no {key}"))
}

/// A histogram of the statistics: how many fell below 1, 2, 4, 8, ... microseconds.
pub fn histogram(key: &str) -> Result<Vec<u64>> {
    let text = fs::read_to_string(STATS).with_context(|| format!("reading {STATS}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .with_context(|| format!("the module's statistics have no {key}"))?;
    line.split_whitespace()
        .map(|word| word.parse().with_context(|| format!("{key} says {line:?}")))
        .collect()
}

/// The upper bound, in microseconds, of what `part` of a hundred took.
pub fn percentile(histogram: &[u64], part: u64) -> u64 {
    let wanted = histogram.iter().sum::<u64>() * part / 100;
    let mut seen = 0;
    let mut bound = 1;
    for count in histogram {
        seen += count;
        if seen > wanted {
            break;
        }
        bound *= 2;
    }
    bound
}
