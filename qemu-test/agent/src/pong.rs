// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The floor of remote memory: a ping of 32 bytes and a pong of 4128 over TCP, user space to user space, as
//! large as a LOAD and its answer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{bail, Context, Result};

/// Bytes there.
const PING: usize = 32;
/// Bytes back.
const PONG: usize = 4128;

/// The `pong` program: `pong ADDRESS:PORT` answers pings for ever, one connection at a time.
pub fn program(arguments: &[String]) -> Result<()> {
    let [address] = arguments else {
        bail!("usage: pong ADDRESS:PORT");
    };
    let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
    loop {
        let (socket, _) = listener.accept().context("accepting")?;
        socket.set_nodelay(true).context("TCP_NODELAY")?;
        // Who pings says no goodbye.
        let _ = answer(socket);
    }
}

fn answer(mut socket: TcpStream) -> std::io::Result<()> {
    let (mut ping, pong) = ([0; PING], [7; PONG]);
    loop {
        socket.read_exact(&mut ping)?;
        socket.write_all(&pong)?;
    }
}

/// Nanoseconds of each of `rounds` pings.
pub fn ping(address: &str, rounds: usize) -> Result<Vec<u64>> {
    let mut socket = TcpStream::connect(address).with_context(|| format!("reaching {address}"))?;
    socket.set_nodelay(true).context("TCP_NODELAY")?;
    let (ping, mut pong) = ([3; PING], [0; PONG]);
    let mut ns = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let began = Instant::now();
        socket.write_all(&ping).context("pinging")?;
        socket.read_exact(&mut pong).context("waiting for a pong")?;
        ns.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(ns)
}
