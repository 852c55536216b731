// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `bench-server`: the memory server natively on this machine, over loopback, beside others.
//!
//! The server is kept to one processor and the generator (memsrv-race, the same for all) to another. What counts is
//! the server's own processor time: a rate would also say how quick the generator is. Contenders take turns within
//! each round, and ratios are those of a round, so that what the machine does meanwhile meets all of them.
//!
//! Three series: all contenders at several depths and connections; ours with more and more pages, beside the fewest
//! at the same time; and ours with more and more clients.

mod contender;
mod generator;
mod table;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use comfy_table::Table;
use qemu_test_results::figures::float;
use qemu_test_results::race::{Beside, Raced, Sample};

use crate::record::Recording;
use crate::tree::Tree;
use contender::{available_bytes, Contender, Processors, Running, PAGE_SIZE};
use generator::Generator;

/// Pages that all contenders are filled with: 256 MiB, far more than processors' caches.
const PAGES: u64 = 65_536;
/// Requests in flight on one connection; and of a quick run.
const DEPTHS: &[u16] = &[1, 8, 32, 128];
const QUICK_DEPTHS: &[u16] = &[1, 32, 128];
/// Connections with one request each; and of a quick run.
const CONNECTIONS: &[u16] = &[16, 64, 256];
const QUICK_CONNECTIONS: &[u16] = &[64, 256];
/// Pages in the second series; the first is what the others are compared with.
const SIZES: [u64; 4] = [10_000, 100_000, 1_000_000, 4_000_000];
/// Clients in the third.
const CLIENTS: [u16; 3] = [1, 8, 64];
/// Requests in flight of each client in the second and the third.
const DEPTH: u16 = 32;
/// Loads only, and stores only: percent, and the word.
const KINDS: [(u8, &str); 2] = [(100, "loads"), (0, "stores")];
/// Processor time is counted by hundredths of a second: a server that got less than this cannot be judged by it.
const LEAST_CPU_US: u64 = 50_000;
/// From so many pages on memory beside them is held to its goal.
const MANY_PAGES: u64 = 1_000_000;

/// What is kept for all of a run.
struct Race<'a> {
    tree: &'a Tree,
    logs: PathBuf,
    processors: Processors,
    depths: &'static [u16],
    connections: &'static [u16],
    most_pages: u64,
    raced: Raced,
}

/// Measures all, shows tables, and keeps what was measured as the part `server`.
pub fn run(tree: &Tree, quick: bool) -> Result<bool> {
    let recording = Recording::begin(tree, quick)?;
    let mut race = Race {
        tree,
        logs: tree.logs("bench-server")?,
        processors: Processors::choose()?,
        depths: if quick { QUICK_DEPTHS } else { DEPTHS },
        connections: if quick {
            QUICK_CONNECTIONS
        } else {
            CONNECTIONS
        },
        most_pages: if quick { 1_000_000 } else { u64::MAX },
        raced: Raced {
            rounds: if quick { 2 } else { 5 },
            ms: if quick { 400 } else { 1000 },
            ..Raced::default()
        },
    };
    race.compare()?;
    race.grow()?;
    race.crowd()?;
    for table in tables(&race.raced) {
        println!("\n{table}");
    }
    recording.keep(tree, race.raced, |results| &mut results.server)?;
    Ok(true)
}

