// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A listener in the memory server's place that is none: for insmod's error paths.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use qemu_test_wire::{self as wire, Fake};

/// The listener; it ends with the value.
pub struct FakeServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeServer {
    /// Listens at the server's address.
    pub fn start(kind: Fake) -> Result<Self> {
        let listener = TcpListener::bind((wire::HOST_ADDRESS, wire::SERVER_PORT))
            .context("listening in the server's place")?;
        listener.set_nonblocking(true).context("socket options")?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            // Silent connections stay open until the end.
            let mut open = Vec::new();
            while !seen.load(Ordering::Relaxed) {
                if let Ok((socket, _)) = listener.accept() {
                    open.extend(treat(socket, kind));
                } else {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it would have shown as a failed scenario.
            let _ = thread.join();
        }
    }
}

/// Returns the connection if it is to stay open. What the peer does meanwhile is not our concern.
fn treat(mut socket: TcpStream, kind: Fake) -> Option<TcpStream> {
    let patience = Some(Duration::from_secs(5));
    socket.set_nonblocking(false).ok()?;
    socket.set_read_timeout(patience).ok()?;
    match kind {
        Fake::Closes => None,
        Fake::Silent => Some(socket),
        Fake::Noise => {
            socket
                .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                .ok()?;
            Some(socket)
        }
    }
}
