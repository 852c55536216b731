// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! insmod that must fail: the right errno, and one line in the kernel log that says what and what to do.

use anyhow::{ensure, Context, Result};
use qemu_test_wire::{Fake, HOST_ADDRESS};
use rustix::io::Errno;

use crate::guest::{module, Guest};

fn refused(guest: &mut Guest, parameters: &str, errno: Errno, says: &str) -> Result<()> {
    let lines = guest.insmod_fails(parameters, errno)?;
    // The kernel's own lines about taint name the module too.
    let lines: Vec<_> = lines
        .into_iter()
        .filter(|line| !line.contains("taint") && !line.contains("signature"))
        .collect();
    ensure!(
        lines.len() == 1,
        "insmod {parameters}: not one line in the log: {lines:?}"
    );
    ensure!(
        lines.iter().any(|line| line.contains(says)),
        "insmod {parameters}: the log's line does not say {says:?}: {lines:?}"
    );
    Ok(())
}

/// Parameters that make no sense.
pub fn parameters(guest: &mut Guest) -> Result<()> {
    let long = "x".repeat(65);
    let host = HOST_ADDRESS;
    for (parameters, says) in [
        (String::new(), "server="),
        ("server=".to_owned(), "server="),
        ("server=10.77.0".to_owned(), "10.77.0"),
        ("server=example".to_owned(), "example"),
        ("server=300.1.1.1".to_owned(), "300.1.1.1"),
        (format!("server={host}:0"), "port"),
        (format!("server={host}:65536"), "port"),
        (format!("server={host}:7170x"), "port"),
        ("server=[fd00::2".to_owned(), "fd00::2"),
        ("server=0.0.0.0".to_owned(), "0.0.0.0"),
        (format!("server={host} region=a/b"), "region"),
        (format!("server={host} connections=65"), "connections"),
        (format!("server={host} inflight=65537"), "inflight"),
        (format!("server={host} store_ms=1"), "store_ms"),
        (format!("server={host} spin_us=10001"), "spin_us"),
        (format!("server={host} dscp=64"), "dscp"),
        (format!("server={host} disk=maybe"), "disk="),
        (format!("server={host} compress=zip"), "compress="),
    ] {
        refused(guest, &parameters, Errno::INVAL, says)?;
    }
    // The kernel itself refuses a string that is too long for its parameter.
    let too_long = format!("server={host} region={long}");
    let ended = module::insmod(&too_long)?;
    ensure!(
        matches!(ended, Err(Errno::INVAL | Errno::NOSPC)),
        "insmod with a region name of 65 characters: {ended:?}"
    );
    ensure!(!module::is_loaded(), "the module is there");
    Ok(())
}

/// Nobody listens, nobody is there, or it is not a memory server.
pub fn servers(guest: &mut Guest) -> Result<()> {
    let host = HOST_ADDRESS;
    let ours = format!("server={host}");
    refused(guest, &ours, Errno::CONNREFUSED, host)?;
    guest.host.fake_server(Fake::Noise)?;
    refused(guest, &ours, Errno::PROTO, host)?;
    for fake in [Fake::Closes, Fake::Silent] {
        guest.host.fake_server(fake)?;
        guest
            .host
            .note(format!("insmod against a server that {fake:?}"))?;
        let ended = module::insmod(&ours)?;
        ensure!(
            ended.is_err(),
            "insmod against a server that {fake:?} loaded"
        );
    }
    let ended = module::insmod("server=10.77.0.99")?;
    ensure!(
        matches!(ended, Err(Errno::HOSTUNREACH | Errno::TIMEDOUT)),
        "insmod with the address of nobody: {ended:?}"
    );
    guest
        .host
        .start_server("16M")
        .context("after the fake servers")?;
    guest.insmod("")?;
    guest.rmmod()?;
    guest.host.stop_server()
}

/// A server of another version of the protocol.
pub fn version(guest: &mut Guest) -> Result<()> {
    guest
        .host
        .start_server_with("16M", &["--test-protocol-version", "77"])?;
    let ours = format!("server={HOST_ADDRESS}");
    refused(guest, &ours, Errno::PROTONOSUPPORT, "version")?;
    guest.host.stop_server()
}
