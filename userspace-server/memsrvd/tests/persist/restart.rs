// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The program, stopped or killed, and started again.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use assert_cmd::cargo::CommandCargoExt;
use clap::Parser;
use memsrvd::config::{Args, Config};
use rustix::process::{kill_process, Pid, Signal};

use crate::support::*;
use memsrv_protocol::*;

/// The program, running; killed when dropped.
pub struct Running {
    child: Child,
    pub address: SocketAddr,
    pub said: String,
    log: BufReader<std::process::ChildStderr>,
}

/// Starts it; its exit code and words if it does not come to listen.
pub fn start(dir: &Path, options: &[&str]) -> Result<Running, (Option<i32>, String)> {
    let mut command = Command::cargo_bin("memsrvd").unwrap();
    command
        .args(["--listen", "127.0.0.1:0", "--no-lock", "--threads", "3"])
        .args(["--log-format", "json", "--persist"])
        .arg(dir)
        .args(options)
        .stderr(Stdio::piped());
    if !options.contains(&"--capacity") {
        command.args(["--capacity", "16M"]);
    }
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let (mut said, mut line) = (String::new(), String::new());
    loop {
        line.clear();
        if log.read_line(&mut line).unwrap() == 0 {
            return Err((child.wait().unwrap().code(), said));
        }
        said.push_str(&line);
        if line.contains("\"listening\"") {
            break;
        }
    }
    let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = entry["address"].as_str().unwrap().parse().unwrap();
    Ok(Running {
        child,
        address,
        said,
        log,
    })
}

impl Running {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it by that signal, and gives back what it said.
    pub fn end(mut self, signal: Signal) -> String {
        self.signal(signal);
        let status = self.child.wait().unwrap();
        if signal == Signal::TERM {
            assert_eq!(status.code(), Some(0));
        }
        let mut rest = String::new();
        while self.log.read_line(&mut rest).unwrap() > 0 {}
        rest
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client with a region of its own that knows what it stored.
struct Known {
    hello: Hello,
    pages: Vec<(u64, Option<u64>)>,
}

impl Known {
    /// Stores, overwrites and frees; all of it is acknowledged.
    fn fill(server: &Running, name: &str) -> Known {
        let mut hello = hello(name, 1);
        let mut client = server.connect();
        hello.instance = client.welcome(&hello).instance;
        let mut pages = Vec::new();
        for slot in 0..60 {
            client.store(slot * 100, &page(slot));
        }
        for slot in 0..20 {
            client.store(slot * 100, &page(1000 + slot));
        }
        for n in 0..60 {
            let slot = n * 100;
            if n % 3 == 0 {
                let mut mask = FreeMask::EMPTY;
                mask.insert((slot % 512).try_into().unwrap());
                client.free(slot / 512 * 512, &mask);
                pages.push((slot, None));
            } else {
                pages.push((slot, Some(if n < 20 { 1000 + n } else { n })));
            }
        }
        hello.issued = Seq(client.seq);
        Known { hello, pages }
    }

    /// Comes back and finds all as it left it.
    fn resumes(&self, server: &Running) -> Client {
        let mut client = server.connect();
        let welcome = client.welcome(&self.hello);
        assert_eq!(welcome.instance, self.hello.instance, "another instance");
        assert_eq!(welcome.executed, self.hello.issued);
        let stored = self.pages.iter().filter(|(_, page)| page.is_some()).count();
        assert_eq!(welcome.stored, u64::try_from(stored).unwrap());
        for &(slot, expected) in &self.pages {
            let expected = expected.map(|seed| page(seed).to_vec());
            assert_eq!(client.load(slot), expected, "slot {slot}");
        }
        client
    }
}

#[test]
fn a_server_that_was_stopped_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for options in [&[][..], &["--persist-ack"]] {
        let dir = dir.path().join(format!("d{}", options.len()));
        let server = start(&dir, options).unwrap();
        let (one, two) = (Known::fill(&server, "one"), Known::fill(&server, "two"));
        let said = server.end(Signal::TERM);
        assert!(said.contains("\"dropped_pages\":0"), "{said}");
        for _ in 0..3 {
            let server = start(&dir, options).unwrap();
            one.resumes(&server);
            two.resumes(&server);
            server.end(Signal::TERM);
        }
    }
}

#[test]
fn a_server_that_was_killed_has_all_that_it_acknowledged_if_acknowledgements_wait() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &["--persist-ack"]).unwrap();
    let mut known = vec![Known::fill(&server, "a")];
    server.end(Signal::KILL);
    for name in ["b", "c"] {
        // Whether it waits now or not: what counts is what it did before.
        let server = start(dir.path(), &["--persist-ack"]).unwrap();
        for known in &known {
            known.resumes(&server);
        }
        known.push(Known::fill(&server, name));
        server.end(Signal::KILL);
    }
    let server = start(dir.path(), &[]).unwrap();
    for known in &known {
        known.resumes(&server);
    }
}

