// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Running programs in the guest: in a cgroup, in the Debian root, with their output collected.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{bail, ensure, Context, Result};

use super::cgroup::Cgroup;
use crate::{ROOT, SELF};

/// What a program printed and how long it ran.
pub struct Ran {
    /// Its standard output.
    pub output: String,
    /// Wall time.
    pub seconds: f64,
}

/// A command that enters `cgroup`, and the Debian root if `root`, before it becomes `program`.
pub fn command(cgroup: Option<&Cgroup>, root: bool, program: &str) -> Command {
    let mut command = Command::new(SELF);
    command.arg("run");
    if let Some(cgroup) = cgroup {
        command.args(["--cgroup", cgroup.name()]);
    }
    if root {
        command.arg("--root");
    }
    command.args(["--", program]);
    command
}

/// Runs a program of the Debian root to its end; anything but status 0 is an error that shows what
/// it wrote.
pub fn run(cgroup: Option<&Cgroup>, words: &[&str]) -> Result<Ran> {
    let (program, arguments) = words.split_first().context("no program named")?;
    let mut command = command(cgroup, true, program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    finish(child, program, started)
}

/// Waits for a program whose output is piped.
pub fn finish(child: Child, program: &str, started: Instant) -> Result<Ran> {
    let output = child
        .wait_with_output()
        .with_context(|| format!("waiting for {program}"))?;
    ensure!(
        output.status.success(),
        "{program}: {}; it wrote: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(Ran {
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The `run` program: `[--cgroup NAME] [--root] -- PROGRAM ARGUMENT...`.
pub fn become_program(arguments: &[String]) -> Result<()> {
    let mut words = arguments.iter();
    loop {
        match words.next().map(String::as_str) {
            Some("--cgroup") => {
                let name = words.next().context("--cgroup needs a name")?;
                fs::write(format!("/sys/fs/cgroup/{name}/cgroup.procs"), "0")
                    .with_context(|| format!("entering the cgroup {name}"))?;
            }
            Some("--root") => {
                rustix::process::chroot(ROOT).context("chroot")?;
                std::env::set_current_dir("/").context("chdir")?;
            }
            Some("--") => break,
            other => bail!("run: unexpected {other:?}"),
        }
    }
    let program = words.next().context("run: no program named")?;
    let error = Command::new(program)
        .args(words)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .exec();
    Err(error).with_context(|| format!("executing {program}"))
}
