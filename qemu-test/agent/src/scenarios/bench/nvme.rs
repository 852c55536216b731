// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! NVMe/TCP, both ends of it: the kernel's target on a RAM disk of a second guest, and its initiator in the first.
//!
//! The files written here are all of an interface of the kernel (drivers/nvme/target/configfs.c, and nvmf_tokens in
//! drivers/nvme/host/fabrics.c), so that neither nvmetcli nor nvme-cli is needed.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use qemu_test_wire::{Other, PREFIX, TARGET_ADDRESS};
use rustix::mount::{mount, MountFlags};

use super::contender::ROOM_MIB;
use super::server::Server;
use crate::guest::{module, poll, program, Guest};
use crate::SELF;

/// The subsystem's name.
const SUBSYSTEM: &str = "nqn.2026-01.test.memsrv:ram";
/// The initiator's name, before its id.
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:";
const HOST_ID: &str = "6d656d73-7276-4000-8000-000000000001";
const CONFIGFS: &str = "/sys/kernel/config";
const CONTROLLERS: &str = "/sys/class/nvme";

/// What a second guest does: from here on it serves, until it is switched off.
pub fn target(_: &mut Guest) -> Result<()> {
    take_address()?;
    module::load_list("brd", &format!("rd_nr=1 rd_size={}", ROOM_MIB * 1024))?;
    module::load_list("nvmet_tcp", "")?;
    mount("configfs", CONFIGFS, "configfs", MountFlags::empty(), None)
        .context("mounting configfs")?;
    let subsystem = format!("{CONFIGFS}/nvmet/subsystems/{SUBSYSTEM}");
    let port = format!("{CONFIGFS}/nvmet/ports/1");
    let service = Other::Nvme.port().to_string();
    configure(&subsystem, &[("attr_allow_any_host", "1")])?;
    let namespace = [("device_path", "/dev/ram0"), ("enable", "1")];
    configure(&format!("{subsystem}/namespaces/1"), &namespace)?;
    let listener = [
        ("addr_trtype", "tcp"),
        ("addr_adrfam", "ipv4"),
        ("addr_traddr", TARGET_ADDRESS),
        ("addr_trsvcid", &service),
    ];
    configure(&port, &listener)?;
    // It listens from then on.
    symlink(&subsystem, format!("{port}/subsystems/{SUBSYSTEM}")).context("making it listen")?;
    // It ends with the machine, as the target does.
    std::mem::forget(Server::start(false, &[SELF, "pong", &pong()], &pong())?);
    Ok(())
}

/// The floor: pings to the second guest, so many. How slow that is by being emulated is in this, and in no other floor.
pub fn floor(pings: usize) -> Result<Vec<u64>> {
    crate::pong::ping(&pong(), pings)
}

/// Where the second guest answers pings.
fn pong() -> String {
    format!("{TARGET_ADDRESS}:{}", Other::Pong.port())
}

/// Every guest comes up with the first one's address; here it is behind a tap device of its own, and no other's.
fn take_address() -> Result<()> {
    let address = format!("{TARGET_ADDRESS}/{PREFIX}");
    for words in [&["flush"][..], &["add", &address]] {
        let words = [&["/usr/sbin/ip", "address"], words, &["dev", "eth0"]].concat();
        program::run(None, &words)?;
    }
    Ok(())
}

/// Makes a directory of configfs, and writes to its files.
fn configure(directory: &str, values: &[(&str, &str)]) -> Result<()> {
    fs::create_dir(directory).with_context(|| format!("making {directory}"))?;
    for (name, value) in values {
        let path = format!("{directory}/{name}");
        fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
    }
    Ok(())
}

/// Connects to the target, with the kernel's usual number of queues; the name of the disk.
pub fn connect() -> Result<String> {
    module::load_list("nvme_tcp", "")?;
    let port = Other::Nvme.port();
    // Who loses its target fails soon, and who is slow on a busy machine has not lost it: usual are 600 s and 5.
    let words = format!(
        "transport=tcp,traddr={TARGET_ADDRESS},trsvcid={port},nqn={SUBSYSTEM},\
         hostnqn={HOST}{HOST_ID},hostid={HOST_ID},ctrl_loss_tmo=20,keep_alive_tmo=30"
    );
    let mut fabrics = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/nvme-fabrics")
        .context("opening /dev/nvme-fabrics")?;
    fabrics
        .write_all(words.as_bytes())
        .with_context(|| format!("connecting: {words}"))?;
    let mut answer = String::new();
    fabrics
        .read_to_string(&mut answer)
        .context("reading which controller that made")?;
    // "instance=0,cntlid=1"
    let instance = answer
        .trim()
        .strip_prefix("instance=")
        .and_then(|rest| rest.split(',').next())
        .with_context(|| format!("/dev/nvme-fabrics says {answer:?}"))?;
    let disk = format!("nvme{instance}n1");
    // The namespaces are looked for when the controller is there.
    poll(&format!("a disk {disk}"), Duration::from_secs(60), || {
        Ok(Path::new("/dev").join(&disk).exists())
    })?;
    Ok(disk)
}

/// Ends all connections to the target.
pub fn disconnect() -> Result<()> {
    let mut ended = 0;
    for controller in fs::read_dir(CONTROLLERS).context("listing NVMe controllers")? {
        let controller = controller?.path();
        let subsystem = fs::read_to_string(controller.join("subsysnqn")).unwrap_or_default();
        if subsystem.trim() == SUBSYSTEM {
            // It returns when the controller is gone.
            fs::write(controller.join("delete_controller"), "1")
                .with_context(|| format!("deleting {}", controller.display()))?;
            ended += 1;
        }
    }
    ensure!(ended > 0, "no controller of {SUBSYSTEM} is there");
    Ok(())
}