/// The same from the configuration file.
#[test]
fn the_file_says_where_to_keep_pages_and_when_to_acknowledge() {
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = (dir.path().join("file.toml"), dir.path().join("log"));
    let text = format!("persist = {log:?}\npersist_ack = true\n");
    fs::write(&file, text).unwrap();
    let config = Config::resolve(Args::parse_from([
        "memsrvd",
        "--capacity",
        "16M",
        "--config",
        file.to_str().unwrap(),
    ]));
    let options = config.unwrap().persist.unwrap();
    assert_eq!((options.dir, options.ack), (log, true));
    let alone = Config::resolve(Args::parse_from([
        "memsrvd",
        "--capacity",
        "16M",
        "--persist-ack",
    ]));
    let error = alone.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--persist DIR"), "{error}");
}

#[test]
fn a_server_that_was_killed_begins_anew_if_acknowledgements_did_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &["--persist-ack"]).unwrap();
    let known = Known::fill(&server, "a");
    server.end(Signal::KILL);
    // It is this run that counts, though the first one waited and this one stored nothing.
    let server = start(dir.path(), &[]).unwrap();
    known.resumes(&server);
    server.end(Signal::KILL);
    let server = start(dir.path(), &["--persist-ack"]).unwrap();
    assert!(
        server.said.contains("--persist-ack prevents"),
        "{}",
        server.said
    );
    let mut client = server.connect();
    let welcome = client.welcome(&known.hello);
    assert_ne!(welcome.instance, known.hello.instance);
    assert_eq!((welcome.stored, welcome.executed), (0, Seq(0)));
    assert!(known
        .pages
        .iter()
        .all(|&(slot, _)| client.load(slot).is_none()));
}

#[test]
fn who_left_or_came_back_as_another_stays_gone() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &["--persist-ack"]).unwrap();
    let left = Known::fill(&server, "left");
    let mut client = left.resumes(&server);
    client.ping();
    client.bye();
    let old = Known::fill(&server, "reborn");
    let mut reborn = server.connect();
    let new = Hello {
        incarnation: Incarnation([9; 16]),
        issued: Seq(0),
        ..old.hello
    };
    wait_until("its older life is seen to be gone", || {
        reborn = server.connect();
        reborn.hello(&new).0 == Message::Welcome
    });
    reborn.seq = 0;
    reborn.store(0, &page(77));
    server.end(Signal::KILL);
    let server = start(dir.path(), &["--persist-ack"]).unwrap();
    let regions = server.connect().report().regions;
    assert_eq!(regions.len(), 1, "{regions:?}");
    let mut reborn = server.connect();
    let new = Hello {
        issued: Seq(1),
        ..new
    };
    assert_eq!(reborn.welcome(&new).stored, 1);
    assert_eq!(reborn.load(0), Some(page(77).to_vec()));
}

/// A server ran without the log meanwhile: what the client stored there is newer than the log.
#[test]
fn a_client_that_was_elsewhere_gets_no_older_pages() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &["--persist-ack"]).unwrap();
    let known = Known::fill(&server, "a");
    server.end(Signal::TERM);
    let server = start(dir.path(), &["--persist-ack"]).unwrap();
    let mut client = server.connect();
    let elsewhere = Hello {
        instance: Instance([3; 16]),
        issued: Seq(known.hello.issued.0 + 5),
        ..known.hello
    };
    let welcome = client.welcome(&elsewhere);
    assert_eq!((welcome.stored, welcome.executed), (0, Seq(0)));
    assert!(known
        .pages
        .iter()
        .all(|&(slot, _)| client.load(slot).is_none()));
    client.store(300, &page(5));
    // Said again, as by a second stream that has not heard of this instance: it takes nothing more.
    drop(client);
    let mut client = server.connect();
    let issued = Seq(elsewhere.issued.0 + 1);
    assert_eq!(
        client
            .welcome(&Hello {
                issued,
                ..elsewhere
            })
            .stored,
        1
    );
}

