// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From the kernel's first program to a guest in which scenarios can run, and the loop that runs them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use qemu_test_wire::{self as wire, Outcome, ToGuest, ToHost};
use rustix::mm::MlockAllFlags;
use rustix::mount::{mount, MountFlags};

use crate::guest::{disk, module, watch, Guest};
use crate::port::Host;
use crate::{scenarios, ROOT, SELF};

/// What PID 1 does; never returns. A failure ends PID 1, which the kernel answers with a panic, which
/// the harness takes for a crash: there is nobody else to tell.
pub fn as_init() -> ! {
    if let Err(error) = serve() {
        eprintln!("memsrv agent: {error:#}");
        let _ = fs::write("/dev/kmsg", format!("memsrv agent: {error:#}"));
        std::process::exit(1);
    }
    power_off()
}

fn serve() -> Result<()> {
    // Who waits for a page of its own from a server that only it can have started again waits for ever. Programs that
    // it starts are not bound by this.
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    rustix::mm::mlockall(all).context("mlockall")?;
    mount_kernel_file_systems()?;
    rustix::system::sethostname(b"guest").context("sethostname")?;
    load_drivers()?;
    mount_root()?;
    bring_up_network()?;
    let mut host = Host::open()?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    host.send(&ToHost::Ready(release.trim().to_owned()))?;
    loop {
        match host.receive()? {
            ToGuest::Run(name) => {
                let outcome = run(&name, &mut host);
                host.done(outcome)?;
            }
            ToGuest::PowerOff => return Ok(()),
            ToGuest::Answer(answer) => bail!("an answer to no question: {answer:?}"),
        }
    }
}

fn run(name: &str, host: &mut Host) -> Outcome {
    let mut outcome = Outcome {
        name: name.to_owned(),
        ..Outcome::default()
    };
    match scenarios::all().find(|entry| entry.name() == name) {
        None => outcome.error = Some(format!("there is no scenario {name}")),
        Some(entry) => {
            watch::begin();
            let mut guest = Guest::new(host);
            let ran = entry.run(&mut guest);
            let tidied = guest.tidy();
            outcome.figures = std::mem::take(&mut guest.figures);
            outcome.clean = tidied.is_ok();
            outcome.error = match (ran, tidied) {
                (Ok(()), Ok(())) => None,
                (Ok(()), Err(error)) => Some(format!("afterwards: {error:#}")),
                (Err(error), Ok(())) => Some(format!("{error:#}")),
                (Err(error), Err(after)) => Some(format!("{error:#}; and afterwards: {after:#}")),
            };
        }
    }
    if let Err(error) = watch::look(name) {
        let error = format!("{error:#}");
        outcome.error = Some(match outcome.error.take() {
            Some(first) => format!("{first}\n{error}"),
            None => error,
        });
    }
    outcome.taint = fs::read_to_string("/proc/sys/kernel/tainted")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u64::MAX);
    outcome
}

fn mount_kernel_file_systems() -> Result<()> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("debugfs", "/sys/kernel/debug"),
        ("tmpfs", "/tmp"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        fs::create_dir_all(place).with_context(|| format!("making {place}"))?;
        match mount(kind, place, kind, MountFlags::empty(), None) {
            // The kernel may have mounted /dev itself.
            Err(rustix::io::Errno::BUSY) => {}
            result => result.with_context(|| format!("mounting {kind} on {place}"))?,
        }
    }
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")
        .context("enabling the memory controller")
}

/// Loads what the harness put into /modules for every guest.
fn load_drivers() -> Result<()> {
    module::load_list("order", "")
}

fn mount_root() -> Result<()> {
    fs::create_dir_all(ROOT)?;
    let device = disk::by_serial("root", Duration::from_secs(60))?;
    mount(
        format!("/dev/{device}"),
        ROOT,
        "ext4",
        MountFlags::NOATIME,
        None,
    )
    .with_context(|| format!("mounting /dev/{device} on {ROOT}"))?;
    for place in ["proc", "sys", "dev", "tmp"] {
        let inside = format!("{ROOT}/{place}");
        mount(
            format!("/{place}"),
            &inside,
            "",
            MountFlags::BIND | MountFlags::REC,
            None,
        )
        .with_context(|| format!("binding /{place} into {ROOT}"))?;
    }
    mount(
        "tmpfs",
        format!("{ROOT}/run"),
        "tmpfs",
        MountFlags::empty(),
        None,
    )
    .context("mounting a tmpfs on /run")?;
    if !Path::new("/dev/fd").exists() {
        symlink("/proc/self/fd", "/dev/fd").context("linking /dev/fd")?;
    }
    Ok(())
}

fn bring_up_network() -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !Path::new("/sys/class/net/eth0").exists() {
        ensure!(Instant::now() < deadline, "no network card eth0 appeared");
        std::thread::sleep(Duration::from_millis(20));
    }
    let address = format!("{}/{}", wire::GUEST_ADDRESS, wire::PREFIX);
    for words in [
        &["link", "set", "lo", "up"][..],
        &["address", "add", &address, "dev", "eth0"],
        &["link", "set", "eth0", "up"],
    ] {
        let status = Command::new(SELF)
            .args(["run", "--root", "--", "/usr/sbin/ip"])
            .args(words)
            .status()
            .context("running ip")?;
        ensure!(status.success(), "ip {}: {status}", words.join(" "));
    }
    Ok(())
}

/// Switches the machine off.
pub fn power_off() -> ! {
    rustix::fs::sync();
    let error = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    eprintln!("memsrv agent: power off: {error:?}");
    std::process::exit(1);
}
