// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Measures servers of pages by one and the same loop, whatever they speak.
//!
//! It is to be the servers that are measured, and not this program. So there is one thread (unless more are
//! asked for) with one epoll for all connections; requests are made in a buffer, all that can be sent at a time
//! go with one system call, and the clock is read once for each read from a socket. A page that comes back is
//! looked at where its slot's marks stand, at both ends; memsrv-loadgen looks closer.
//!
//! A connection has a table of what is in flight on it. When answers have come, as many new requests are made,
//! until the time is over; then what is still in flight is waited for, so that what is counted and the processor
//! time that it took belong together.
//!
//! ```text
//! memsrv-race echo --listen 127.0.0.1:7172 &
//! memsrv-race run --protocol echo --server 127.0.0.1:7172 --depth 32 --pid $!
//! ```

mod connection;
mod cost;
mod crew;
mod echo;
mod memsrv;
mod nbd;
mod options;
mod protocol;
#[path = "../random.rs"]
mod random;
mod resp;

use std::io::BufRead;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use serde_json::{json, Value};

use crew::{Crew, Phase};
use options::{Arguments, Command, Options};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody listens there, or it is no address.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// The connection, or epoll.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The server has closed the connection.
    #[error("the server has closed the connection; its log may say why")]
    Closed,
    /// It does not answer.
    #[error("the server has not answered for 20 s")]
    Silent,
    /// It answers what it should not.
    #[error("{0}")]
    Wrong(#[from] protocol::Wrong),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; use fewer")]
    Thread(std::io::Error),
    /// The server's process cannot be looked at.
    #[error("cannot read in /proc what process {0} has used: {1}")]
    Process(u32, std::io::Error),
    /// A line on the standard input is none.
    #[error("`{0}` is not DEPTH LOADS MS, or a depth above --depth")]
    Order(String),
    /// A thread has panicked, which it has said.
    #[error("a thread ended before its time; this is an error in memsrv-race, please report it")]
    Ended,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(options) => run(&options),
        Command::Echo { listen } => echo::serve(listen).map_err(Failure::Io),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("memsrv-race: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Fills, and measures as often as told.
fn run(options: &Options) -> Result<(), Failure> {
    let crew = Crew::start(options)?;
    let start = Instant::now();
    let filled = crew.run(Phase::Fill)?.stores.len();
    let elapsed = start.elapsed();
    let line = json!({
        "filled_pages": filled,
        "seconds": elapsed.as_secs_f64(),
        "per_second": per_second(filled, elapsed),
    });
    println!("{line}");
    let mut seed = options.seed;
    let mut measure = |depth, loads, ms| {
        // Not the same places each time.
        seed = seed.wrapping_add(1);
        let time = Duration::from_millis(ms);
        let phase = Phase::Measure {
            depth,
            loads,
            time,
            seed,
        };
        let head = json!({
            "protocol": options.protocol,
            "connections": options.connections,
            "threads": options.threads,
            "pages": filled,
            "depth": depth,
            "loads_percent": loads,
        });
        println!("{}", measure(&crew, phase, options.pid, head)?);
        Ok::<(), Failure>(())
    };
    if options.commands {
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let (depth, loads, ms) = order(&line, crew.depth()).ok_or(Failure::Order(line))?;
            measure(depth, loads, ms)?;
        }
    } else {
        measure(options.depth, options.loads, options.ms)?;
    }
    crew.end()
}

/// The words of a line.
fn order(line: &str, deepest: u16) -> Option<(u16, u8, u64)> {
    let mut words = line.split_ascii_whitespace();
    let depth = words.next()?.parse().ok();
    let loads = words.next()?.parse().ok();
    let depth = depth.filter(|depth| (1..=deepest).contains(depth))?;
    let loads = loads.filter(|percent| *percent <= 100)?;
    let ms = words.next()?.parse().ok()?;
    words.next().is_none().then_some((depth, loads, ms))
}

/// Measures once; what there is to tell goes behind the head's fields.
fn measure(crew: &Crew, phase: Phase, server: Option<u32>, head: Value) -> Result<Value, Failure> {
    let used = |pid| cost::cpu_us(pid).map_err(|error| Failure::Process(pid, error));
    let own = std::process::id();
    let before = (server.map(used).transpose()?, used(own)?);
    let start = Instant::now();
    let tally = crew.run(phase)?;
    let elapsed = start.elapsed();
    let after = (server.map(used).transpose()?, used(own)?);

    let requests = tally.loads.len().saturating_add(tally.stores.len());
    let mut line = head;
    let mut put = |name: &str, value: Value| {
        if let Some(fields) = line.as_object_mut() {
            fields.insert(name.to_owned(), value);
        }
    };
    put("requests", requests.into());
    put("seconds", elapsed.as_secs_f64().into());
    put("per_second", per_second(requests, elapsed).into());
    put("loads", side(&tally.loads));
    put("stores", side(&tally.stores));
    let own_us = after.1.saturating_sub(before.1);
    put("generator", json!({ "cpu_us": own_us }));
    if let (Some(pid), Some(before), Some(after)) = (server, before.0, after.0) {
        let cpu_us = after.saturating_sub(before);
        let memory = cost::memory(pid).map_err(|error| Failure::Process(pid, error))?;
        let value = json!({
            "cpu_us": cpu_us,
            "per_cpu_second": per_second(requests, Duration::from_micros(cpu_us)),
            "rss_bytes": memory.rss_bytes,
            "locked_bytes": memory.locked_bytes,
        });
        put("server", value);
    }
    Ok(line)
}

/// How long so many of a thousand requests took at most.
fn side(histogram: &Histogram<u64>) -> Value {
    let us = |quantile| {
        let ns = histogram.value_at_quantile(quantile);
        Duration::from_nanos(ns).as_secs_f64() * 1e6
    };
    json!({
        "count": histogram.len(),
        "p50_us": us(0.5),
        "p99_us": us(0.99),
        "p999_us": us(0.999),
    })
}

/// How many a second, rounded down; 0 if no time has passed.
fn per_second(count: u64, elapsed: Duration) -> u64 {
    let rate = u128::from(count)
        .saturating_mul(1_000_000)
        .checked_div(elapsed.as_micros());
    rate.and_then(|rate| u64::try_from(rate).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Tally;

    #[test]
    fn an_order_is_three_numbers_within_bounds() {
        assert_eq!(order("32 100 500", 32), Some((32, 100, 500)));
        for line in ["33 1 1", "0 1 1", "1 101 1", "1 1", "1 1 1 1", "", "a 1 1"] {
            assert_eq!(order(line, 32), None, "{line}");
        }
    }

    #[test]
    fn quantiles_are_microseconds() {
        let mut tally = Tally::new().unwrap();
        (1..=1000).for_each(|us| tally.loads.saturating_record(us * 1000));
        let side = side(&tally.loads);
        let about = |name: &str, us: f64| (side[name].as_f64().unwrap() / us - 1.0).abs() < 0.01;
        assert!(about("p50_us", 500.0) && about("p99_us", 990.0) && about("p999_us", 999.0));
    }
}
