// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! With the log's acknowledgement and a mirror: an ACK takes both.

use std::sync::Arc;

use memsrv_protocol::*;
use memsrvd::session::{Session, Stop};

use crate::entry::{answers, Nobody};
use crate::machine::*;
use crate::sim::Sim;
use crate::support::{hello, hello_bytes, page, store_bytes};

fn said(session: &mut Session) -> Vec<Message> {
    let mut output = Vec::new();
    assert!(!session.settle(&mut output));
    answers(&output)
        .iter()
        .map(|(message, _)| *message)
        .collect()
}

fn store(session: &mut Session, seq: u64) {
    let mut output = Vec::new();
    let progress = session.feed(&store_bytes(seq, seq, &page(seq)), &mut output);
    assert_eq!((progress.stop, &output[..]), (Stop::NeedInput, &[][..]));
}

/// A session that is forwarded, without the mirror's socket.
fn forwarded(machine: &Machine) -> Session {
    let mut session = Session::new(machine.shared.clone(), Arc::new(Nobody));
    let hello = Hello {
        options: Hello::FORWARD,
        ..hello("a", 1)
    };
    let mut output = Vec::new();
    let progress = session.feed(&hello_bytes(&hello), &mut output);
    assert_eq!((progress.stop, &output[..]), (Stop::Stalled, &[][..]));
    let welcome = Welcome {
        version: VERSION,
        options: 0,
        instance: Instance([0x77; 16]),
        granted: 1,
        stored: 0,
        executed: Seq(0),
        window: 4096,
        mirror: None,
    };
    let welcome = [&Message::Welcome.encode()[..], &welcome.encode()].concat();
    session.forward().hear(&welcome);
    assert_eq!(said(&mut session), [Message::Welcome]);
    session
}

#[test]
fn an_ack_takes_the_disk_and_the_mirror_whichever_is_first() {
    let options = options(true, 44 * 1024);
    let mut machine = Machine::boot(&Sim::default(), arena(), &options)
        .ok()
        .unwrap();
    let mut session = forwarded(&machine);
    let ack = |seq| Message::Ack { seq: Seq(seq) };
    store(&mut session, 1);
    session.forward().hear(&ack(1).encode());
    assert_eq!(said(&mut session), [], "the disk has nothing yet");
    while machine.writer.step() {}
    assert_eq!(said(&mut session), [ack(1)]);
    store(&mut session, 2);
    while machine.writer.step() {}
    assert_eq!(said(&mut session), [], "the mirror has nothing yet");
    session.forward().hear(&ack(2).encode());
    assert_eq!(said(&mut session), [ack(2)]);
    // Without the mirror it is the disk's alone.
    store(&mut session, 3);
    session.forward().fail("gone");
    let told = said(&mut session);
    assert!(matches!(told[..], [Message::Notice { .. }]), "{told:?}");
    while machine.writer.step() {}
    assert_eq!(said(&mut session), [ack(3)]);
    drop(session);
    machine.stop();
}
