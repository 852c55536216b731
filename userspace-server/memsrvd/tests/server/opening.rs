// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! When the server's port opens: not before there is memory, and never twice; and how it then sends.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use crate::support::*;
use memsrvd::error::StartError;
use memsrvd::{listener, server};
use rustix::net::sockopt::socket_acceptconn;

#[test]
fn nobody_connects_to_a_port_that_is_only_bound() {
    let config = config(&[]);
    let bound = listener::bind(config.listen).unwrap();
    let address = bound.local_addr().unwrap();
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let (stop, stopped) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || server::run(&config, bound, stopped));
    wait_until("it listens", || TcpStream::connect(address).is_ok());
    Client::connect(address).welcome(&hello("a", 1));
    drop(stop);
    thread.join().unwrap().unwrap();
}

#[test]
fn a_server_without_memory_never_listens() {
    let config = config(&["--capacity", "900T"]);
    let bound = listener::bind(config.listen).unwrap();
    // The same socket: what `run` does to it shows here.
    let same = bound.try_clone().unwrap();
    let (_stop, stopped) = UnixStream::pair().unwrap();
    let error = server::run(&config, bound, stopped).unwrap_err();
    assert!(matches!(error, StartError::Memory { .. }), "{error}");
    assert!(!socket_acceptconn(&same).unwrap());
}

/// Both are bound while neither listens, as the kernel allows; then it is the later that must go.
#[test]
fn of_two_servers_started_at_once_the_later_to_listen_exits_with_3() {
    let config = config(&[]);
    let bound = listener::bind(config.listen).unwrap();
    let address = bound.local_addr().unwrap();
    let other = listener::bind(address).unwrap();
    listener::open(&other).unwrap();
    let (_stop, stopped) = UnixStream::pair().unwrap();
    let error = server::run(&config, bound, stopped).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn pages_are_sent_by_cubic_unless_somebody_says_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memsrvd.toml");
    std::fs::write(&path, "congestion = \"dctcp\"\n").unwrap();
    let file = ["--config", path.to_str().unwrap()];
    assert_eq!(config(&[]).sockets.congestion, "cubic");
    assert_eq!(config(&file).sockets.congestion, "dctcp");
    assert_eq!(
        config(&[&file[..], &["--congestion", ""]].concat())
            .sockets
            .congestion,
        ""
    );
}
