// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! memsrv-race as a child: it fills a server once, and measures as often as it is told to.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{ensure, Context, Result};
use qemu_test_results::race::Line;

use crate::race::contender::{pinned, Running};
use crate::tree::Tree;

/// One that runs; it is killed when the value goes.
pub struct Generator {
    child: Child,
    orders: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
    log: String,
}

impl Generator {
    /// Has it connect and store all pages.
    pub fn start(
        tree: &Tree,
        processor: usize,
        server: &Running,
        (connections, depth): (u16, u16),
        pages: u64,
        logs: &Path,
    ) -> Result<Self> {
        let name = format!("race-{}-{connections}.log", server.address.port());
        let place = logs.join(name);
        let log = File::create(&place).with_context(|| format!("making {}", place.display()))?;
        let mut child = pinned(processor)
            .arg(tree.file("memsrv-race")?)
            .args(["run", "--commands", "--protocol", server.who.protocol()])
            .args(["--server", &server.address.to_string()])
            .args(["--pid", &server.pid().to_string()])
            .args(["--connections", &connections.to_string()])
            .args(["--depth", &depth.to_string()])
            .args(["--pages", &pages.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("starting memsrv-race by setpriv")?;
        let orders = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().context("memsrv-race without a pipe")?);
        let log = tree.short(&place);
        let mut generator = Self {
            child,
            orders,
            lines,
            log,
        };
        generator.line()?;
        Ok(generator)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let count = self.lines.read_line(&mut line);
        let count = count.context("reading what memsrv-race writes")?;
        ensure!(count > 0, "memsrv-race has ended; see {}", self.log);
        Ok(line)
    }

    /// Measures so many milliseconds, with so many requests in flight on each connection, so many of a hundred loads.
    pub fn measure(&mut self, depth: u16, loads: u8, ms: u64) -> Result<Line> {
        let orders = self.orders.as_mut().context("memsrv-race without a pipe")?;
        writeln!(orders, "{depth} {loads} {ms}").context("telling memsrv-race what to measure")?;
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("memsrv-race wrote {line}"))
    }

    /// Lets it take leave of the server, which then frees the pages.
    pub fn end(mut self) -> Result<()> {
        self.orders = None;
        let status = self.child.wait().context("waiting for memsrv-race")?;
        ensure!(status.success(), "memsrv-race: {status}; see {}", self.log);
        Ok(())
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // Already ended is no error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
