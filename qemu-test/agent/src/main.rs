// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The program inside the test guests: PID 1 of their initramfs, and the programs that it runs.
//!
//! As PID 1 it mounts, loads drivers, opens its port to the harness and runs the scenarios that the
//! harness names ([`scenarios`] holds the one table). Under other names it is what scenarios run:
//! `pattern` fills memory and verifies it, `touch` times each of its page faults, `pong` answers pings, `run` enters a cgroup and the guest's root before it
//! becomes another program. `list` prints the table; the harness reads it before it boots anything.

mod boot;
mod guest;
mod pattern;
mod pong;
mod port;
mod scenarios;
mod sys;
mod touch;

use std::process::ExitCode;

use anyhow::{bail, Context, Result};

/// Where this program stands in the guest.
pub const SELF: &str = "/init";
/// Where the guest's Debian root is mounted.
pub const ROOT: &str = "/newroot";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        boot::as_init();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match other_program(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn other_program(arguments: &[String]) -> Result<()> {
    let (name, rest) = arguments
        .split_first()
        .context("usage: qemu-test-agent list | pattern ... | pong ... | run ... | touch ... (or PID 1 of a guest)")?;
    match name.as_str() {
        "list" => {
            let all: Vec<_> = scenarios::all().map(|entry| entry.listing()).collect();
            println!("{}", serde_json::to_string_pretty(&all)?);
            Ok(())
        }
        "pattern" => pattern::program(rest),
        "pong" => pong::program(rest),
        "touch" => touch::program(rest),
        "run" => guest::program::become_program(rest),
        _ => bail!("no such program: {name}; there are list, pattern, pong, run and touch"),
    }
}