#[test]
fn a_client_from_before_its_last_operations_is_still_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &["--persist-ack"]).unwrap();
    let known = Known::fill(&server, "a");
    server.end(Signal::KILL);
    let server = start(dir.path(), &["--persist-ack"]).unwrap();
    let mut client = server.connect();
    client.send(&hello_bytes(&Hello {
        issued: Seq(known.hello.issued.0 - 1),
        ..known.hello
    }));
    client.refused(Status::Stale);
}

/// The last segment's file.
fn segment(dir: &Path) -> PathBuf {
    let mut names: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("segment-")
        })
        .collect();
    names.sort();
    names.pop().unwrap()
}

#[test]
fn a_page_that_the_disk_damaged_is_refused_and_the_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]).unwrap();
    let mut client = server.connect();
    let mut hello = hello("a", 1);
    hello.instance = client.welcome(&hello).instance;
    (0..5).for_each(|slot| client.store(slot, &page(slot)));
    client.store(2, &page(22));
    hello.issued = Seq(client.seq);
    server.end(Signal::TERM);
    let (path, wanted) = (segment(dir.path()), page(22));
    let mut bytes = fs::read(&path).unwrap();
    let found = bytes.windows(4096).position(|window| window == wanted);
    bytes[found.unwrap() + 1000] ^= 4;
    fs::write(&path, bytes).unwrap();
    // Twice: it stays refused, though the log was written on in between.
    for _ in 0..2 {
        let server = start(dir.path(), &[]).unwrap();
        assert!(
            server.said.contains("slot 0x2 is damaged"),
            "{}",
            server.said
        );
        let mut client = server.connect();
        assert_eq!(client.report().persist.unwrap().damaged_pages, 1);
        assert_eq!(client.welcome(&hello).stored, 5);
        for slot in [0, 1, 3, 4] {
            assert_eq!(client.load(slot), Some(page(slot).to_vec()));
        }
        let (tag, slot, status) = (Tag(4), Slot(2), Status::BadChecksum);
        client.send(
            &Message::Load {
                tag,
                slot,
                count: 1,
            }
            .encode(),
        );
        assert_eq!(client.receive().0, Message::NoPage { tag, slot, status });
        server.end(Signal::TERM);
    }
    let server = start(dir.path(), &[]).unwrap();
    let mut client = server.connect();
    client.welcome(&hello);
    client.store(2, &page(23));
    assert_eq!(client.load(2), Some(page(23).to_vec()));
}

#[test]
fn a_directory_that_cannot_be_used_exits_with_6_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |dir: &Path, options: &[&str], words: &str| {
        let Err((code, said)) = start(dir, options) else {
            panic!("it started, and not: {words}");
        };
        assert_eq!(code, Some(6), "{said}");
        assert!(said.contains(words), "{said}");
    };
    let ours = dir.path().join("ours");
    let server = start(&ours, &[]).unwrap();
    refused(&ours, &[], "another memsrvd uses it");
    Known::fill(&server, "a");
    server.end(Signal::TERM);
    refused(&ours, &["--capacity", "64K"], "does not fit");
    let file = dir.path().join("file.toml");
    fs::write(&file, "admit = \"listed\"").unwrap();
    refused(
        &ours,
        &["--config", file.to_str().unwrap()],
        "client a, which is not admitted",
    );
    refused(dir.path(), &[], "there is no log in it");
    refused(&file, &[], "cannot keep pages in");
    let head = fs::read(ours.join("head")).unwrap();
    let mut newer = head.clone();
    for at in [0, 4096] {
        newer[at + 8] = 2;
        let sum = crc32c::crc32c(&newer[at..at + 124]).to_le_bytes();
        newer[at + 124..at + 128].copy_from_slice(&sum);
    }
    fs::write(ours.join("head"), newer).unwrap();
    refused(&ours, &[], "format 2");
    fs::write(ours.join("head"), [7; 8192]).unwrap();
    refused(&ours, &[], "not a memsrvd log's");
    fs::remove_file(ours.join("head")).unwrap();
    refused(&ours, &[], "put that back");
    fs::write(ours.join("head"), head).unwrap();
    start(&ours, &[]).unwrap();
}