impl Race<'_> {
    /// Starts a server of ours or another.
    fn serve(&self, who: Contender, pages: u64, number: u16) -> Result<Running> {
        let processor = self.processors.server;
        Running::start(self.tree, who, processor, pages, number, &self.logs)
    }

    /// Starts a generator, which fills the server.
    fn fill(&self, server: &Running, shape: (u16, u16), pages: u64) -> Result<Generator> {
        let processor = self.processors.generator;
        Generator::start(self.tree, processor, server, shape, pages, &self.logs)
    }

    /// Measures once and keeps it.
    fn measure(
        &mut self,
        generator: &mut Generator,
        (series, case, who): (&str, &str, &str),
        round: usize,
        (depth, loads): (u16, u8),
    ) -> Result<()> {
        let line = generator.measure(depth, loads, self.raced.ms)?;
        let cpu_us = line.server.cpu_us;
        if cpu_us < LEAST_CPU_US {
            println!("  {case}, {who}: left out, the server had a processor for {cpu_us} us only");
            return Ok(());
        }
        self.raced.samples.push(Sample {
            series: series.to_owned(),
            case: case.to_owned(),
            who: who.to_owned(),
            round,
            line,
        });
        Ok(())
    }

    /// All contenders, at several depths and with several connections.
    fn compare(&mut self) -> Result<()> {
        // Twice the pages: each of many connections has page tables of its own.
        let servers = Contender::ALL
            .into_iter()
            .map(|who| self.serve(who, 2 * PAGES, 0))
            .collect::<Result<Vec<Running>>>()?;
        let single = (1, self.depths);
        let many = self.connections.iter().map(|many| (*many, &[1][..]));
        for (connections, depths) in std::iter::once(single).chain(many) {
            println!("{connections} connections, depths {depths:?}: all contenders");
            let deepest = depths.iter().copied().max().unwrap_or(1);
            let mut generators = servers
                .iter()
                .map(|server| {
                    let generator = self.fill(server, (connections, deepest), PAGES)?;
                    Ok((server.who, generator))
                })
                .collect::<Result<Vec<(Contender, Generator)>>>()?;
            for round in 0..self.raced.rounds {
                for (depth, (loads, word)) in pairs(depths, &KINDS) {
                    let case = format!("{word}, {connections} x depth {depth}");
                    for (who, generator) in &mut generators {
                        let what = ("compare", case.as_str(), who.name());
                        self.measure(generator, what, round, (depth, loads))?;
                    }
                }
                // Another begins the next round.
                generators.rotate_left(1);
            }
            for (_, generator) in generators {
                generator.end()?;
            }
        }
        Ok(())
    }

    /// Ours with more and more pages, each beside the fewest.
    fn grow(&mut self) -> Result<()> {
        let [base, sizes @ ..] = SIZES;
        let small = self.serve(Contender::Memsrvd, base, 0)?;
        let mut small_generator = self.fill(&small, (1, DEPTH), base)?;
        self.note_memory(&small, base, &mut small_generator)?;
        let (mut first_round, most) = (0, self.most_pages);
        for pages in sizes.into_iter().filter(|pages| *pages <= most) {
            // Tables, the generator, and something for the machine itself.
            let needed = pages * PAGE_SIZE / 100 * 102 + (512 << 20);
            let available = available_bytes()?;
            if available < needed {
                let mib = |bytes| bytes >> 20;
                let (needed, available) = (mib(needed), mib(available));
                println!("{pages} pages: left out, {needed} MiB are needed and {available} MiB available");
                continue;
            }
            println!("{pages} pages, beside {base}");
            let server = self.serve(Contender::Memsrvd, pages, 1)?;
            let mut generator = self.fill(&server, (1, DEPTH), pages)?;
            for round in first_round..first_round + self.raced.rounds {
                for (loads, word) in KINDS {
                    let beside = (&mut small_generator, base);
                    for (generator, pages) in [beside, (&mut generator, pages)] {
                        let who = format!("{pages} pages");
                        let what = ("grow", word, who.as_str());
                        self.measure(generator, what, round, (DEPTH, loads))?;
                    }
                }
            }
            first_round += self.raced.rounds;
            self.note_memory(&server, pages, &mut generator)?;
            generator.end()?;
        }
        small_generator.end()
    }

    /// Notes what a server that is filled with so many pages holds beside them.
    fn note_memory(
        &mut self,
        server: &Running,
        pages: u64,
        generator: &mut Generator,
    ) -> Result<()> {
        let line = generator.measure(1, 100, 10)?;
        let rss_bytes = line.server.rss_bytes.context("memsrv-race tells no RSS")?;
        let output = Command::new(self.tree.file("memsrvctl")?)
            .args(["status", "--json", "--server", &server.address.to_string()])
            .output()
            .context("running memsrvctl")?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)
            .context("what memsrvctl status --json printed")?;
        let number = |name: &str| {
            let value = status.pointer(&format!("/server/{name}"));
            let value = value.and_then(serde_json::Value::as_u64);
            value.with_context(|| format!("memsrvctl status tells no {name}: {status}"))
        };
        let (used, overhead_bytes) = (number("used_pages")?, number("overhead_bytes")?);
        ensure!(
            used == pages,
            "the server holds {used} pages, {pages} were stored"
        );
        let stored = used * PAGE_SIZE;
        let percent = float(rss_bytes.saturating_sub(stored)) / float(stored) * 100.0;
        self.raced.memory.push(Beside {
            pages,
            rss_bytes,
            overhead_bytes,
            percent,
        });
        Ok(())
    }

    /// Ours with more and more clients, as many pages for all together.
    fn crowd(&mut self) -> Result<()> {
        println!("{CLIENTS:?} clients");
        let room = PAGES * 2 * u64::try_from(CLIENTS.len()).unwrap_or(1);
        let server = self.serve(Contender::Memsrvd, room, 0)?;
        let mut generators = CLIENTS
            .into_iter()
            .map(|clients| Ok((clients, self.fill(&server, (clients, DEPTH), PAGES)?)))
            .collect::<Result<Vec<(u16, Generator)>>>()?;
        for round in 0..self.raced.rounds {
            for (depth, (loads, word)) in pairs(&[1, DEPTH], &KINDS) {
                let case = format!("{word}, depth {depth}");
                for (clients, generator) in &mut generators {
                    let who = format!("{clients} clients");
                    let what = ("crowd", case.as_str(), who.as_str());
                    self.measure(generator, what, round, (depth, loads))?;
                }
            }
            generators.rotate_left(1);
        }
        for (_, generator) in generators {
            generator.end()?;
        }
        Ok(())
    }
}

/// What was raced, as tables, with the goals.
pub fn tables(raced: &Raced) -> [Table; 5] {
    let series = |name| table::of_series(&raced.samples, name);
    let (compared, grown, crowded) = (series("compare"), series("grow"), series("crowd"));
    let few_pages = SIZES.map(|pages| format!("{pages} pages"));
    let few_clients = CLIENTS.map(|clients| format!("{clients} clients"));
    let few = |names: &[String]| names.first().cloned().unwrap_or_default();
    let (few_pages, few_clients) = (few(&few_pages), few(&few_clients));
    let goals = [
        table::goal_against(&compared, Contender::NbdkitOneThread, 2.0),
        table::goal_against(&compared, Contender::Nbdkit, 2.0),
        table::goal_against(&compared, Contender::Echo, 0.8),
        table::goal_growth(&grown, &few_pages, "with more pages", 1.1),
        table::goal_growth(&crowded, &few_clients, "with more clients", 1.1),
        table::goal_memory(&raced.memory, MANY_PAGES, 1.0),
    ];
    [
        table::comparison(&compared),
        table::growth(&grown, &few_pages),
        table::growth(&crowded, &few_clients),
        table::memory(&raced.memory),
        table::goals(&goals),
    ]
}

/// Each of these with each of those.
fn pairs<A: Copy, B: Copy>(these: &[A], those: &[B]) -> Vec<(A, B)> {
    these
        .iter()
        .flat_map(|this| those.iter().map(|that| (*this, *that)))
        .collect()
}
