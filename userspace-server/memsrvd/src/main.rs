// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The memory server's program: options, signals, exit codes. All else is the library.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::Parser;
use memsrvd::config::{Args, Config};
use memsrvd::error::StartError;
use memsrvd::{log, server};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("memsrvd: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn start() -> Result<(), StartError> {
    let config = Config::resolve(Args::parse())?;
    log::start(config.log_format, config.log_level);
    let shutdown = signals().map_err(StartError::io("cannot wait for signals"))?;
    // The port first: it costs nothing, and a second server by mistake is the usual error.
    let listener = server::listen(config.listen)?;
    server::run(&config, listener, shutdown)
}

/// A socket that a byte can be read from for each SIGTERM or SIGINT.
fn signals() -> std::io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    pipe::register(SIGTERM, write.try_clone()?)?;
    pipe::register(SIGINT, write)?;
    Ok(read)
}
