// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Servers in the guest itself, for what is measured in one machine.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::guest::program;

/// A server program; it is killed when the value goes.
pub struct Server(Child);

impl Server {
    /// Starts it and waits until it takes connections on that address.
    pub fn start(root: bool, words: &[&str], address: &str) -> Result<Self> {
        let (name, arguments) = words.split_first().context("no program named")?;
        let mut command: Command = program::command(None, root, name);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let mut server = Self(child);
        let deadline = Instant::now() + Duration::from_secs(600);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.0.try_wait().context("waiting for a server")? {
                bail!("{name} ended at once: {status}");
            }
            ensure!(Instant::now() < deadline, "{name} does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is no error here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
