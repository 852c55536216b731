// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The guest's disks: found by serial number, swapped to, and their writes counted.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::program;
use crate::ROOT;

/// The kernel's name (`vdb`) of the disk with that serial number; waits for it to appear.
pub fn by_serial(serial: &str, patience: Duration) -> Result<String> {
    let deadline = Instant::now() + patience;
    loop {
        if let Ok(disks) = fs::read_dir("/sys/block") {
            for disk in disks.flatten() {
                let found = fs::read_to_string(disk.path().join("serial")).unwrap_or_default();
                let name = disk.file_name().to_string_lossy().into_owned();
                if found.trim() == serial && Path::new("/dev").join(&name).exists() {
                    return Ok(name);
                }
            }
        }
        ensure!(
            Instant::now() < deadline,
            "no disk with the serial number {serial} appeared"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Disk `swapINDEX`. What is said of it counts from the next `swapon`, also in a later scenario of the same guest.
fn said_to_rotate(index: usize, rotates: bool) -> Result<String> {
    let disk = by_serial(&format!("swap{index}"), Duration::from_secs(10))?;
    let path = format!("/sys/block/{disk}/queue/rotational");
    fs::write(&path, if rotates { "1" } else { "0" }).with_context(|| format!("writing {path}"))?;
    Ok(disk)
}

/// A swap area on a disk of its own.
#[derive(Clone, Debug)]
pub struct Swap {
    disk: String,
}

impl Swap {
    /// The area on disk `swapINDEX`, formatted and on. The disk is a virtio one, which the kernel takes for one that
    /// rotates: it reads ahead by place in the area instead of by address, and gives out places under one lock.
    pub fn on(index: usize, priority: i32) -> Result<Self> {
        Self::on_disk(&said_to_rotate(index, true)?, priority)
    }

    /// The same, of a disk that the kernel is told does not rotate.
    pub fn nonrotational(index: usize, priority: i32) -> Result<Self> {
        Self::on_disk(&said_to_rotate(index, false)?, priority)
    }

    /// So many MiB of the disk, formatted and on.
    pub fn part(index: usize, priority: i32, mib: u64) -> Result<Self> {
        let disk = said_to_rotate(index, true)?;
        let swap = Self { disk };
        let kib = (mib * 1024).to_string();
        program::run(None, &["/usr/sbin/mkswap", "-q", &swap.device(), &kib])?;
        swap.enable(priority)?;
        Ok(swap)
    }

    /// An area on the disk that the kernel calls `disk`, formatted and on.
    pub fn on_disk(disk: &str, priority: i32) -> Result<Self> {
        let swap = Self {
            disk: disk.to_owned(),
        };
        program::run(None, &["/usr/sbin/mkswap", "-q", &swap.device()])?;
        swap.enable(priority)?;
        Ok(swap)
    }

    /// Its device.
    pub fn device(&self) -> String {
        format!("/dev/{}", self.disk)
    }

    /// Its device's number, as `MAJOR:MINOR`.
    pub fn number(&self) -> Result<String> {
        let path = format!("/sys/block/{}/dev", self.disk);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        Ok(text.trim().to_owned())
    }

    /// Switches a formatted area on.
    pub fn enable(&self, priority: i32) -> Result<()> {
        let priority = priority.to_string();
        program::run(None, &["/usr/sbin/swapon", "-p", &priority, &self.device()]).map(drop)
    }

    /// Switches it off: the kernel reads everything back.
    pub fn off(&self) -> Result<f64> {
        Ok(program::run(None, &["/usr/sbin/swapoff", &self.device()])?.seconds)
    }

    /// Whether it is on.
    pub fn is_on(&self) -> Result<bool> {
        Ok(areas()?.contains(&self.device()))
    }

    /// Pages written to the disk since boot.
    pub fn pages_written(&self) -> Result<u64> {
        // Documentation/block/stat.rst of the kernel: the seventh number counts sectors written.
        self.pages(6)
    }

    /// Pages read from the disk since boot.
    pub fn pages_read(&self) -> Result<u64> {
        // The third number counts sectors read.
        self.pages(2)
    }

    fn pages(&self, place: usize) -> Result<u64> {
        let path = format!("/sys/block/{}/stat", self.disk);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let sectors: u64 = text
            .split_whitespace()
            .nth(place)
            .and_then(|word| word.parse().ok())
            .with_context(|| format!("{path} says {text:?}"))?;
        Ok(sectors / 8)
    }
}

/// Switches every area off.
pub fn all_off() -> Result<()> {
    for device in areas()? {
        program::run(None, &["/usr/sbin/swapoff", &device])?;
    }
    Ok(())
}

/// The devices that are swapped to, as a program in the guest's root names them.
fn areas() -> Result<Vec<String>> {
    let swaps = fs::read_to_string("/proc/swaps").context("reading /proc/swaps")?;
    Ok(swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .map(|path| path.strip_prefix(ROOT).unwrap_or(path).to_owned())
        .collect())
}
