// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A memory server in the test's own process.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use clap::Parser;
use memsrvd::config::{Args, Config};

/// One that listens.
pub struct Server {
    /// Where.
    pub address: String,
    stop: UnixStream,
    thread: JoinHandle<()>,
}

impl Server {
    /// Starts it.
    pub fn start() -> Self {
        let fixed = [
            "memsrvd",
            "--no-lock",
            "--listen",
            "127.0.0.1:0",
            "--capacity",
            "16M",
        ];
        let config = Config::resolve(Args::try_parse_from(fixed).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let run = move || memsrvd::server::run(&config, listener, stopped).unwrap();
        let thread = std::thread::spawn(run);
        Self {
            address,
            stop,
            thread,
        }
    }

    /// Ends it; a panic of its is the test's.
    pub fn end(self) {
        drop(self.stop);
        self.thread.join().unwrap();
    }
}
