// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Debian's redis-server, filled with values that follow from a seed, then read and compared.
//!
//! Speaks as much of redis' protocol (RESP2, redis.io/docs/reference/protocol-spec) as SET and GET need.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::{differing, Ran};
use crate::guest::{poll, program, Cgroup};
use crate::pattern::{coprime_step, mix};
use crate::ROOT;

/// Keys for the demo, and for the benchmark, in which so many are read.
const KEYS: u64 = 6144;
const MANY_KEYS: u64 = 12_288;
const READS: u64 = 4096;
const VALUE_BYTES: usize = 4096;
/// Requests that are sent before their answers are read.
const BATCH: usize = 64;
const SEED: u64 = 0x7265_6469_7300;

/// Fills, reads all back.
pub fn run(cgroup: &Cgroup) -> Result<Ran> {
    let began = Instant::now();
    let mut redis = Redis::start(cgroup)?;
    redis.fill(KEYS)?;
    let keys: Vec<u64> = (0..KEYS).collect();
    let wrong = redis.compare(&keys, BATCH)?;
    redis.end()?;
    Ok(Ran::after(began.elapsed().as_secs_f64(), wrong))
}

/// Fills, and times reading: one request at a time, most of them of few keys.
pub fn skewed(cgroup: &Cgroup) -> Result<Ran> {
    let mut redis = Redis::start(cgroup)?;
    redis.fill(MANY_KEYS)?;
    // Who is asked for often is anywhere.
    let step = u64::try_from(coprime_step(usize::try_from(MANY_KEYS)?))?;
    let key = |read| rank(mix(SEED + read), MANY_KEYS).wrapping_mul(step) % MANY_KEYS;
    let keys: Vec<u64> = (0..READS).map(key).collect();
    let began = Instant::now();
    let wrong = redis.compare(&keys, 1)?;
    let seconds = began.elapsed().as_secs_f64();
    redis.end()?;
    Ok(Ran::after(seconds, wrong))
}

/// One of so many: four of five times of the first fifth, of which it is again four of five times of the first
/// fifth, and so on: the self-similar distribution of Gray and others, Quickly generating billion-record synthetic
/// databases, SIGMOD 1994.
fn rank(random: u64, of: u64) -> u64 {
    let (mut random, mut of) = (random, of);
    while of >= 5 {
        let fifth = of / 5;
        let once = random % 5;
        random /= 5;
        if once == 0 {
            return fifth + random % (of - fifth);
        }
        of = fifth;
    }
    random % of.max(1)
}

/// A redis-server, and a connection to it.
struct Redis {
    server: Child,
    reader: BufReader<UnixStream>,
    writer: BufWriter<UnixStream>,
}

fn value(key: u64) -> Vec<u8> {
    let base = mix(SEED ^ mix(key));
    let words = u64::try_from(VALUE_BYTES / 8).unwrap_or(0);
    (0..words)
        .flat_map(|word| base.wrapping_add(word).to_le_bytes())
        .collect()
}

impl Redis {
    fn start(cgroup: &Cgroup) -> Result<Self> {
        // One of an earlier run may still be ending; its socket is not this one's.
        let path = format!("{ROOT}/run/redis.sock");
        let _ = std::fs::remove_file(&path);
        let server = program::command(Some(cgroup), true, "/usr/bin/redis-server")
            .args(["--port", "0", "--unixsocket", "/run/redis.sock"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting redis-server")?;
        let mut connection = None;
        poll("redis-server's socket", Duration::from_secs(60), || {
            connection = UnixStream::connect(&path).ok();
            Ok(connection.is_some())
        })?;
        let socket = connection.context("no connection to redis-server")?;
        let reader = BufReader::new(socket.try_clone().context("duplicating a socket")?);
        Ok(Self {
            server,
            reader,
            writer: BufWriter::new(socket),
        })
    }

    fn end(mut self) -> Result<()> {
        self.command(&[b"SHUTDOWN", b"NOSAVE"])?;
        self.writer.flush().context("SHUTDOWN")?;
        let status = self.server.wait().context("waiting for redis-server")?;
        ensure!(status.success(), "redis-server: {status}");
        Ok(())
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

    fn fill(&mut self, keys: u64) -> Result<()> {
        let keys: Vec<u64> = (0..keys).collect();
        for keys in keys.chunks(BATCH) {
            for key in keys {
                self.command(&[b"SET", format!("key:{key}").as_bytes(), &value(*key)])?;
            }
            self.writer.flush().context("SET")?;
            for key in keys {
                let answer = self.line()?;
                ensure!(answer == "+OK", "SET key:{key}: {answer}");
            }
        }
        Ok(())
    }

    /// Reads these, so many at a time; how many bytes are wrong.
    fn compare(&mut self, keys: &[u64], batch: usize) -> Result<u64> {
        let mut wrong = 0;
        for keys in keys.chunks(batch) {
            for key in keys {
                self.command(&[b"GET", format!("key:{key}").as_bytes()])?;
            }
            self.writer.flush().context("GET")?;
            for key in keys {
                wrong += self.compare_one(*key)?;
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
        Ok(differing(
            &value(key),
            bytes.get(..VALUE_BYTES).unwrap_or_default(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_fifths_of_the_reads_are_of_a_fifth_of_the_keys() {
        let ranks: Vec<u64> = (0..10_000).map(|read| rank(mix(read), 1000)).collect();
        assert!(ranks.iter().all(|rank| *rank < 1000));
        for (below, share) in [(200, 8000), (40, 6400), (8, 5120)] {
            let count = ranks.iter().filter(|rank| **rank < below).count();
            assert!(count.abs_diff(share) < 300, "{count} below {below}");
        }
    }
}
