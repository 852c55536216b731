// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The command line.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

const AFTER_HELP: &str = "\
First every page is stored, and a line says how long that took. Then each measurement is one line of JSON: how
many requests there were in how many seconds and how long they took; with --pid, what processor time the server
has used meanwhile, how many requests that is for a second of it, and what memory it has.

With --commands, what is measured comes from the standard input, a line DEPTH LOADS MS each, such as `32 100 1000`:
up to 32 requests in flight on each connection, all of them loads, for a second. It ends with the input.

Exit codes: 0 done; 1 the server cannot be reached, refuses, or gives a page that was not the one stored; 2 wrong
option.";

/// Measures servers of pages by one and the same loop, whatever they speak.
#[derive(Debug, Parser)]
#[command(name = "memsrv-race", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Loads a server and measures
    Run(Options),
    /// Is the bare echo server, the bound: as many bytes as a server of pages has, and nothing else
    Echo {
        /// Where to listen, as 127.0.0.1:7172
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,
    },
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// memsrvd
    Memsrv,
    /// nbdkit, or another NBD server, with its default export
    Nbd,
    /// redis: GET and SET
    Resp,
    /// memsrv-race echo
    Echo,
}

/// How to load a server.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Options {
    /// The server, as 127.0.0.1:7170
    #[arg(long, value_name = "HOST:PORT")]
    pub server: String,
    /// What it speaks
    #[arg(long, value_enum, default_value_t = Language::Memsrv)]
    pub protocol: Language,
    /// How many connections; to memsrvd, each is a client of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// How many requests are in flight on each, at most
    #[arg(long, value_name = "N", default_value_t = 32)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub depth: u16,
    /// How many pages are stored, by all connections together; rounded up to as many for each
    #[arg(long, value_name = "N", default_value_t = 65536)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pub pages: u32,
    /// How many of a hundred requests are loads
    #[arg(long, value_name = "PERCENT", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
    pub loads: u8,
    /// How long to measure, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub ms: u64,
    /// The server's process, on this machine, whose processor time and memory are to be told
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// How many threads share the connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: u8,
    /// What the random places start from: the same seed, the same places
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Read what to measure from the standard input
    #[arg(long)]
    pub commands: bool,
}
