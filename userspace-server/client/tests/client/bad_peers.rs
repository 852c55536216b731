// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is said when the session cannot be, and what a peer that keeps no rule can do: nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::common::{config, load, page, Server};
use memsrv_client::{Client, ClientConfig, Error, Slot, Status};
use memsrv_protocol::{Instance, Message, Seq, Tag, Welcome, PAGE_LEN, PAGE_SIZE, VERSION};

/// A peer that does the same with every connection.
fn peer(serve: impl Fn(&mut TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            serve(&mut socket.unwrap());
        }
    });
    address
}

/// Takes a HELLO and welcomes it.
fn welcome(socket: &mut TcpStream) -> bool {
    welcome_with(socket, Seq(0))
}

fn welcome_with(socket: &mut TcpStream, executed: Seq) -> bool {
    let welcome = Welcome {
        version: VERSION,
        options: 0,
        instance: Instance([7; 16]),
        granted: 100,
        stored: 0,
        executed,
        window: 64,
        mirror: None,
    };
    let mut hello = [0; 240];
    socket.read_exact(&mut hello).is_ok()
        && socket.write_all(&Message::Welcome.encode()).is_ok()
        && socket.write_all(&welcome.encode()).is_ok()
}

fn quick() -> ClientConfig {
    ClientConfig {
        streams: 1,
        connect_timeout: Duration::from_millis(500),
        silence_timeout: Duration::from_millis(200),
        store_timeout: Duration::from_millis(300),
        load_timeout: Duration::from_millis(300),
        ..config()
    }
}

fn refusal(address: SocketAddr, config: ClientConfig) -> Error {
    Client::connect(address, config).err().expect("a refusal")
}

#[test]
fn a_server_ahead_of_the_client_is_refused_as_stale() {
    let ahead = peer(|socket| {
        welcome_with(socket, Seq(1));
    });
    let error = refusal(ahead, quick());
    let stale = Status::Stale;
    assert!(
        matches!(error, Error::Refused { status, .. } if status == stale),
        "{error}"
    );
}

#[test]
fn settings_that_cannot_be_are_named() {
    let address = "127.0.0.1:1".parse().unwrap();
    let client = refusal(
        address,
        ClientConfig {
            client: "no spaces".into(),
            ..config()
        },
    );
    assert!(matches!(client, Error::Name { what: "client", .. }));
    assert!(client.to_string().contains("\"no spaces\""), "{client}");
    let region = refusal(
        address,
        ClientConfig {
            region: String::new(),
            ..config()
        },
    );
    assert!(matches!(region, Error::Name { what: "region", .. }));
    for streams in [0, 65] {
        let error = refusal(
            address,
            ClientConfig {
                streams,
                ..config()
            },
        );
        assert!(error.to_string().contains("use 1 to 64"), "{error}");
    }
}

#[test]
fn a_server_that_is_not_there_is_told_with_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = refusal(address, quick());
    assert!(matches!(error, Error::Connect { .. }));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let error = Client::connect("no port", quick()).err().unwrap();
    assert!(matches!(error, Error::Resolve { .. }), "{error}");
}

#[test]
fn something_else_on_the_port_is_told_as_such() {
    let address = peer(|socket| {
        let mut hello = [0; 240];
        let _sent = socket.read_exact(&mut hello);
        let _sent = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    assert!(matches!(refusal(address, quick()), Error::NotMemsrv { .. }));
}

#[test]
fn a_region_in_use_is_refused_in_the_servers_words() {
    let server = Server::start(&["--capacity", "2M"]);
    let _first = Client::connect(server.address, config()).unwrap();
    match refusal(server.address, config()) {
        Error::Refused {
            status: Status::Busy,
            text,
            ..
        } => assert!(text.contains("in use")),
        other => panic!("{other}"),
    }
}

#[test]
fn another_version_is_refused() {
    let server = Server::start(&["--capacity", "2M", "--test-protocol-version", "2"]);
    let error = refusal(server.address, config());
    assert!(
        matches!(
            error,
            Error::Refused {
                status: Status::Version,
                ..
            }
        ),
        "{error}"
    );
}

/// A peer whose answers break the rules completes nothing, and the operation ends all the same.
fn nothing_but_expiry(answer: impl Fn(&mut TcpStream) + Send + 'static) {
    let address = peer(move |socket| {
        if welcome(socket) {
            let mut request = [0; 32];
            let _asked = socket.read_exact(&mut request);
            answer(socket);
        }
    });
    let client = Client::connect(address, quick()).unwrap();
    let loaded = load(&client, Slot(9));
    assert!(
        matches!(loaded, Err(Error::LoadExpired { .. })),
        "{loaded:?}"
    );
    let fault = client.last_fault();
    assert!(
        fault
            .as_ref()
            .is_some_and(|fault| fault.contains("broke the protocol")),
        "{fault:?}"
    );
}

#[test]
fn a_page_under_a_forged_tag_completes_nothing() {
    nothing_but_expiry(|socket| {
        let forged = Message::Page {
            tag: Tag(0xdead),
            slot: Slot(9),
            crc: 0,
            len: PAGE_LEN,
        };
        let _sent = socket.write_all(&[&forged.encode()[..], &[0; PAGE_SIZE]].concat());
    });
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_completes_nothing() {
    nothing_but_expiry(|socket| {
        let _sent = socket.write_all(&Message::Ack { seq: Seq(5) }.encode());
    });
}

#[test]
fn noise_completes_nothing() {
    nothing_but_expiry(|socket| {
        let _sent = socket.write_all(&[0x83; 100]);
    });
}

#[test]
fn a_second_welcome_completes_nothing() {
    nothing_but_expiry(|socket| {
        let _sent = socket.write_all(&Message::Welcome.encode());
    });
}

#[test]
fn a_damaged_page_is_an_error_and_not_data() {
    let address = peer(|socket| {
        let mut request = [0; 32];
        if welcome(socket) && socket.read_exact(&mut request).is_ok() {
            let load = Message::decode(&request, memsrv_protocol::Sender::Client).unwrap();
            let Message::Load { tag, slot, .. } = load else {
                panic!("{load:?}")
            };
            let answer = Message::Page {
                tag,
                slot,
                crc: 1,
                len: PAGE_LEN,
            };
            let _sent = socket.write_all(&[&answer.encode()[..], &page(slot, 1)].concat());
            let _closed = socket.read(&mut request);
        }
    });
    let client = Client::connect(address, quick()).unwrap();
    let loaded = load(&client, Slot(9));
    assert!(
        matches!(loaded, Err(Error::Checksum { slot: Slot(9) })),
        "{loaded:?}"
    );
}
