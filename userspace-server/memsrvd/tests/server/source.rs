// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! For tests of PULL: a server to fetch pages from that does what a test wants done, and a client's side.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::*;
use memsrv_protocol::*;
use memsrvd::batch::checksum;

/// The life of every scripted source.
pub const INSTANCE: Instance = Instance([0x5a; 16]);

/// A port at which a test plays a server.
pub struct Source {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Source {
    pub fn new() -> Source {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        Source { listener, address }
    }

    /// The next connection of the server under test.
    pub fn accept(&self) -> Puller {
        let mut accepted = None;
        wait_until("the server connects", || {
            accepted = self.listener.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Puller { stream }
    }

    /// The next connection, with its ATTACH answered.
    pub fn attached(&self) -> Puller {
        let mut puller = self.accept();
        puller.attach();
        puller.welcome(INSTANCE);
        puller
    }

    /// Whether somebody has connected who was not accepted yet.
    pub fn is_called(&self) -> bool {
        match self.listener.accept() {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    }
}

/// A connection of the server under test, which pulls.
pub struct Puller {
    pub stream: TcpStream,
}

impl Puller {
    pub fn send(&mut self, bytes: &[u8]) {
        // It may have hung up, which is what the test waits for then.
        let _ = self.stream.write_all(bytes);
    }

    fn header(&mut self) -> Message {
        let mut header = [0; HEADER_LEN];
        self.stream.read_exact(&mut header).expect("a request");
        Message::decode(&header, Sender::Client).unwrap()
    }

    /// Takes the ATTACH.
    pub fn attach(&mut self) -> Hello {
        assert_eq!(self.header(), Message::Attach);
        let mut hello = [0; Hello::LEN];
        self.stream.read_exact(&mut hello).unwrap();
        Hello::decode(&hello).unwrap()
    }

    pub fn welcome(&mut self, instance: Instance) {
        self.welcome_as(VERSION, instance);
    }

    pub fn welcome_as(&mut self, version: u16, instance: Instance) {
        let welcome = Welcome {
            version,
            options: 0,
            instance,
            granted: 0,
            stored: 0,
            executed: Seq(0),
            window: 4096,
            mirror: None,
        };
        self.send(&[&Message::Welcome.encode()[..], &welcome.encode()].concat());
    }

    /// Takes the next LOAD.
    pub fn load(&mut self) -> (Tag, u64, u16) {
        match self.header() {
            Message::Load { tag, slot, count } => (tag, slot.0, count),
            other => panic!("{other:?} instead of LOAD"),
        }
    }

    pub fn page(&mut self, tag: Tag, slot: u64, page: &[u8; PAGE_SIZE]) {
        self.send(&page_bytes(tag, slot, page));
    }

    pub fn no_page(&mut self, tag: Tag, slot: u64, status: Status) {
        let slot = Slot(slot);
        self.send(&Message::NoPage { tag, slot, status }.encode());
    }

    /// Waits until the server under test has closed; gives back what it said before.
    pub fn closed(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("open: {error}"),
            _ => rest,
        }
    }
}

pub fn page_bytes(tag: Tag, slot: u64, page: &[u8; PAGE_SIZE]) -> Vec<u8> {
    let slot = Slot(slot);
    let crc = checksum(slot, page);
    let len = PAGE_LEN;
    let header = Message::Page {
        tag,
        slot,
        crc,
        len,
    };
    [&header.encode()[..], page].concat()
}

/// The mask of these places in a cluster.
pub fn mask(indices: impl IntoIterator<Item = usize>) -> FreeMask {
    let mut mask = FreeMask::EMPTY;
    indices.into_iter().for_each(|index| mask.insert(index));
    mask
}

/// The bytes of a PULL.
pub fn pull_bytes(tag: u64, base: u64, pull: &Pull) -> Vec<u8> {
    let (slot, payload) = (Slot(base), pull.encode());
    let header = Message::Pull {
        tag: Tag(tag),
        slot,
        crc: checksum(slot, &payload),
    };
    [&header.encode()[..], &payload].concat()
}

/// A PULL's payload.
pub fn pull_from(mask: &FreeMask, address: SocketAddr, instance: Instance) -> Pull {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    Pull {
        mask: *mask,
        instance,
        address: ip.octets(),
        port: address.port(),
    }
}

/// How a PULL ended.
pub type Outcome = Result<(), Status>;

impl Client {
    /// Asks for slots from a scripted source.
    pub fn pull(&mut self, tag: u64, base: u64, mask: &FreeMask, source: &Source) {
        let pull = pull_from(mask, source.address, INSTANCE);
        self.send(&pull_bytes(tag, base, &pull));
    }

    /// Waits for a PULLED; gives back its tag and what it says.
    pub fn pulled(&mut self) -> (u64, Outcome) {
        match self.receive().0 {
            Message::Pulled { tag, status, .. } => (tag.0, status.map_or(Ok(()), Err)),
            other => panic!("{other:?} instead of PULLED"),
        }
    }
}

/// A server that gives others less time, so that a test needs less.
pub fn hasty(options: &[&str]) -> Server {
    let mut config = config(options);
    config.limits.pull.silence = Duration::from_millis(300);
    config.limits.pull.whole = Duration::from_secs(2);
    Server::with(config)
}

/// The server's life.
pub fn instance(server: &Server) -> Instance {
    let digits = server.report().instance;
    Instance(u128::from_str_radix(&digits, 16).unwrap().to_be_bytes())
}
