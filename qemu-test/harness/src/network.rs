// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A network namespace of our own, and in it the tap device that the guest is behind, and for a while that of a second
//! guest.

use std::process::Command;

use anyhow::{ensure, Context, Result};
use qemu_test_wire as wire;
use rustix::thread::UnshareFlags;

/// The tap device's name, inside the namespace.
pub const TAP: &str = "tap0";
/// That of a second guest.
pub const SECOND_TAP: &str = "tap1";

/// Goes on in a new network namespace, with loopback and the tap device up.
///
/// It has no name and belongs to this thread and what that starts: when the last of them ends, so does it.
pub fn enter_own_namespace() -> Result<()> {
    #[expect(
        deprecated,
        reason = "what is unsafe about it concerns open files, not the network"
    )]
    rustix::thread::unshare(UnshareFlags::NEWNET)
        .context("making a network namespace, which takes root")?;
    plain_congestion_control()?;
    ip(&["link", "set", "lo", "up"])?;
    ip(&["tuntap", "add", TAP, "mode", "tap"]).context("no tap device: is /dev/net/tun there?")?;
    // So that one address can go without the others.
    let knob = format!("/proc/sys/net/ipv4/conf/{TAP}/promote_secondaries");
    std::fs::write(&knob, "1").with_context(|| format!("writing to {knob}"))?;
    for own in [wire::HOST_ADDRESS, wire::MIRROR_ADDRESS] {
        address("add", own)?;
    }
    ip(&["link", "set", TAP, "up"])
}

/// Adds an address of ours ("add"), or takes it away ("delete"): who has connections to it hears nothing
/// any more, not even that they are gone.
pub fn address(verb: &str, own: &str) -> Result<()> {
    let address = format!("{own}/{}", wire::PREFIX);
    ip(&["address", verb, &address, "dev", TAP])
}

/// The way between the guest and a second one; it ends with the value.
///
/// Each has its own tap device, and the host forwards between them and answers in each for who is behind the other, so
/// that the second guest is just one more address of the first one's network. A bridge would be a module that not every
/// host has, and would take the addresses from the usual tap device.
pub struct SecondTap(());

impl SecondTap {
    /// Makes it.
    pub fn up() -> Result<Self> {
        ip(&["tuntap", "add", SECOND_TAP, "mode", "tap"])?;
        let made = Self(());
        ip(&["link", "set", SECOND_TAP, "up"])?;
        ip(&["route", "add", wire::TARGET_ADDRESS, "dev", SECOND_TAP])?;
        for tap in [TAP, SECOND_TAP] {
            forward(tap, true)?;
        }
        Ok(made)
    }
}

impl Drop for SecondTap {
    fn drop(&mut self) {
        // The namespace is about to end, or the next one to be made says what is wrong.
        let _ = ip(&["link", "delete", SECOND_TAP]);
        let _ = forward(TAP, false);
    }
}

/// Whether what comes from a device goes on to others, and whether it is told that we are these others.
fn forward(tap: &str, on: bool) -> Result<()> {
    for knob in ["forwarding", "proxy_arp"] {
        let knob = format!("/proc/sys/net/ipv4/conf/{tap}/{knob}");
        let value = if on { "1" } else { "0" };
        std::fs::write(&knob, value).with_context(|| format!("writing to {knob}"))?;
    }
    Ok(())
}

/// The kernel's usual congestion control in this namespace, whatever the machine's default is.
///
/// A machine that prefers BBR paces each page by the rate of the few before it, so that a fault waits
/// milliseconds for nothing; what is measured here would be that, and differ from machine to machine.
fn plain_congestion_control() -> Result<()> {
    let knob = "/proc/sys/net/ipv4/tcp_congestion_control";
    // Cubic may be a module that is not loaded; Reno is always there.
    std::fs::write(knob, "cubic")
        .or_else(|_| std::fs::write(knob, "reno"))
        .with_context(|| format!("writing to {knob}"))
}

/// Resets all connections to a port of an address of ours, both ends' buffers lost: the peer gets an RST in
/// the midst of whatever it was sending or receiving. Says how many there were.
pub fn reset_connections(own: &str, port: u16) -> Result<usize> {
    let place = format!("{own}:{port}");
    // -K needs CONFIG_INET_DIAG_DESTROY; without it, it does nothing and says nothing.
    let words = [
        "-K",
        "-H",
        "-t",
        "-n",
        "state",
        "established",
        "src",
        &place,
    ];
    Ok(run("ss", &words)?.lines().count())
}

/// Runs ip(8).
pub fn ip(words: &[&str]) -> Result<()> {
    run("ip", words).map(drop)
}

/// Runs a program of iproute2; what it printed.
fn run(program: &str, words: &[&str]) -> Result<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(words)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .with_context(|| format!("running {program} (of iproute2)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        words.join(" "),
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
