// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A memsrvd in a process of its own, so that it can be stopped and killed.
//!
//! The program is this test's own, started again: cargo builds no other crate's programs for a test.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use clap::Parser;
use memsrvd::config::{Args, Config};
use rustix::process::{kill_process, Pid, Signal};

/// Says to the process that it is the server, and its capacity.
const CAPACITY: &str = "MEMSRV_HISTORY_CAPACITY";

/// What stands before the address in the server's output.
const LISTENING: &str = "memsrvd listens on ";

/// The process; killed when dropped. When this process ends in whatever way its standard input ends, and
/// with that the server.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
    _output: BufReader<ChildStdout>,
}

impl Server {
    /// Starts it empty, on a port of its own.
    pub fn start(capacity: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server::the_server_of_the_other_tests"])
            .args(["--ignored", "--nocapture"])
            .env(CAPACITY, capacity)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with(LISTENING) {
            line.clear();
            let len = output.read_line(&mut line).unwrap();
            assert_ne!(len, 0, "the server ended before it listened");
        }
        let address = line[LISTENING.len()..].trim().parse().unwrap();
        Self {
            address,
            child,
            _output: output,
        }
    }

    /// Stops it for so long.
    pub fn pause(&self, ms: u64) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).unwrap();
        sleep(Duration::from_millis(ms));
        kill_process(pid, Signal::CONT).unwrap();
    }

    /// Kills it, and waits until it is dead.
    pub fn kill(&mut self) {
        // It may be dead already; then there is nothing to kill.
        let _dead = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Pages that it holds.
    pub fn used_pages(&self) -> u64 {
        let text = memsrv_client::stat(self.address, Duration::from_secs(60)).unwrap();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        report["used_pages"].as_u64().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
#[ignore = "the other tests start it as a program"]
fn the_server_of_the_other_tests() {
    let Ok(capacity) = std::env::var(CAPACITY) else {
        return;
    };
    let options = [
        "memsrvd",
        "--no-lock",
        "--listen",
        "127.0.0.1:0",
        "--capacity",
    ];
    let args = Args::try_parse_from(options.iter().copied().chain([capacity.as_str()])).unwrap();
    let config = Config::resolve(args).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("\n{LISTENING}{}", listener.local_addr().unwrap());
    let (stop, stopped) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let _until_its_end = std::io::stdin().read_to_end(&mut Vec::new());
        drop(stop);
    });
    memsrvd::server::run(&config, listener, stopped).unwrap();
}
