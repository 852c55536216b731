// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A server in the test's own process, and pages that tell where they belong.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Parser;
use memsrv_client::{Client, ClientConfig, Page, Slot, PAGE_SIZE};
use memsrvd::config::{Args, Config};

/// A server on a port of its own, stopped when dropped.
pub struct Server {
    pub address: SocketAddr,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(options: &[&str]) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), options)
    }

    pub fn start_on(address: SocketAddr, options: &[&str]) -> Self {
        let fixed = ["memsrvd", "--no-lock", "--listen", "127.0.0.1:0"];
        let args = Args::try_parse_from(fixed.iter().chain(options)).unwrap();
        let config = Config::resolve(args).unwrap();
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let run = move || memsrvd::server::run(&config, listener, stopped).unwrap();
        let thread = Some(std::thread::spawn(run));
        Self {
            address,
            stop: Some(stop),
            thread,
        }
    }

    /// One of the numbers that the server tells of itself.
    pub fn number(&self, name: &str) -> u64 {
        let text = memsrv_client::stat(self.address, Duration::from_secs(5)).unwrap();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        report[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no number {name} in {text}"))
    }

    pub fn used_pages(&self) -> u64 {
        self.number("used_pages")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let stopped = thread.join();
            assert!(stopped.is_ok() || std::thread::panicking());
        }
    }
}

pub fn config() -> ClientConfig {
    ClientConfig::new("test", "region")
}

pub fn connect(server: &Server) -> Client {
    Client::connect(server.address, config()).unwrap()
}

/// A page that differs from slot to slot and from version to version.
pub fn page(slot: Slot, version: u64) -> Page {
    let mut page = [0; PAGE_SIZE];
    for (i, word) in page.chunks_exact_mut(8).enumerate() {
        let number = slot.0 ^ version.rotate_left(32) ^ (u64::try_from(i).unwrap() << 20);
        word.copy_from_slice(&number.to_le_bytes());
    }
    page
}

pub fn load(client: &Client, slot: Slot) -> Result<Page, memsrv_client::Error> {
    let mut got = [0; PAGE_SIZE];
    client.load(slot, &mut got).map(|()| got)
}
