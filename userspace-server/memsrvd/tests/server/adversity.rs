// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The program where its surroundings fail it: nobody reads its log, no descriptor is left.

use std::io::BufRead;
use std::net::TcpStream;
use std::process::Command;

use crate::program::Running;
use crate::support::*;
use memsrv_protocol::*;
use rustix::process::Signal;

#[test]
fn a_log_whose_reader_has_gone_harms_nobody() {
    // At this level every connection writes lines, so each of the threads does.
    let mut server = Running::start(&["--log-level", "trace"]);
    server.log = None;
    for client in 0..20_u64 {
        let mut connection = Client::connect(server.address);
        connection.welcome(&hello(&format!("client-{client}"), 1));
        connection.store(client, &page(client));
        assert_eq!(connection.load(client).unwrap(), page(client));
    }
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let mut server = Running::start(&[]);
    let mut client = Client::connect(server.address);
    client.welcome(&hello("a", 1));
    // More lines than the pipe and the queue take together.
    for _ in 0..3000 {
        let mut refused = Client::connect(server.address);
        refused.send(&Message::Bye.encode());
        refused.receive();
    }
    client.store(1, &page(1));
    assert_eq!(client.load(1).unwrap(), page(1));
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn without_descriptors_it_says_so_once_and_stops_when_told() {
    let mut command = Command::new("prlimit");
    command.arg("--nofile=16:24");
    command.arg(assert_cmd::cargo::cargo_bin("memsrvd"));
    let mut server = Running::start_by(command, &["--threads", "1"]);
    let connect = |_| TcpStream::connect(server.address).unwrap();
    let connections: Vec<TcpStream> = (0..40).map(connect).collect();
    // Some tries that fail.
    std::thread::sleep(std::time::Duration::from_millis(500));
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    drop(connections);
    let lines = server.log.take().unwrap().lines().map(Result::unwrap);
    let said = lines.filter(|line| line.contains("cannot accept")).count();
    assert_eq!(said, 1);
}
