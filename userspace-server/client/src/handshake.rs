// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Making a connection: TCP, HELLO and WELCOME, blocking; and the question for statistics.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use memsrv_protocol::{Hello, Message, Sender, Tag, Welcome, HEADER_LEN, MAX_PAYLOAD, VERSION};

use crate::error::Error;

/// The longest refusal that is kept.
const TEXT_MAX: usize = 1024;

/// A connection to a server that has said nothing yet; reads and writes wait no longer than `timeout`.
pub(crate) fn connect(address: SocketAddr, timeout: Duration) -> Result<TcpStream, Error> {
    let connect = || {
        let socket = TcpStream::connect_timeout(&address, timeout)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        Ok(socket)
    };
    connect().map_err(|source| Error::Connect { address, source })
}

/// Says HELLO and takes the answer.
pub(crate) fn open(
    mut socket: &TcpStream,
    address: SocketAddr,
    hello: &Hello,
) -> Result<Welcome, Error> {
    let broken = |source| Error::Handshake { address, source };
    let mut out = Message::Hello.encode().to_vec();
    out.extend(hello.encode());
    socket.write_all(&out).map_err(broken)?;
    match read_message(socket, address)? {
        Message::Welcome => {
            let mut payload = [0; Welcome::LEN];
            socket.read_exact(&mut payload).map_err(broken)?;
            match Welcome::decode(&payload) {
                Ok(welcome) if welcome.version == VERSION => Ok(welcome),
                _ => Err(Error::NotMemsrv { address }),
            }
        }
        Message::Refused { status, len } => {
            let text = read_text(socket, len).map_err(broken)?;
            Err(Error::Refused {
                address,
                status,
                text: text.chars().take(TEXT_MAX).collect(),
            })
        }
        _ => Err(Error::NotMemsrv { address }),
    }
}

/// A server's statistics, as JSON. No session is needed, nor made.
///
/// # Errors
///
/// The server cannot be reached or is none, or has no statistics to give.
pub fn stat(address: SocketAddr, timeout: Duration) -> Result<String, Error> {
    let mut socket = &connect(address, timeout)?;
    let broken = |source| Error::Handshake { address, source };
    socket
        .write_all(&Message::Stat { tag: Tag(1) }.encode())
        .map_err(broken)?;
    match read_message(socket, address)? {
        Message::Stats { tag: Tag(1), len } => read_text(socket, len).map_err(broken),
        Message::Refused { status, len } => {
            let text = read_text(socket, len).map_err(broken)?;
            Err(Error::Refused {
                address,
                status,
                text,
            })
        }
        _ => Err(Error::NotMemsrv { address }),
    }
}

fn read_message(mut socket: &TcpStream, address: SocketAddr) -> Result<Message, Error> {
    let mut header = [0; HEADER_LEN];
    socket
        .read_exact(&mut header)
        .map_err(|source| Error::Handshake { address, source })?;
    Message::decode(&header, Sender::Server).map_err(|_| Error::NotMemsrv { address })
}

fn read_text(mut socket: &TcpStream, len: u32) -> io::Result<String> {
    // The decoder lets no greater length through.
    let len = usize::try_from(len.min(MAX_PAYLOAD)).map_err(io::Error::other)?;
    let mut text = vec![0; len];
    socket.read_exact(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
