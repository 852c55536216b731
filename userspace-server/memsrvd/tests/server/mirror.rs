// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! For tests of FORWARD: servers with a mirror, and a mirror that does what a test wants done.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::*;
use memsrv_protocol::*;
use memsrvd::config::Config;

/// What a server with that mirror is told, with all the time in the world for the mirror.
pub fn mirrored(mirror: SocketAddr, options: &[&str]) -> Config {
    let mirror = mirror.to_string();
    let mut config = config(&[&["--mirror", &mirror], options].concat());
    let patient = config.mirror.as_mut().unwrap();
    (patient.welcome, patient.silence) = (PATIENCE, PATIENCE);
    config
}

/// A server with that mirror.
pub fn primary(mirror: SocketAddr, options: &[&str]) -> Server {
    Server::with(mirrored(mirror, options))
}

/// One that gives its mirror little time.
pub fn hasty_primary(mirror: SocketAddr) -> Server {
    let mut config = mirrored(mirror, &[]);
    let hasty = config.mirror.as_mut().unwrap();
    (hasty.welcome, hasty.silence) = (Duration::from_millis(300), Duration::from_millis(300));
    Server::with(config)
}

/// A HELLO for the only stream of region `r` that asks for FORWARD.
pub fn forward_hello(client: &str, life: u8, issued: u64) -> Hello {
    Hello {
        options: Hello::FORWARD,
        issued: Seq(issued),
        ..hello(client, life)
    }
}

pub fn is_forwarded(welcome: &Welcome) -> bool {
    welcome.options & Hello::FORWARD != 0
}

/// Where a WELCOME says that the mirror is.
pub fn mirror_of(welcome: &Welcome) -> SocketAddr {
    let mirror = welcome.mirror.expect("an address");
    let ip = std::net::Ipv6Addr::from(mirror.address);
    SocketAddr::new(ip.to_canonical(), mirror.port)
}

/// A session with one stream, forwarded.
pub fn forwarded(server: &Server, client: &str, life: u8) -> Client {
    let mut connection = server.connect();
    let welcome = connection.welcome(&forward_hello(client, life, 0));
    assert!(is_forwarded(&welcome));
    connection
}

/// A port at which a test plays the mirror.
pub struct Mirror {
    pub listener: TcpListener,
    pub address: SocketAddr,
}

impl Mirror {
    pub fn new() -> Mirror {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        Mirror { listener, address }
    }

    /// The next connection of the server under test.
    pub fn accept(&self) -> Fed {
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
        Fed { stream }
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

    /// Opens a session at the server under test and answers its HELLO here.
    pub fn session(&self, server: &Server, hello: &Hello, executed: u64) -> (Client, Fed, Welcome) {
        let mut client = server.connect();
        client.send(&hello_bytes(hello));
        client.seq = hello.issued.0;
        let mut fed = self.accept();
        fed.hello();
        fed.welcome(executed);
        let welcome = client.welcomed();
        (client, fed, welcome)
    }
}

impl Client {
    /// Takes the WELCOME.
    pub fn welcomed(&mut self) -> Welcome {
        let (message, payload) = self.receive();
        assert_eq!(message, Message::Welcome);
        Welcome::decode(payload.first_chunk().unwrap()).unwrap()
    }

    /// Sends stores of these numbers, each to the slot of its number, and does not wait.
    pub fn send_stores(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for n in numbers {
            self.seq = n;
            self.send(&store_bytes(n, n, &page(n)));
        }
    }

    pub fn ack(&mut self) -> u64 {
        match self.receive().0 {
            Message::Ack { seq } => seq.0,
            other => panic!("{other:?} instead of ACK"),
        }
    }

    /// Takes ACKs up to that one.
    pub fn acked_up_to(&mut self, last: u64) {
        loop {
            let seq = self.ack();
            assert!(seq <= last, "ACK {seq}");
            if seq == last {
                return;
            }
        }
    }

    /// Expects the NOTICE that the mirror is lost; gives back the words.
    pub fn told_of_the_loss(&mut self) -> String {
        let (message, words) = self.receive();
        match message {
            Message::Notice { status, .. } => assert_eq!(status, Status::MirrorLost),
            other => panic!("{other:?} instead of NOTICE"),
        }
        String::from_utf8(words).unwrap()
    }
}

/// A connection of the server under test to the mirror that a test plays.
pub struct Fed {
    pub stream: TcpStream,
}

impl Fed {
    pub fn send(&mut self, bytes: &[u8]) {
        // It may have hung up, which is what the test waits for then.
        let _ = self.stream.write_all(bytes);
    }

    /// Takes the HELLO.
    pub fn hello(&mut self) -> Hello {
        let (message, payload) = self.operation();
        assert_eq!(message, Message::Hello);
        Hello::decode(payload.first_chunk().unwrap()).unwrap()
    }

    pub fn welcome(&mut self, executed: u64) {
        self.welcome_with(executed, Hello::NO_REFUSAL);
    }

    pub fn welcome_with(&mut self, executed: u64, options: u32) {
        self.welcome_as(&Welcome {
            version: VERSION,
            options,
            instance: Instance([0x77; 16]),
            granted: 1 << 40,
            stored: 0,
            executed: Seq(executed),
            window: 4096,
            mirror: None,
        });
    }

    pub fn welcome_as(&mut self, welcome: &Welcome) {
        self.send(&[&Message::Welcome.encode()[..], &welcome.encode()].concat());
    }

    /// Takes the next operation.
    pub fn operation(&mut self) -> (Message, Vec<u8>) {
        let mut header = [0; HEADER_LEN];
        self.stream.read_exact(&mut header).expect("an operation");
        let message = Message::decode(&header, Sender::Client).unwrap();
        let mut payload = vec![0; usize::try_from(message.payload_len()).unwrap()];
        self.stream.read_exact(&mut payload).unwrap();
        (message, payload)
    }

    /// Expects stores of these numbers, as [`Client::send_stores`] sends them.
    pub fn stores(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for n in numbers {
            self.bytes(&store_bytes(n, n, &page(n)));
        }
    }

    /// Expects just these bytes.
    pub fn bytes(&mut self, expected: &[u8]) {
        let mut found = vec![0; expected.len()];
        self.stream.read_exact(&mut found).expect("an operation");
        assert!(found == expected, "other bytes: {:?}", &found[..HEADER_LEN]);
    }

    pub fn ack(&mut self, seq: u64) {
        self.send(&Message::Ack { seq: Seq(seq) }.encode());
    }

    pub fn nak(&mut self, seq: u64, status: Status) {
        let seq = Seq(seq);
        self.send(&Message::Nak { seq, status }.encode());
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
