// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Debian's redis-server, filled with values that follow from a seed, then read back and compared.
//!
//! Speaks as much of redis' protocol (RESP2, redis.io/docs/reference/protocol-spec) as SET and GET need.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::guest::{poll, program, Cgroup};
use crate::pattern::mix;
use crate::ROOT;

const KEYS: u64 = 6144;
const VALUE_BYTES: usize = 4096;
/// Requests that are sent before their answers are read.
const BATCH: u64 = 64;
const SEED: u64 = 0x7265_6469_7300;

/// Fills, reads back; how many bytes were wrong.
pub fn run(cgroup: &Cgroup) -> Result<u64> {
    let mut server = program::command(Some(cgroup), true, "/usr/bin/redis-server")
        .args(["--port", "0", "--unixsocket", "/run/redis.sock"])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("starting redis-server")?;
    let mut connection = None;
    poll("redis-server's socket", Duration::from_secs(60), || {
        connection = UnixStream::connect(format!("{ROOT}/run/redis.sock")).ok();
        Ok(connection.is_some())
    })?;
    let mut client = Client::new(connection.context("no connection to redis-server")?)?;
    client.fill()?;
    let wrong = client.compare()?;
    client.command(&[b"SHUTDOWN", b"NOSAVE"])?;
    client.writer.flush().context("SHUTDOWN")?;
    drop(client);
    let status = server.wait().context("waiting for redis-server")?;
    ensure!(status.success(), "redis-server: {status}");
    Ok(wrong)
}

fn value(key: u64) -> Vec<u8> {
    let base = mix(SEED ^ mix(key));
    let words = u64::try_from(VALUE_BYTES / 8).unwrap_or(0);
    (0..words)
        .flat_map(|word| base.wrapping_add(word).to_le_bytes())
        .collect()
}

struct Client {
    reader: BufReader<UnixStream>,
    writer: BufWriter<UnixStream>,
}

impl Client {
    fn new(socket: UnixStream) -> Result<Self> {
        let reader = BufReader::new(socket.try_clone().context("duplicating a socket")?);
        Ok(Self {
            reader,
            writer: BufWriter::new(socket),
        })
    }

    fn command(&mut self, words: &[&[u8]]) -> Result<()> {
        write!(self.writer, "*{}\r\n", words.len())?;
        for word in words {
            write!(self.writer, "${}\r\n", word.len())?;
            self.writer.write_all(word)?;
            self.writer.write_all(b"\r\n")?;
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.reader
            .read_line(&mut line)
            .context("reading from redis-server")?;
        Ok(line.trim_end().to_owned())
    }

    fn fill(&mut self) -> Result<()> {
        for first in (0..KEYS).step_by(usize::try_from(BATCH)?) {
            let keys = first..(first + BATCH).min(KEYS);
            for key in keys.clone() {
                self.command(&[b"SET", format!("key:{key}").as_bytes(), &value(key)])?;
            }
            self.writer.flush().context("SET")?;
            for key in keys {
                let answer = self.line()?;
                ensure!(answer == "+OK", "SET key:{key}: {answer}");
            }
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<u64> {
        let mut wrong = 0;
        for first in (0..KEYS).step_by(usize::try_from(BATCH)?) {
            let keys = first..(first + BATCH).min(KEYS);
            for key in keys.clone() {
                self.command(&[b"GET", format!("key:{key}").as_bytes()])?;
            }
            self.writer.flush().context("GET")?;
            for key in keys {
                wrong += self.compare_one(key)?;
            }
        }
        Ok(wrong)
    }

    fn compare_one(&mut self, key: u64) -> Result<u64> {
        let header = self.line()?;
        ensure!(
            header == format!("${VALUE_BYTES}"),
            "GET key:{key}: {header}"
        );
        let mut bytes = vec![0; VALUE_BYTES + 2];
        self.reader
            .read_exact(&mut bytes)
            .context("reading a value")?;
        let differing = value(key)
            .iter()
            .zip(&bytes)
            .filter(|(one, other)| one != other)
            .count();
        u64::try_from(differing).context("counting")
    }
}
