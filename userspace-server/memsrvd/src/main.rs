// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The memory server's program: options, signals, exit codes. All else is the library.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::Parser;
use memsrvd::config::{Args, Config};
use memsrvd::error::StartError;
use memsrvd::{listener, log, memory, server};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

fn main() -> ExitCode {
    let config = match Config::resolve(Args::parse()) {
        Ok(config) => config,
        Err(error) => return fail(&mut std::io::stderr(), &error),
    };
    let failures = match config.lock {
        true => memory::protect(),
        false => Vec::new(),
    };
    let mut log = match log::start(config.log_format, config.log_level) {
        Ok(log) => log,
        Err(error) => {
            let error = StartError::io("cannot write a log")(error);
            return fail(&mut std::io::stderr(), &error);
        }
    };
    for failure in failures {
        tracing::warn!("{failure}");
    }
    // The log is dropped, and so written to its end, after the last word.
    match start(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&mut log, &error),
    }
}

fn fail(to: &mut impl Write, error: &StartError) -> ExitCode {
    // In one write, and if nobody listens there is still the exit code.
    let _ = to.write_all(format!("memsrvd: {error}\n").as_bytes());
    ExitCode::from(error.exit_code())
}

fn start(config: &Config) -> Result<(), StartError> {
    server::raise_descriptor_limit();
    let shutdown = signals().map_err(StartError::io("cannot wait for signals"))?;
    // The port first: it costs nothing, and a second server by mistake is the usual error.
    let listener = match config.listen_anywhere {
        true => listener::bind_anywhere(config.listen)?,
        false => listener::bind(config.listen)?,
    };
    server::run(config, listener, shutdown)
}

/// A socket that a byte can be read from for each SIGTERM or SIGINT.
fn signals() -> std::io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    pipe::register(SIGTERM, write.try_clone()?)?;
    pipe::register(SIGINT, write)?;
    Ok(read)
}
