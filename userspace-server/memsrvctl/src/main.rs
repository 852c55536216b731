// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Shows what a memory server, or the memsrv module of this machine, is doing, and tells the module.

mod control;
mod error;
mod giveup;
mod module;
mod replace;
mod server;
mod show;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use serde_json::{json, Value};

use error::Error;

const SERVER_HELP: &str = "Ask the server at this address, as 10.0.0.2, 10.0.0.2:7170 or \
    [2001:db8::2]:7170 [default: the module of this machine]";

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 the server cannot be reached or answers nonsense, or the module refuses;
2 wrong option, or giveup without --yes; 3 the module is not loaded here, or debugfs is not mounted.

See memsrvctl(8).";

/// Where debugfs is, unless somebody says otherwise.
const DEBUGFS: &str = "/sys/kernel/debug";

/// Looks after memory servers and the memsrv module.
#[derive(Debug, Parser)]
#[command(name = "memsrvctl", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what is connected to what, how much is stored, and rates
    Status(Status),
    /// Ends every wait for pages of servers that are away: the pages are lost
    ///
    /// A load whose server is away waits for hold_ms, and a load of swapoff until the server is back.
    /// This ends all these waits. The pages are lost, unless a server comes back: programs that need
    /// them get SIGBUS. The module refuses while a server is connected.
    Giveup(giveup::Giveup),
    /// Takes another server in the place of one of two, and has it filled by the other
    ///
    /// Programs run on meanwhile. The module refuses while the other server is away or lacks pages.
    Replace(replace::Replace),
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
struct Status {
    /// The server to ask.
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = server::address, help = SERVER_HELP)]
    server: Option<std::net::SocketAddr>,
    /// Write JSON, one object a line
    #[arg(long)]
    json: bool,
    /// Show again and again, with rates
    #[arg(long)]
    watch: bool,
    /// Seconds between two looks; without --watch there are two, and then the rates [default: 2]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: Option<u64>,
    /// Where debugfs is mounted
    #[arg(long, value_name = "DIR", default_value = DEBUGFS)]
    debugfs: PathBuf,
}

/// One look at a server or at the module.
enum Sample {
    Server(Box<server::Sample>),
    Module(module::Sample),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Status(options) => status(&options),
        Command::Giveup(options) => giveup::run(&options),
        Command::Replace(options) => replace::run(&options),
    };
    match result {
        // Whoever reads our output has seen enough.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "memsrvctl: {}", harmless(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

fn status(options: &Status) -> Result<(), Error> {
    let interval = Duration::from_secs(options.interval.unwrap_or(2));
    let mut before = (take(options)?, Instant::now());
    if options.interval.is_none() || options.watch {
        print(options, &before.0, None)?;
    }
    if options.interval.is_none() && !options.watch {
        return Ok(());
    }
    loop {
        std::thread::sleep(interval);
        let now = match take(options) {
            Ok(now) => (now, Instant::now()),
            // It may come back; whoever watches wants to see that, too.
            Err(error) if options.watch => {
                let words = format!("unreachable: {error}");
                write(options, &json!({"unreachable": error.to_string()}), &words)
                    .map_err(Error::Output)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let elapsed = now.1.saturating_duration_since(before.1);
        print(options, &now.0, Some((&before.0, elapsed)))?;
        if !options.watch {
            return Ok(());
        }
        before = now;
    }
}

fn take(options: &Status) -> Result<Sample, Error> {
    match options.server {
        Some(address) => Ok(Sample::Server(Box::new(server::take(address)?))),
        None => Ok(Sample::Module(module::take(&options.debugfs)?)),
    }
}

fn print(options: &Status, now: &Sample, before: Option<(&Sample, Duration)>) -> Result<(), Error> {
    let (object, text) = match (now, before) {
        (Sample::Server(now), Some((Sample::Server(before), elapsed))) => {
            let rates = server::rates(before, now, elapsed);
            (
                json!({"server": now, "rates": rates}),
                show::server(now, Some(&rates)),
            )
        }
        (Sample::Server(now), _) => (json!({"server": now}), show::server(now, None)),
        (Sample::Module(now), Some((Sample::Module(before), elapsed))) => {
            let rates = module::rates(before, now, elapsed);
            (
                json!({"module": now, "rates": rates}),
                show::module(now, Some(&rates)),
            )
        }
        (Sample::Module(now), _) => (json!({"module": now}), show::module(now, None)),
    };
    write(options, &object, &text).map_err(Error::Output)
}

/// Text without what a terminal would obey: some of it is the other side's.
fn harmless(text: &str) -> String {
    let one = |c: char| match c.is_control() && c != '\n' {
        true => char::REPLACEMENT_CHARACTER,
        false => c,
    };
    text.chars().map(one).collect()
}

fn write(options: &Status, object: &Value, text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if options.json {
        writeln!(out, "{object}")?;
    } else {
        if options.watch && out.is_terminal() {
            // Back to the top left, and away with the rest.
            write!(out, "\x1b[H\x1b[J")?;
        }
        writeln!(out, "{}", harmless(text))?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn a_terminal_has_nothing_to_obey() {
        assert_eq!(
            harmless("a\n\x1b[2J\u{9b}1m\x07 \u{e4}"),
            "a\n\u{fffd}[2J\u{fffd}1m\u{fffd} \u{e4}"
        );
    }
}
