// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The guest's initramfs: the agent, the module under test, memsrvctl, and the drivers for the disks
//! and the network card, as a cpio archive (the kernel's Documentation/driver-api/early-userspace/
//! buffer-format.rst).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use qemu_test_wire::Purpose;

use crate::tree::Tree;

/// Modules of the test kernel that the guest needs; what is built in is not in modules.dep. Loss and delay
/// are netem's, a narrow link tbf's, which the machine that we run on may lack; ss(8) asks tcp_diag what a socket sends with.
const DRIVERS: &[&str] = &[
    "virtio_blk",
    "virtio_net",
    "sch_netem",
    "sch_tbf",
    "tcp_diag",
];

/// What memsrv is compared with: loaded when asked for, each from its own list.
const CONTENDERS: &[&str] = &["nbd", "brd", "zram", "nvme_tcp", "nvmet_tcp"];

/// What makes a link narrow, both ways: loaded when asked for.
const SHAPE: &[&str] = &["sch_ingress", "cls_matchall", "act_mirred", "ifb"];

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writes the archive for a machine to `place`.
pub fn write(tree: &Tree, purpose: Purpose, place: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for name in ["dev", "proc", "sys", "tmp", "newroot", "modules"] {
        archive.entry(name, DIRECTORY, (0, 0), &[])?;
    }
    archive.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[])?;
    archive.file("init", PROGRAM, &tree.file("qemu-test-agent")?)?;
    for (name, mode, built) in [
        ("memsrv.ko", PLAIN, tree.kernel.module()),
        ("memsrvctl", PROGRAM, "memsrvctl"),
    ] {
        if let Some(path) = tree.optional(built) {
            archive.file(name, mode, &path)?;
        }
    }
    let built_apart = tree.kernel.modules(tree)?;
    let modules = built_apart.as_deref();
    archive.drivers("order", modules, DRIVERS)?;
    if purpose == Purpose::Count {
        archive.file("memsrvd", PROGRAM, &tree.file("memsrvd")?)?;
    }
    if purpose != Purpose::Test {
        for contender in CONTENDERS {
            archive.drivers(contender, modules, &[contender])?;
        }
        archive.drivers("shape", modules, SHAPE)?;
    }
    archive.entry("TRAILER!!!", 0, (0, 0), &[])?;
    fs::write(place, archive.bytes).with_context(|| format!("writing {}", place.display()))
}

/// Drivers and what they depend on, in the order of loading.
fn drivers(modules: &Path, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let dependencies = modules.join("modules.dep");
    let text = fs::read_to_string(&dependencies)
        .with_context(|| format!("reading {}", dependencies.display()))?;
    let table: BTreeMap<String, (&str, &str)> = text
        .lines()
        .filter_map(|line| {
            let (path, needs) = line.split_once(':')?;
            let file = path.rsplit('/').next()?;
            Some((file.split('.').next()?.replace('-', "_"), (path, needs)))
        })
        .collect();
    let mut order: Vec<PathBuf> = Vec::new();
    for driver in wanted {
        let Some((path, needs)) = table.get(*driver) else {
            continue;
        };
        // modules.dep(5): what a module needs comes after it, the innermost last.
        for path in needs.split_whitespace().rev().chain([*path]) {
            let path = modules.join(path);
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    /// Drivers that are in it.
    names: BTreeSet<String>,
}

impl Archive {
    /// The files of these drivers, and in `modules/LIST` their names in the order of loading.
    fn drivers(&mut self, list: &str, modules: Option<&Path>, wanted: &[&str]) -> Result<()> {
        let mut order = String::new();
        for path in modules.map_or(Ok(Vec::new()), |modules| drivers(modules, wanted))? {
            let name = path
                .file_name()
                .context("a driver without a name")?
                .to_string_lossy();
            let place = format!("modules/{name}");
            if self.names.insert(place.clone()) {
                self.file(&place, PLAIN, &path)?;
            }
            order.push_str(&name);
            order.push('\n');
        }
        self.entry(&format!("modules/{list}"), PLAIN, (0, 0), order.as_bytes())
    }

    fn file(&mut self, name: &str, mode: u32, from: &Path) -> Result<()> {
        let data = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.entry(name, mode, (0, 0), &data)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> Result<()> {
        self.entries += 1;
        let Ok(size) = u32::try_from(data.len()) else {
            bail!("{name} is too large for a cpio archive");
        };
        let name_size = u32::try_from(name.len() + 1)?;
        // "070701", then inode, mode, uid, gid, links, mtime, size, device, special device, name's
        // length, checksum: eight hexadecimal digits each.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        write!(self.bytes, "070701")?;
        for field in fields {
            write!(self.bytes, "{field:08x}")?;
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        while self.bytes.len() % 4 != 0 {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_documented_bytes() {
        let mut archive = Archive::default();
        archive.entry("a", PLAIN, (0, 0), b"xyz").unwrap();
        let text = String::from_utf8(archive.bytes).unwrap();
        assert_eq!(
            text,
            "07070100000001000081a400000000000000000000000100000000000000030000000000000000\
             00000000000000000000000200000000a\0xyz\0"
        );
    }

    #[test]
    fn what_a_driver_needs_is_loaded_first() {
        let directory = std::env::temp_dir().join(format!("qemu-test-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join("modules.dep"),
            "k/virtio_net.ko.xz: k/net_failover.ko.xz k/failover.ko.xz\nk/failover.ko.xz:\n",
        )
        .unwrap();
        let order = drivers(&directory, DRIVERS).unwrap();
        let names: Vec<_> = order
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap())
            .collect();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(
            names,
            ["failover.ko.xz", "net_failover.ko.xz", "virtio_net.ko.xz"]
        );
    }
}
