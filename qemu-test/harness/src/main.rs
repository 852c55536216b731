// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Boots guests in QEMU and runs scenarios in them, with the memory server outside.
//!
//! Everything runs in a network namespace of its own: its tap device and addresses vanish with the last process in
//! it, however that ends, and two runs cannot meet. Children are killed by the kernel when the thread that made
//! them ends (`setpriv --pdeathsig`).

mod apps;
mod boot;
mod checksum;
mod console;
mod cost;
mod damage;
mod demo;
mod fake;
mod faults;
mod initramfs;
mod keep;
mod kernel;
mod lanes;
mod links;
mod measure;
mod micro;
mod network;
mod other;
mod past;
mod race;
mod record;
mod server;
mod suite;
mod target;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::kernel::Kernel;
use crate::lanes::Manner;
use crate::tree::Tree;

/// Boots guests in QEMU and runs scenarios in them.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows what the module is for: real programs in a small guest, on a server's RAM.
    Demo {
        /// When the demo began, in seconds since 1970: building counts too.
        #[arg(long)]
        since: Option<u64>,
    },
    /// Runs every scenario, or those that the words choose: each a name, or a part of names.
    Test {
        /// The kernel to boot.
        #[arg(long, value_enum, default_value_t)]
        kernel: Kernel,
        #[command(flatten)]
        manner: Manner,
        /// A scenario's name, or a part of the names of several.
        filter: Vec<String>,
    },
    /// Runs the fault matrix, or those of its cells that the words choose, prints it as
    /// tables and writes it to build/faults.md.
    Faults {
        #[command(flatten)]
        manner: Manner,
        /// A scenario's name, or a part of the names of several.
        filter: Vec<String>,
    },
    /// Measures how long a page takes, beside others.
    Bench {
        /// Two rounds, and fewer others: for a first look.
        #[arg(long)]
        quick: bool,
    },
    /// Counts the instructions that a page costs, in a guest with client and server, and compares them with
    /// what is kept in Documentation/benchmarks/cost.json.
    BenchCost {
        /// Keep what is measured.
        #[arg(long)]
        update: bool,
    },
    /// Measures how long a page takes over narrow links, beside nbd.
    BenchLinks {
        /// One round.
        #[arg(long)]
        quick: bool,
    },
    /// Measures programs with less memory than they need, the rest with memsrv and with others.
    BenchApps {
        /// One round, with half of the memory.
        #[arg(long)]
        quick: bool,
    },
    /// Races the server with others on this machine, without guests: requests for a second of its processor, beside
    /// nbdkit, redis and a bare echo server; what a request costs with more pages and clients; memory beside pages.
    BenchServer {
        /// Two short rounds of a million pages at most.
        #[arg(long)]
        quick: bool,
    },
    /// Draws what was measured, as SVG and PNG.
    Pictures {
        /// What was measured [default: build/bench/results.json].
        results: Option<PathBuf>,
        /// Where the pictures go [default: beside it].
        directory: Option<PathBuf>,
    },
    /// Copies what was measured to Documentation/benchmarks/run, with its tables and pictures; refuses quick runs.
    BenchKeep,
    /// Lists the scenarios.
    List,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("qemu-test: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<bool> {
    let kernel = match command {
        Command::Test { kernel, .. } => kernel,
        _ => Kernel::Stock,
    };
    let tree = Tree::find(kernel)?;
    if let Command::List = command {
        for scenario in tree.scenarios()?.iter().filter(|s| s.can_arise()) {
            println!("{:24} {}", scenario.name, scenario.about);
        }
        return Ok(true);
    }
    // These need neither guests nor a turn.
    match command {
        Command::BenchKeep => return keep::run(&tree),
        Command::Pictures { results, directory } => {
            let results = results.unwrap_or_else(|| record::place(&tree));
            let beside = results.parent().map(Path::to_owned).unwrap_or_default();
            record::draw(&tree, &results, &directory.unwrap_or(beside))?;
            return Ok(true);
        }
        _ => {}
    }
    let _turn = tree.take_turn()?;
    // Each of their lanes enters one of its own.
    if !matches!(command, Command::Test { .. } | Command::Faults { .. }) {
        network::enter_own_namespace()?;
    }
    match command {
        Command::Demo { since } => demo::run(&tree, since),
        Command::Test { filter, manner, .. } => suite::run(&tree, &filter, manner),
        Command::Faults { filter, manner } => faults::run(&tree, &filter, manner),
        Command::Bench { quick } => micro::run(&tree, quick),
        Command::BenchCost { update } => cost::run(&tree, update),
        Command::BenchLinks { quick } => links::run(&tree, quick),
        Command::BenchApps { quick } => apps::run(&tree, quick),
        Command::BenchServer { quick } => race::run(&tree, quick),
        // Already done.
        Command::List | Command::BenchKeep | Command::Pictures { .. } => Ok(true),
    }
}
