// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A network namespace of our own, and in it the tap device that the guest is behind.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use qemu_test_wire as wire;

/// The tap device's name, inside the namespace.
pub const TAP: &str = "tap0";
const MARK: &str = "QEMU_TEST_INSIDE_NAMESPACE";

/// Goes on in a new network namespace, with loopback and the tap device up.
///
/// It has no name and belongs to this process tree only: when the last process ends, so does it.
pub fn enter_own_namespace() -> Result<()> {
    if std::env::var_os(MARK).as_deref() != Some(OsStr::new(&std::process::id().to_string())) {
        let own = std::env::current_exe().context("finding this program's own file")?;
        // `unshare` executes us in its place, so the pid stays.
        let error = Command::new("unshare")
            .arg("--net")
            .arg(own)
            .args(std::env::args_os().skip(1))
            .env(MARK, std::process::id().to_string())
            .exec();
        return Err(error).context("running unshare (of util-linux), which must be root");
    }
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
