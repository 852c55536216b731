// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A server in this process, and a client that says exactly what a test wants said.
//!
//! Every wait has a deadline of [`PATIENCE`], far above what anything takes, so that a test that
//! hangs fails instead.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;
use memsrv_protocol::*;
use memsrvd::batch::checksum;
use memsrvd::config::{Args, Config};
use memsrvd::error::StartError;
use memsrvd::stats::Report;

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `done` says so.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server on a port of its own.
pub struct Server {
    pub address: SocketAddr,
    shutdown: UnixStream,
    thread: Option<JoinHandle<Result<(), StartError>>>,
}

/// The configuration that these options make, with memory not locked.
pub fn config(options: &[&str]) -> Config {
    let fixed = [
        "memsrvd",
        "--no-lock",
        "--listen",
        "127.0.0.1:0",
        "--threads",
        "3",
    ];
    let mut args: Vec<&str> = fixed.to_vec();
    args.extend(options);
    if !options.contains(&"--capacity") {
        args.extend(["--capacity", "16M"]);
    }
    Config::resolve(Args::parse_from(args)).unwrap()
}

impl Server {
    pub fn start(options: &[&str]) -> Server {
        Server::with(config(options))
    }

    pub fn with(config: Config) -> Server {
        let listener = TcpListener::bind(config.listen).unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, theirs) = UnixStream::pair().unwrap();
        let run = move || memsrvd::server::run(&config, listener, theirs);
        let thread = Some(std::thread::spawn(run));
        Server {
            address,
            shutdown,
            thread,
        }
    }

    /// A connection that has said nothing yet.
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// A session with one stream: the client of that name, its region `r`, in its life number `life`.
    pub fn session(&self, client: &str, life: u8) -> Client {
        let mut connection = self.connect();
        connection.welcome(&hello(client, life));
        connection
    }

    pub fn report(&self) -> Report {
        self.connect().report()
    }

    /// Asks the server to stop.
    pub fn tell_to_stop(&mut self) {
        // It may have stopped already.
        let _ = self.shutdown.write_all(&[1]);
    }

    /// Waits for the server to end.
    pub fn join(&mut self) -> Result<(), StartError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The second word cuts a drain short.
        self.tell_to_stop();
        self.tell_to_stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

/// A HELLO for the only stream of region `r`.
pub fn hello(client: &str, life: u8) -> Hello {
    Hello {
        version_min: VERSION,
        version_max: VERSION,
        options: 0,
        incarnation: Incarnation([life; 16]),
        instance: Instance::default(),
        stream: 0,
        streams: 1,
        wanted: 0,
        issued: Seq(0),
        client: Name::new(client.as_bytes()).unwrap(),
        region: Name::new(b"r").unwrap(),
    }
}

/// A page that tells its seed in every part.
pub fn page(seed: u64) -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    for word in page.chunks_exact_mut(8) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    page
}

/// The bytes of a STORE: of a page, or of fewer bytes, which are a compressed one.
pub fn store_bytes(seq: u64, slot: u64, page: &[u8]) -> Vec<u8> {
    let slot = Slot(slot);
    let store = Message::Store {
        seq: Seq(seq),
        slot,
        crc: checksum(slot, page),
        len: u32::try_from(page.len()).unwrap(),
    };
    [&store.encode()[..], page].concat()
}

/// The bytes of a FREE.
pub fn free_bytes(seq: u64, base: u64, mask: &FreeMask) -> Vec<u8> {
    let slot = Slot(base);
    let free = Message::Free {
        seq: Seq(seq),
        slot,
        crc: checksum(slot, &mask.0),
    };
    [&free.encode()[..], &mask.0].concat()
}

/// The bytes of a HELLO.
pub fn hello_bytes(hello: &Hello) -> Vec<u8> {
    [&Message::Hello.encode()[..], &hello.encode()].concat()
}

/// One connection to a server.
pub struct Client {
    pub stream: TcpStream,
    /// The number of the last operation.
    pub seq: u64,
    /// The options that are on.
    pub options: u32,
}

