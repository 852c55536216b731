// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The memory server outside the guest, and what stands in its place in some scenarios.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use qemu_test_wire::{self as wire, Answer, Ask};
use rustix::process::{kill_process, Pid, Signal};

use crate::damage;
use crate::fake::FakeServer;
use crate::network;
use crate::other::Running;
use crate::tree::Tree;

/// What answers at the server's address during one scenario. All of it ends with the value.
pub struct Outside<'a> {
    tree: &'a Tree,
    logs: PathBuf,
    /// The server and its mirror, and which of them is meant.
    servers: [Option<Child>; 2],
    mirror: bool,
    /// One that runs on and is not meant.
    spare: Option<Child>,
    fake: Option<FakeServer>,
    other: Option<Running>,
    link_down: bool,
    /// The address that is taken away, if one is.
    unreachable: Option<&'static str>,
    /// Whether the guest said that it will end.
    pub guest_ends: bool,
}

impl<'a> Outside<'a> {
    /// Nothing yet; the server's log goes to `logs`.
    pub fn new(tree: &'a Tree, logs: &Path) -> Self {
        Self {
            tree,
            logs: logs.to_owned(),
            servers: [None, None],
            mirror: false,
            spare: None,
            fake: None,
            other: None,
            link_down: false,
            unreachable: None,
            guest_ends: false,
        }
    }

    /// Does what the guest asks for.
    pub fn answer(&mut self, ask: Ask) -> Answer {
        match self.perform(ask) {
            Ok(answer) => answer,
            Err(error) => Answer::Failed(format!("{error:#}")),
        }
    }

    fn perform(&mut self, ask: Ask) -> Result<Answer> {
        match ask {
            Ask::StartServer {
                capacity,
                arguments,
            } => self.start(&capacity, &arguments)?,
            Ask::StopServer => self.stop()?,
            Ask::KillServer => {
                let mut server = self.server().take().context("no server runs")?;
                server.kill().context("killing memsrvd")?;
                server.wait().context("waiting for memsrvd")?;
            }
            Ask::PauseServer => self.signal(Signal::STOP)?,
            Ask::ResumeServer => self.signal(Signal::CONT)?,
            Ask::SlowServer(ms) => self.slow(Duration::from_millis(ms))?,
            Ask::ResetConnections => {
                let reset = network::reset_connections(self.host(), wire::SERVER_PORT)?;
                return Ok(Answer::Status(reset.into()));
            }
            Ask::FlipBits { pages } => {
                let server = self.server().as_ref().context("no server runs")?;
                let flipped = damage::flip_bits(server.id(), pages)?;
                return Ok(Answer::Status(flipped.into()));
            }
            Ask::ServerStatus => return self.status().map(Answer::Status),
            Ask::ServerTime => {
                let server = self.server().as_ref().context("no server runs")?;
                return Ok(Answer::Status(run_ns(server.id())?.into()));
            }
            Ask::FakeServer(kind) => {
                self.fake = None;
                self.fake = Some(FakeServer::start(kind)?);
            }
            Ask::Mirror(on) => self.mirror = on,
            Ask::Spare => {
                let spare = self.spare.take();
                self.spare = std::mem::replace(self.server(), spare);
            }
            Ask::StartOther(other) => {
                self.other = None;
                self.other = Some(Running::start(self.tree, other, &self.logs)?);
            }
            Ask::StopOther => self.other = None,
            Ask::ExpectEnd => self.guest_ends = true,
            Ask::Reach { on } => {
                network::address(if on { "add" } else { "delete" }, self.host())?;
                self.unreachable = Some(self.host()).filter(|_| !on);
            }
            Ask::Link { up } => {
                network::ip(&["link", "set", network::TAP, if up { "up" } else { "down" }])?;
                self.link_down = !up;
            }
        }
        Ok(Answer::Done)
    }

    /// Waits until the server holds no page; says what it holds if it does not come to that.
    pub fn becomes_empty(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let status = self.status()?;
            let used = status.pointer("/server/used_pages");
            if used.and_then(serde_json::Value::as_u64) == Some(0) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the guest is gone, and the server still holds pages: {status}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The one that is meant.
    fn server(&mut self) -> &mut Option<Child> {
        let [server, mirror] = &mut self.servers;
        if self.mirror {
            mirror
        } else {
            server
        }
    }

    fn host(&self) -> &'static str {
        if self.mirror {
            wire::MIRROR_ADDRESS
        } else {
            wire::HOST_ADDRESS
        }
    }

    /// Its address.
    fn address(&self) -> String {
        format!("{}:{}", self.host(), wire::SERVER_PORT)
    }

