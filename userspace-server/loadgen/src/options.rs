// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The command line.

use clap::Parser;

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 the server cannot be reached or refuses; 2 wrong option; 3 a page that came back
was not the one stored.";

/// Loads a memory server with stores and loads, verifies what comes back, and measures.
#[derive(Clone, Debug, Parser)]
#[command(name = "memsrv-loadgen", version, after_help = AFTER_HELP)]
pub struct Options {
    /// The server, as 10.0.0.2:7170
    #[arg(long, value_name = "HOST:PORT")]
    pub server: String,
    /// How many connections, each with pages of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=512))]
    pub connections: u16,
    /// How many operations are in flight on each
    #[arg(long, value_name = "N", default_value_t = 32)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub depth: u16,
    /// How many of a hundred operations are loads
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
    pub read_ratio: u8,
    /// How many pages each connection stores
    #[arg(long, value_name = "N", default_value_t = 4096)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub pages: u32,
    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// What the random places start from: the same seed, the same places
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Who the sessions say they are
    #[arg(long, value_name = "NAME", default_value = "loadgen")]
    pub client: String,
    /// Write the result as one JSON object
    #[arg(long)]
    pub json: bool,
}
