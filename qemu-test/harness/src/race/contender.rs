// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The servers that are raced, each kept to one processor, on loopback.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use rustix::thread::{sched_getaffinity, CpuSet};

use crate::other::await_port;
use crate::server::says_listening;
use crate::tree::Tree;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// Who runs where.
#[derive(Clone, Copy, Debug)]
pub struct Processors {
    /// The server that is measured, all of its threads.
    pub server: usize,
    /// Who measures it.
    pub generator: usize,
}

impl Processors {
    /// The first two that we may use; one for both where there is no other.
    pub fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("asking which processors there are")?;
        let mut numbers = (0..CpuSet::MAX_CPU).filter(|number| allowed.is_set(*number));
        let server = numbers.next().context("no processor")?;
        let generator = numbers.next().unwrap_or(server);
        if generator == server {
            println!("there is one processor: server and generator share it, and rates say little");
        }
        Ok(Self { server, generator })
    }
}

/// A program that keeps to a processor, and is killed when we end.
pub fn pinned(processor: usize) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "taskset", "-c"]);
    command.arg(processor.to_string());
    command
}

/// Who is raced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Ours.
    Memsrvd,
    /// Does the same work with the same one thread.
    NbdkitOneThread,
    /// As it comes, with 16 threads.
    Nbdkit,
    /// GET and SET, nothing kept on a disk.
    Redis,
    /// The bound: stores nothing.
    Echo,
}

impl Contender {
    /// All of them, ours first.
    pub const ALL: [Self; 5] = [
        Self::Memsrvd,
        Self::NbdkitOneThread,
        Self::Nbdkit,
        Self::Redis,
        Self::Echo,
    ];

    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memsrvd => "memsrvd",
            Self::NbdkitOneThread => "nbdkit -t1",
            Self::Nbdkit => "nbdkit",
            Self::Redis => "redis",
            Self::Echo => "echo",
        }
    }

    /// What memsrv-race calls its protocol.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Memsrvd => "memsrv",
            Self::NbdkitOneThread | Self::Nbdkit => "nbd",
            Self::Redis => "resp",
            Self::Echo => "echo",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Memsrvd => 7170,
            Self::NbdkitOneThread => 10809,
            Self::Nbdkit => 10810,
            Self::Redis => 6379,
            Self::Echo => 7172,
        }
    }

    /// Its words behind the pinning ones, with room for so many pages.
    fn arguments(self, tree: &Tree, command: &mut Command, port: u16, pages: u64) -> Result<()> {
        let bytes = (pages * PAGE_SIZE).to_string();
        let address = format!("127.0.0.1:{port}");
        let port = port.to_string();
        match self {
            Self::Memsrvd => {
                command.arg(tree.file("memsrvd")?);
                command.args(["--capacity", &bytes, "--listen", &address]);
            }
            Self::NbdkitOneThread | Self::Nbdkit => {
                command.arg("chroot").arg(tree.file("guest-root")?);
                command.args(["/usr/bin/nbdkit", "-f", "-i", "127.0.0.1", "-p", &port]);
                if self == Self::NbdkitOneThread {
                    command.args(["-t", "1"]);
                }
                command.args(["memory", &bytes]);
            }
            Self::Redis => {
                command.arg("chroot").arg(tree.file("guest-root")?);
                command.args(["/usr/bin/redis-server", "--bind", "127.0.0.1"]);
                command.args(["--port", &port, "--save", "", "--appendonly", "no"]);
                command.args(["--daemonize", "no", "--dir", "/tmp"]);
            }
            Self::Echo => {
                command.arg(tree.file("memsrv-race")?);
                command.args(["echo", "--listen", &address]);
            }
        }
        Ok(())
    }
}

/// One of them; it is killed when the value goes.
pub struct Running {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Who it is.
    pub who: Contender,
}

impl Running {
    /// Starts it and waits until it serves; `number` tells several of the same kind apart.
    pub fn start(
        tree: &Tree,
        who: Contender,
        processor: usize,
        pages: u64,
        number: u16,
        logs: &Path,
    ) -> Result<Self> {
        let port = who.port() + number;
        let mut command = pinned(processor);
        who.arguments(tree, &mut command, port, pages)?;
        let name = format!("{}-{number}.log", who.name().replace(' ', ""));
        let place = logs.join(name);
        let log = File::create(&place).with_context(|| format!("making {}", place.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {} by setpriv", who.name()))?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut running = Self {
            child,
            address,
            who,
        };
        await_port(&mut running.child, address, who.name(), tree, logs)?;
        // Its port is open before it has taken its memory, which takes a while for much.
        let deadline = Instant::now() + Duration::from_secs(300);
        while who == Contender::Memsrvd && !says_listening(&place, 0)? {
            let ended = running.child.try_wait().context("waiting for memsrvd")?;
            let late = Instant::now() > deadline;
            ensure!(
                ended.is_none() && !late,
                "memsrvd does not serve; see {}",
                tree.short(&place)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(running)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended is no error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many bytes programs could still be given.
pub fn available_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.context("no MemAvailable in /proc/meminfo")? * 1024)
}