    fn start(&mut self, capacity: &str, arguments: &[String]) -> Result<()> {
        ensure!(self.server().is_none(), "a server runs already");
        self.fake = None;
        let log_path = self.logs.join(if self.mirror {
            "mirror.log"
        } else {
            "memsrvd.log"
        });
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("opening {}", log_path.display()))?;
        let begin = log.metadata().context("measuring memsrvd's log")?.len();
        let arguments = arguments
            .iter()
            .map(|word| self.argument(word))
            .collect::<Result<Vec<String>>>()?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(self.tree.file("memsrvd")?)
            .args(["--capacity", capacity])
            .args(&arguments);
        if !arguments.iter().any(|word| word == "--listen") {
            command.args(["--listen", &self.address()]);
        }
        let mut server = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting memsrvd by setpriv")?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while !says_listening(&log_path, begin)? {
            if let Some(status) = server.try_wait().context("waiting for memsrvd")? {
                bail!(
                    "memsrvd ended at once: {status}; see {}",
                    self.tree.short(&log_path)
                );
            }
            if Instant::now() > deadline {
                let _ = server.kill();
                let _ = server.wait();
                bail!(
                    "memsrvd did not listen within 60 s; see {}",
                    self.tree.short(&log_path)
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        *self.server() = Some(server);
        Ok(())
    }

    /// A word for the server's command line; `@NAME` is a directory.
    fn argument(&self, word: &str) -> Result<String> {
        let Some(name) = word.strip_prefix('@') else {
            return Ok(word.to_owned());
        };
        let directory = self.kept().join(name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        Ok(directory.display().to_string())
    }

    /// Where servers keep what outlives them, until the scenario ends.
    fn kept(&self) -> PathBuf {
        self.logs.join("kept")
    }

    /// Lets it run 10 ms of each 100.
    fn slow(&mut self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.signal(Signal::STOP)?;
            std::thread::sleep(Duration::from_millis(90));
            self.signal(Signal::CONT)?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let server = self.server().as_ref().context("no server runs")?;
        let pid = i32::try_from(server.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("memsrvd has no pid")?;
        kill_process(pid, signal).with_context(|| format!("sending {signal:?} to memsrvd"))
    }

    fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let mut server = self.server().take().context("no server runs")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = server.try_wait().context("waiting for memsrvd")? {
                ensure!(
                    status.success(),
                    "memsrvd ended with {status} after SIGTERM"
                );
                return Ok(());
            }
            if Instant::now() > deadline {
                let _ = server.kill();
                let _ = server.wait();
                bail!("memsrvd did not end within 30 s of SIGTERM");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn status(&self) -> Result<serde_json::Value> {
        let address = self.address();
        let output = Command::new(self.tree.file("memsrvctl")?)
            .args(["status", "--server", &address, "--json"])
            .output()
            .context("running memsrvctl")?;
        ensure!(
            output.status.success(),
            "memsrvctl status: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        serde_json::from_slice(&output.stdout).context("what memsrvctl status --json printed")
    }
}

/// For how many nanoseconds a program's threads have had a processor: the first number of each's schedstat.
fn run_ns(process: u32) -> Result<u64> {
    let mut sum: u64 = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task")).context("looking at its threads")? {
        let place = thread?.path().join("schedstat");
        let text =
            fs::read_to_string(&place).with_context(|| format!("reading {}", place.display()))?;
        let ns = text.split_whitespace().next().unwrap_or_default();
        let ns: u64 = ns
            .parse()
            .with_context(|| format!("{} says {text:?}", place.display()))?;
        sum = sum.saturating_add(ns);
    }
    Ok(sum)
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        for server in self.servers.iter_mut().chain([&mut self.spare]).flatten() {
            // Already ended is no error here.
            let _ = server.kill();
            let _ = server.wait();
        }
        // Hundreds of megabytes that a passed scenario need not leave behind, nor a failed one.
        let _ = fs::remove_dir_all(self.kept());
        if let Some(host) = self.unreachable {
            let _ = network::address("add", host);
        }
        if self.link_down {
            let _ = network::ip(&["link", "set", network::TAP, "up"]);
        }
    }
}

/// Whether memsrvd's log, from that byte on, says that it serves. Its port is open before that, while it
/// takes its memory.
pub fn says_listening(log: &Path, from: u64) -> Result<bool> {
    let text = fs::read(log).with_context(|| format!("reading {}", log.display()))?;
    let new = text.get(usize::try_from(from)?..).unwrap_or_default();
    Ok(String::from_utf8_lossy(new)
        .lines()
        .any(|line| line.contains("INFO listening")))
}
