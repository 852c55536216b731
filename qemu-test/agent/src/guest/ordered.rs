// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A program of ours that does one thing per line of its standard input and answers each with a line of JSON.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{bail, ensure, Context, Result};
use serde::de::DeserializeOwned;

use super::cgroup::Cgroup;
use super::program;
use crate::SELF;

/// It dies with the value.
pub struct Ordered {
    name: &'static str,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Ordered {
    /// Starts it in a cgroup.
    pub fn start(cgroup: &Cgroup, name: &'static str, arguments: &[String]) -> Result<Self> {
        let mut command = program::command(Some(cgroup), false, SELF);
        command.arg(name).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("starting the {name} program"))?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the {name} program has no input or no output");
        };
        Ok(Self {
            name,
            child,
            orders,
            answers: BufReader::new(answers),
        })
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order and does not wait.
    pub fn order(&mut self, order: &str) -> Result<()> {
        // In one write: the program may sleep over the first in its own page fault, with the pipe locked.
        let line = format!("{order}\n");
        self.orders
            .write_all(line.as_bytes())
            .with_context(|| format!("ordering {order}"))
    }

    /// Waits for the answer to the last order.
    pub fn answer<A: DeserializeOwned>(&mut self) -> Result<A> {
        let name = self.name;
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .with_context(|| format!("reading from the {name} program"))?;
        if line.is_empty() {
            bail!("the {name} program ended: {}", self.wait()?);
        }
        serde_json::from_str(&line).with_context(|| line.clone())
    }

    /// One order, its answer.
    pub fn perform<A: DeserializeOwned>(&mut self, order: &str) -> Result<A> {
        self.order(order)?;
        self.answer()
            .with_context(|| format!("{} program: {order}", self.name))
    }

    /// Ends it in good order.
    pub fn end(mut self) -> Result<()> {
        self.order("end")?;
        let status = self.wait()?;
        ensure!(status.success(), "the {} program: {status}", self.name);
        Ok(())
    }

    /// Kills it, as the OOM killer would.
    pub fn kill(mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("killing the {} program", self.name))?;
        self.wait().map(drop)
    }

    fn wait(&mut self) -> Result<std::process::ExitStatus> {
        self.child
            .wait()
            .with_context(|| format!("waiting for the {} program", self.name))
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        // Already ended or not: neither is an error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
