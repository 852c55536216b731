// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A listener in the memory server's place that is none, or a bad one: for insmod's error paths, and for
//! what a peer may not be able to do to the module.

mod rubbish;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use memsrv_protocol::{
    Hello, Instance, Message, Op, Seq, Slot, Status, Tag, Welcome, HEADER_LEN, PAGE_LEN, PAGE_SIZE,
    VERSION,
};
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
            let mut treated = Vec::new();
            let mut number = 0;
            while !seen.load(Ordering::Relaxed) {
                if let Ok((socket, _)) = listener.accept() {
                    let seen = Arc::clone(&seen);
                    // What the peer does meanwhile is not our concern.
                    treated.push(std::thread::spawn(move || {
                        treat(socket, kind, number, &seen)
                    }));
                    number += 1;
                } else {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            for thread in treated {
                let _ = thread.join();
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

/// Deals with connection `number`; an error is the connection's end.
fn treat(mut socket: TcpStream, kind: Fake, number: u64, stop: &AtomicBool) -> std::io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    match kind {
        Fake::Closes => return Ok(()),
        Fake::Silent => {}
        Fake::Noise => {
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")?;
        }
        Fake::Deaf => welcome(&mut socket, 0)?,
        Fake::Rubbish => {
            welcome(&mut socket, Hello::LZ4)?;
            return rubbish::serve(&mut socket, stop);
        }
        Fake::Hostile => {
            welcome(&mut socket, 0)?;
            return molest(&mut socket, number, stop);
        }
    }
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if kind == Fake::Deaf {
            // It is alive, it only does not do what it is asked for.
            socket.write_all(&Message::Pong { tag: Tag(0) }.encode())?;
        }
    }
    Ok(())
}

fn welcome(socket: &mut TcpStream, options: u32) -> std::io::Result<()> {
    let mut hello = [0; HEADER_LEN + Hello::LEN];
    socket.read_exact(&mut hello)?;
    let welcome = Welcome {
        version: VERSION,
        options,
        instance: Instance([7; 16]),
        granted: 1 << 20,
        stored: 0,
        executed: Seq(0),
        window: 4096,
        mirror: None,
    };
    socket.write_all(&Message::Welcome.encode())?;
    socket.write_all(&welcome.encode())
}

/// Says what no server may say, after it has read something; what, goes by the connection's number.
fn molest(socket: &mut TcpStream, number: u64, stop: &AtomicBool) -> std::io::Result<()> {
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let tag = Tag(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (slot, status) = (Slot(number), Status::NotFound);
    let page = [0x5a; PAGE_SIZE];
    match number % 10 {
        0 => socket.write_all(&Message::Ack { seq: Seq(u64::MAX) }.encode())?,
        1 => {
            let seq = Seq(u64::MAX);
            socket.write_all(&Message::Nak { seq, status }.encode())?;
        }
        2 => {
            let (crc, len) = (0, PAGE_LEN);
            let header = Message::Page {
                tag,
                slot,
                crc,
                len,
            };
            socket.write_all(&header.encode())?;
            socket.write_all(&page)?;
        }
        3 => socket.write_all(&Message::NoPage { tag, slot, status }.encode())?,
        4 => socket.write_all(&[0xff; 4096])?,
        5 => socket.write_all(&Message::Welcome.encode())?,
        6 => {
            // Longer than anything may be.
            let len = u32::MAX;
            let op = Op(0x7777);
            socket.write_all(&Message::Strange { tag, op, len }.encode())?;
        }
        7 => {
            // Allowed, and of no use: it has to be passed over.
            let (op, len) = (Op(0x7777), 4096);
            socket.write_all(&Message::Strange { tag, op, len }.encode())?;
            socket.write_all(&page)?;
            socket.write_all(&Message::Unknown { tag, op: Op::STORE }.encode())?;
        }
        8 => {
            // Acknowledges what it has not kept.
            for seq in (1..=number).map(Seq) {
                socket.write_all(&Message::Ack { seq }.encode())?;
            }
        }
        _ => socket.write_all(&Message::Hello.encode().map(|byte| !byte))?,
    }
    // The other side closes, or takes what was allowed and waits in vain.
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) && rounds < 20 {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => rounds += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
