// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Loads a memory server with stores and loads, verifies what comes back, and measures.
//!
//! Each connection is a session with one stream and a region of its own, served by one thread, which
//! keeps so many operations in flight and waits for them in the order of asking; so a time is that until
//! an operation and those asked before it were answered. First every slot is
//! stored; then come loads and stores at random places, for as long as asked. A page tells its slot and
//! how often that was stored, so that a wrong or an old page is seen.

mod histogram;
mod options;
mod random;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use memsrv_client::Error;
use serde_json::json;

use histogram::Histogram;
use options::Options;
use worker::Outcome;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The client says why.
    #[error("{0}")]
    Client(#[from] Error),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; use fewer connections")]
    Thread(std::io::Error),
    /// A thread has panicked, which it has said.
    #[error(
        "a thread ended before its time; this is an error in memsrv-loadgen, please report it"
    )]
    Panicked,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(outcome) => {
            report(&options, &outcome);
            if outcome.wrong == 0 {
                ExitCode::SUCCESS
            } else {
                eprintln!(
                    "memsrv-loadgen: {} pages were not those stored",
                    outcome.wrong
                );
                ExitCode::from(3)
            }
        }
        Err(failure) => {
            eprintln!("memsrv-loadgen: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all connections side by side and adds up what they did.
fn run(options: &Options) -> Result<Outcome, Failure> {
    let mut threads = Vec::new();
    for number in 0..options.connections {
        let options = options.clone();
        let thread = std::thread::Builder::new().name(format!("connection-{number}"));
        let work = move || worker::run(&options, number);
        threads.push(thread.spawn(work).map_err(Failure::Thread)?);
    }
    let mut total = Outcome::default();
    for thread in threads {
        total.add(&thread.join().map_err(|_| Failure::Panicked)??);
    }
    Ok(total)
}

fn report(options: &Options, outcome: &Outcome) {
    let rate = |operations: u64| per_second(operations, outcome.elapsed);
    let operations = outcome.loads.count().saturating_add(outcome.stores.count());
    if options.json {
        let side = |histogram: &Histogram| {
            json!({
                "count": histogram.count(),
                "per_second": rate(histogram.count()),
                "p50_us": histogram.quantile_us(50),
                "p99_us": histogram.quantile_us(99),
            })
        };
        let line = json!({
            "connections": options.connections,
            "depth": options.depth,
            "seconds": outcome.elapsed.as_secs_f64(),
            "per_second": rate(operations),
            "loads": side(&outcome.loads),
            "stores": side(&outcome.stores),
            "refused": outcome.refused,
            "reconnects": outcome.reconnects,
            "wrong": outcome.wrong,
        });
        println!("{line}");
        return;
    }
    for (name, histogram) in [("loads", &outcome.loads), ("stores", &outcome.stores)] {
        println!(
            "{name:<6} {:>10} {:>9}/s  p50 {:>6} us  p99 {:>6} us",
            histogram.count(),
            rate(histogram.count()),
            histogram.quantile_us(50),
            histogram.quantile_us(99),
        );
    }
    println!(
        "all    {operations:>10} {:>9}/s  refused {}  reconnects {}  wrong {}",
        rate(operations),
        outcome.refused,
        outcome.reconnects,
        outcome.wrong,
    );
}

/// How many a second, rounded down; 0 if no time has passed.
fn per_second(count: u64, elapsed: Duration) -> u64 {
    let rate = u128::from(count)
        .saturating_mul(1_000_000)
        .checked_div(elapsed.as_micros());
    rate.and_then(|rate| u64::try_from(rate).ok()).unwrap_or(0)
}
