// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! memsrv-race as a child: it fills a server once, and measures as often as it is told to.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};

use crate::measure::float;
use crate::race::contender::{pinned, Running};
use crate::tree::Tree;

/// One measurement, as memsrv-race tells it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    connections: u64,
    depth: u64,
    loads_percent: u64,
    /// Pages that the server was filled with.
    pages: u64,
    requests: u64,
    seconds: f64,
    /// Requests a second.
    pub per_second: f64,
    loads: Side,
    stores: Side,
    /// What the server has used.
    pub server: Used,
    generator: Used,
}

/// How long loads or stores took.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Side {
    count: u64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
}

/// What a process has used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Used {
    /// Microseconds of processors.
    pub cpu_us: u64,
    /// Bytes in RAM, of a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    locked_bytes: Option<u64>,
}

impl Line {
    /// Microseconds of the server's processor for a request.
    pub fn cost_us(&self) -> f64 {
        float(self.server.cpu_us.max(1)) / float(self.requests.max(1))
    }

    /// Requests for a second of the server's processor.
    pub fn per_cpu_second(&self) -> f64 {
        1e6 / self.cost_us()
    }

    fn side(&self) -> &Side {
        if self.loads_percent > 0 {
            &self.loads
        } else {
            &self.stores
        }
    }

    /// In how many microseconds half of the loads were done; of the stores, where there were no loads.
    pub fn p50_us(&self) -> f64 {
        self.side().p50_us
    }

    /// The same for 99 of a hundred.
    pub fn p99_us(&self) -> f64 {
        self.side().p99_us
    }
}

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