/// A message and its payload.
pub type Answer = (Message, Vec<u8>);

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            stream,
            seq: 0,
            options: 0,
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn receive(&mut self) -> Answer {
        let mut header = [0; HEADER_LEN];
        self.stream.read_exact(&mut header).expect("an answer");
        let message = Message::decode_with(&header, Sender::Server, self.options).unwrap();
        let mut payload = vec![0; usize::try_from(message.payload_len()).unwrap()];
        self.stream
            .read_exact(&mut payload)
            .expect("all of an answer");
        (message, payload)
    }

    /// Reads to the end of the connection, and gives back what came.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                panic!("not closed: {error}")
            }
            _ => rest,
        }
    }

    pub fn hello(&mut self, hello: &Hello) -> Answer {
        self.send(&hello_bytes(hello));
        self.receive()
    }

    pub fn welcome(&mut self, hello: &Hello) -> Welcome {
        self.seq = hello.issued.0;
        let answer = self.hello(hello);
        assert_eq!(
            answer.0,
            Message::Welcome,
            "{:?}",
            String::from_utf8_lossy(&answer.1)
        );
        let welcome = Welcome::decode(answer.1.first_chunk().unwrap()).unwrap();
        self.options = welcome.options;
        welcome
    }

    /// Expects a REFUSED of that kind, and the end; gives back the words.
    pub fn refused(&mut self, expected: Status) -> String {
        let (message, payload) = self.receive();
        let words = String::from_utf8(payload).unwrap();
        match message {
            Message::Refused { status, .. } => assert_eq!(status, expected, "{words}"),
            other => panic!("{other:?} instead of REFUSED"),
        }
        assert_eq!(self.rest(), b"", "after REFUSED");
        words
    }

    /// Expects the NOTICE that the server is about to stop.
    pub fn told_of_the_stop(&mut self) {
        match self.receive().0 {
            Message::Notice { status, .. } => assert_eq!(status, Status::Draining),
            other => panic!("{other:?} instead of NOTICE"),
        }
    }

    /// Sends a STORE and takes its answer.
    pub fn try_store(&mut self, slot: u64, page: &[u8]) -> Result<(), Status> {
        self.seq += 1;
        self.send(&store_bytes(self.seq, slot, page));
        self.acknowledged()
    }

    /// Takes an optional NAK and the ACK of the last operation.
    pub fn acknowledged(&mut self) -> Result<(), Status> {
        let mut result = Ok(());
        loop {
            match self.receive().0 {
                Message::Nak { seq, status } => {
                    assert_eq!(seq.0, self.seq);
                    result = Err(status);
                }
                Message::Ack { seq } => {
                    assert_eq!(seq.0, self.seq);
                    return result;
                }
                other => panic!("{other:?} instead of ACK or NAK"),
            }
        }
    }

    pub fn store(&mut self, slot: u64, page: &[u8]) {
        assert_eq!(self.try_store(slot, page), Ok(()), "slot {slot}");
    }

    pub fn free(&mut self, base: u64, mask: &FreeMask) {
        self.seq += 1;
        self.send(&free_bytes(self.seq, base, mask));
        assert_eq!(self.acknowledged(), Ok(()));
    }

    /// Loads slots and checks all but the pages' contents.
    pub fn load_run(&mut self, slot: u64, count: u16) -> Vec<Option<Vec<u8>>> {
        let tag = Tag(slot ^ 0x5555);
        self.send(
            &Message::Load {
                tag,
                slot: Slot(slot),
                count,
            }
            .encode(),
        );
        let one = |n: u16| {
            let at = Slot(slot + u64::from(n));
            match self.receive() {
                (
                    Message::Page {
                        tag: t,
                        slot: s,
                        crc,
                        ..
                    },
                    page,
                ) => {
                    assert_eq!((t, s), (tag, at));
                    assert_eq!(crc, checksum(at, &page), "checksum of {at:?}");
                    Some(page)
                }
                (
                    Message::NoPage {
                        tag: t,
                        slot: s,
                        status,
                    },
                    _,
                ) => {
                    assert_eq!((t, s, status), (tag, at, Status::NotFound));
                    None
                }
                (other, _) => panic!("{other:?} instead of PAGE or NOPAGE"),
            }
        };
        (0..count).map(one).collect()
    }

    pub fn load(&mut self, slot: u64) -> Option<Vec<u8>> {
        self.load_run(slot, 1).remove(0)
    }

    pub fn ping(&mut self) {
        self.send(&Message::Ping { tag: Tag(77) }.encode());
        assert_eq!(self.receive().0, Message::Pong { tag: Tag(77) });
    }

    pub fn report(&mut self) -> Report {
        self.send(&Message::Stat { tag: Tag(9) }.encode());
        let (message, payload) = self.receive();
        assert!(
            matches!(message, Message::Stats { tag: Tag(9), .. }),
            "{message:?}"
        );
        serde_json::from_slice(&payload).unwrap()
    }

    /// Says BYE, and waits until the server has closed.
    pub fn bye(mut self) {
        self.send(&Message::Bye.encode());
        assert_eq!(self.rest(), b"");
    }
}
