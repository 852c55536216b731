// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The program, asked about a real server over loopback and about a file like the module's.

#[cfg(test)]
mod program {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use assert_cmd::Command;
    use clap::Parser;
    use memsrv_protocol::*;
    use memsrvd::batch::checksum;
    use memsrvd::config::{Args, Config};
    use predicates::prelude::PredicateBooleanExt;
    use predicates::str::{contains, is_match};
    use serde_json::Value;

    fn memsrvctl(subcommand: &str) -> Command {
        let mut command = Command::cargo_bin("memsrvctl").unwrap();
        command.arg(subcommand).timeout(Duration::from_secs(20));
        command
    }

    fn status() -> Command {
        memsrvctl("status")
    }

    /// A server in this process, and what ends it when dropped.
    fn server() -> (SocketAddr, UnixStream) {
        server_with(&[])
    }

    /// The same, with more options.
    fn server_with(options: &[&str]) -> (SocketAddr, UnixStream) {
        let args = ["memsrvd", "--no-lock", "--capacity", "8M", "--quota", "4M"];
        let args = [&args[..], options].concat();
        let config = Config::resolve(Args::parse_from(args)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || memsrvd::server::run(&config, listener, theirs));
        (address, shutdown)
    }

    fn session(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            options: 0,
            incarnation: Incarnation([1; 16]),
            instance: Instance::default(),
            stream: 0,
            streams: 2,
            wanted: 0,
            issued: Seq(0),
            client: name("web-1"),
            region: name("swap"),
        };
        let page = [7; PAGE_SIZE];
        let store = Message::Store {
            seq: Seq(1),
            slot: Slot(5),
            crc: checksum(Slot(5), &page),
            len: PAGE_LEN,
        };
        let hello = [&Message::Hello.encode()[..], &hello.encode()].concat();
        stream
            .write_all(&[&hello[..], &store.encode(), &page].concat())
            .unwrap();
        let mut answers = [0; 2 * HEADER_LEN + Welcome::LEN];
        stream.read_exact(&mut answers).unwrap();
        stream
    }

    #[test]
    fn a_server_shows_who_stores_what_from_where() {
        let (address, _shutdown) = server();
        let session = session(address);
        let at = address.to_string();
        let peer = session.local_addr().unwrap().to_string();
        status()
            .args(["--server", &at])
            .assert()
            .success()
            .stdout(is_match(r"(?m)^ web-1 +swap +4 KiB +4 MiB +1/2 +1 +0 +0").unwrap())
            .stdout(is_match(r"(?m)^page tables used 1/\d+$").unwrap())
            .stdout(contains(peer).and(contains("stores/s").not()));
    }

    #[test]
    fn a_server_that_fetched_pages_or_could_not_shows_how_often() {
        let (address, _shutdown) = server();
        let mut session = session(address);
        let at = address.to_string();
        let shown = || {
            let assert = status().args(["--server", &at]).assert().success();
            String::from_utf8(assert.get_output().stdout.clone()).unwrap()
        };
        assert!(!shown().contains("fetched"));
        let (tag, slot) = (Tag(1), Slot(512));
        let pull = Pull {
            mask: FreeMask::ALL,
            instance: Instance([1; 16]),
            // Nobody listens there.
            address: std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets(),
            port: 1,
        };
        let payload = pull.encode();
        let crc = checksum(slot, &payload);
        let header = Message::Pull { tag, slot, crc }.encode();
        session
            .write_all(&[&header[..], &payload].concat())
            .unwrap();
        session.read_exact(&mut [0; HEADER_LEN]).unwrap();
        let expected = "fetched from other servers 0 pages; pulls: done 0 failed 1 waiting 0";
        assert!(shown().contains(expected), "{}", shown());
    }

    #[test]
    fn a_server_with_a_mirror_shows_what_becomes_of_it() {
        let shown = |address: SocketAddr| {
            let at = address.to_string();
            let assert = status().args(["--server", &at]).assert().success();
            String::from_utf8(assert.get_output().stdout.clone()).unwrap()
        };
        let (plain, _shutdown) = server();
        assert!(!shown(plain).contains("mirror"));
        let (address, _shutdown) = server_with(&["--mirror", "192.0.2.1"]);
        let expected = "\nmirror 192.0.2.1:7170: streams forwarded 0, operations 0, lost 0\n";
        let shown = shown(address);
        assert!(shown.contains(expected), "{shown}");
    }

    #[test]
    fn json_has_the_servers_report_and_rates_where_there_were_two_looks() {
        let (address, _shutdown) = server();
        let _session = session(address);
        let at = address.to_string();
        let ask = |more: &[&str]| -> Value {
            let assert = status()
                .args(["--json", "--server", &at])
                .args(more)
                .assert()
                .success();
            serde_json::from_slice(&assert.get_output().stdout).unwrap()
        };
        let once = ask(&[]);
        assert_eq!(once["server"]["used_pages"], 1);
        assert_eq!(once["server"]["regions"][0]["client"], "web-1");
        assert_eq!(once["server"]["address"], at);
        assert!(once.get("rates").is_none());
        let twice = ask(&["--interval", "1"]);
        assert_eq!(twice["rates"]["stores_per_s"], 0.0);
        assert_eq!(twice["rates"]["regions"]["web-1/swap"][0], 0.0);
    }

    #[test]
    fn a_server_that_is_not_there_or_is_no_server_exits_with_1() {
        let gone = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let assert = status().args(["--server", &gone]).assert();
        assert
            .code(1)
            .stderr(contains("cannot reach").and(contains(gone)));
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = other.accept().unwrap();
            stream.write_all(&[b'x'; 64]).unwrap();
            let _ = stream.read(&mut [0; 64]);
        });
        let assert = status().args(["--server", &address]).assert();
        assert.code(1).stderr(contains("not a memory server's"));
        thread.join().unwrap();
    }

    #[test]
    fn watching_goes_on_when_the_server_has_gone() {
        let (address, shutdown) = server();
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("memsrvctl"));
        command.args(["status", "--watch", "--json", "--interval", "1"]);
        command.args(["--server", &address.to_string()]);
        let mut child = command
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("\"server\""));
        drop(shutdown);
        let said = lines.take(5).map(Result::unwrap);
        let unreachable = said.filter(|line| line.contains("\"unreachable\"")).count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(unreachable >= 2);
    }

    #[test]
    fn wrong_options_exit_with_2() {
        for (options, words) in [
            (&["--server", "host"][..], "not an IP address"),
            (&["--server", "1.2.3.4:99999"], "not an IP address"),
            (&["--interval", "0"], "--interval"),
            (&["--nonsense"], "--nonsense"),
        ] {
            status()
                .args(options)
                .assert()
                .code(2)
                .stderr(contains(words));
        }
    }

    const STATS: &str = "version 0.1.0\nserver 10.0.0.2:7170\nstored_pages 3\nnew_thing 42\n\
        load_us_log2 0 0 4 8\nlink.0.state up\nlink.0.peer 10.0.0.2:7170\nlink.1.state down\n";

    const MIRRORED: &str = "server 10.0.0.2:7170\nunreachable_pages 3\nload_us_log2 0 1\n\
        mirror 10.0.0.3:7170\nmirror_strict 0\ndegraded 0\nbehind_clusters_primary 0\n\
        behind_clusters_mirror 0\nfailovers 0\nfailover_us_max 0\nhedged_loads 0\n\
        mirror_link.0.state up\nmirror_link.0.peer 10.0.0.3:7170\nmirror_link.1.state up\n\
        mirror_link.1.peer 10.0.0.3:7170\nlink.0.state up\nlink.0.peer 10.0.0.2:7170\n\
        link.0.stored_pages 7\nlink.1.state up\nlink.1.peer 10.0.0.2:7170\n";

    /// A debugfs with a module's files in it.
    fn debugfs(stats: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("memsrv")).unwrap();
        std::fs::write(dir.path().join("memsrv/stats"), stats).unwrap();
        std::fs::write(dir.path().join("memsrv/control"), "").unwrap();
        dir
    }

    fn shown(stats: &str) -> assert_cmd::assert::Assert {
        let dir = debugfs(stats);
        let assert = status().arg("--debugfs").arg(dir.path()).assert();
        assert.success()
    }

    #[test]
    fn a_mirror_is_shown_beside_the_primary() {
        shown(MIRRORED)
            .stdout(contains("primary 10.0.0.2:7170, mirror 10.0.0.3:7170\n\n"))
            .stdout(is_match(r"(?m)^ link +state +peer +mirror state +mirror peer").unwrap())
            .stdout(is_match(r"(?m)^ 0 +up +10.0.0.2:7170 +up +10.0.0.3:7170 +7").unwrap())
            .stdout(contains("degraded:").not());
        let strict = MIRRORED.replace("strict 0", "strict 1");
        shown(&strict).stdout(contains("mirror_strict: no page"));
        shown(STATS).stdout(contains("primary").or(contains("mirror")).not());
        let forwarded = MIRRORED
            .replace("strict 0", "strict 0\nmirror_forwarded 1")
            .replace("mirror_link.0.state up", "mirror_link.0.state down");
        shown(&forwarded)
            .stdout(contains(
                "forwards to the mirror; 0 of 2 links from here can read",
            ))
            .stdout(contains("links are up").not());
        let read = forwarded.replace("mirror_link.0.state down", "mirror_link.0.state reads");
        shown(&read)
            .stdout(contains("1 of 2 links from here can read there, too"))
            .stdout(contains("links are up").not());
    }

    #[test]
    fn what_is_degraded_is_said_in_words() {
        let degraded = MIRRORED.replace("degraded 0", "degraded 1");
        let down = degraded.replace("mirror_link.1.state up", "mirror_link.1.state down");
        shown(&down)
            .stdout(contains("\ndegraded: "))
            .stdout(contains("\n  mirror: 1 of 2 links are up\n"))
            .stdout(contains("primary: ").or(contains("is behind")).not());
        let behind = degraded.replace("behind_clusters_primary 0", "behind_clusters_primary 12");
        shown(&behind)
            .stdout(contains(
                "\n  primary: lacks pages of 12 clusters of swap (of 2 MiB each), which are being copied \
                 from the other server while both are there\n",
            ))
            .stdout(contains("links are up").or(contains("mirror: is")).not());
    }

    /// What was written to the module.
    fn said(debugfs: &tempfile::TempDir) -> String {
        std::fs::read_to_string(debugfs.path().join("memsrv/control")).unwrap()
    }

    fn giveup(debugfs: &tempfile::TempDir, options: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = memsrvctl("giveup");
        command.arg("--debugfs").arg(debugfs.path()).args(options);
        command.assert()
    }

    #[test]
    fn without_yes_nothing_is_given_up_but_what_would_be_lost_is_said() {
        let dir = debugfs(MIRRORED);
        giveup(&dir, &[])
            .code(2)
            .stdout("")
            .stderr(contains("nothing is given up without --yes"))
            .stderr(contains(
                "3 pages (12 KiB) out of reach on 10.0.0.2:7170 and 10.0.0.3:7170",
            ))
            .stderr(contains("SIGBUS"));
        let dead = MIRRORED
            .replace("mirror_link.0.state up", "mirror_link.0.state down")
            .replace("mirror_link.1.state up", "mirror_link.1.state down");
        giveup(&debugfs(&dead), &[])
            .code(2)
            .stderr(contains("out of reach on 10.0.0.3:7170 would be lost"));
        let assert = giveup(&dir, &["--json"]).code(2);
        let json: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        assert_eq!(json["given_up"], false);
        assert_eq!(json["unreachable_pages"], 3);
        assert_eq!(said(&dir), "");
    }

    #[test]
    fn with_the_disk_behind_it_the_mode_is_shown_and_nothing_is_given_up() {
        let through = MIRRORED.replace("unreachable", "disk through\nunreachable");
        shown(&through).stdout(is_match(r"(?m)^ disk +through ").unwrap());
        let dir = debugfs(&through);
        giveup(&dir, &["--yes"])
            .code(1)
            .stdout("")
            .stderr(contains("every page is on the disk, too"));
        assert_eq!(said(&dir), "");
    }

    #[test]
    fn with_yes_the_module_is_told_and_what_is_lost_is_said() {
        let dir = debugfs(MIRRORED);
        giveup(&dir, &["--yes"])
            .success()
            .stdout(contains("given up: 3 pages (12 KiB) are lost").and(contains("SIGBUS")))
            .stderr("");
        assert_eq!(said(&dir), "giveup");
        let dir = debugfs(MIRRORED);
        let assert = giveup(&dir, &["--yes", "--json"]).success();
        let json: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        assert_eq!(json["given_up"], true);
        assert_eq!(json["unreachable_bytes"], 12_288);
        assert_eq!(said(&dir), "giveup");
    }

    #[test]
    fn what_cannot_be_given_up_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        giveup(&dir, &["--yes"])
            .code(3)
            .stderr(contains("debugfs is not mounted"));
        std::fs::create_dir(dir.path().join("memsrv")).unwrap();
        giveup(&dir, &["--yes"])
            .code(3)
            .stderr(contains("module is not loaded"));

        let dir = debugfs("version 0.1.0\n");
        let refused = || giveup(&dir, &["--yes"]).code(1).stdout("");
        refused().stderr(contains("does not say how many pages"));
        std::fs::write(dir.path().join("memsrv/stats"), MIRRORED).unwrap();
        // A device that takes no byte: not what the kernel says, but an error of write().
        std::fs::remove_file(dir.path().join("memsrv/control")).unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("memsrv/control")).unwrap();
        refused().stderr(contains("cannot write").and(contains("nothing was changed")));
        // A module without the file: it is not made.
        std::fs::remove_file(dir.path().join("memsrv/control")).unwrap();
        refused().stderr(contains("does not know giveup"));
        assert!(!dir.path().join("memsrv/control").exists());
    }

    fn replace(debugfs: &tempfile::TempDir, options: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = memsrvctl("replace");
        command.arg("--debugfs").arg(debugfs.path()).args(options);
        command.assert()
    }

    const PAIR: &str = "server 10.0.0.2:7170\nmirror 10.0.0.3:7170\nbehind_clusters_primary 0\n\
        behind_clusters_mirror 0\nrefilled_clusters_mirror 7\nlink.0.state up\nmirror_link.0.state up\n";

    #[test]
    fn replace_tells_the_module_and_waits_until_the_pair_is_whole() {
        let dir = debugfs(PAIR);
        replace(&dir, &["mirror", "10.0.0.4"])
            .success()
            .stdout("10.0.0.4:7170 takes the place of the mirror\nthe mirror has every page\n");
        assert_eq!(said(&dir), "replace mirror 10.0.0.4:7170");

        let assert = replace(&dir, &["primary", "[fd00::4]:99", "--json"]).success();
        let lines = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
        let states: Vec<String> = lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|object| object["state"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(states, ["told", "whole"]);
        assert_eq!(said(&dir), "replace primary [fd00::4]:99");
    }

    #[test]
    fn replace_does_not_wait_if_it_is_told_so() {
        let dir = debugfs(&PAIR.replace("behind_clusters_mirror 0", "behind_clusters_mirror 9"));
        replace(&dir, &["mirror", "10.0.0.4", "--no-wait"])
            .success()
            .stdout("10.0.0.4:7170 takes the place of the mirror\n");
    }

    #[test]
    fn replace_wants_one_of_two_and_an_address() {
        let dir = debugfs(PAIR);
        for options in [
            &["both", "10.0.0.4"][..],
            &["mirror", "somewhere"],
            &["mirror"],
        ] {
            replace(&dir, options).code(2).stdout("");
        }
        let nothing = tempfile::tempdir().unwrap();
        replace(&nothing, &["mirror", "10.0.0.4"]).code(3);
    }

    #[test]
    fn the_modules_file_is_shown_with_all_that_is_in_it() {
        let dir = debugfs(STATS);
        let debugfs = dir.path().to_str().unwrap();
        status()
            .args(["--debugfs", debugfs])
            .assert()
            .success()
            .stdout(is_match(r"(?m)^ stored_pages +3 +12 KiB").unwrap())
            .stdout(is_match(r"(?m)^ new_thing +42").unwrap())
            .stdout(is_match(r"(?m)^ 0 +up +10.0.0.2:7170").unwrap())
            .stdout(is_match(r"(?m)^ 1 +down +-").unwrap())
            .stdout(is_match(r"(?m)^ +< 8 us +8 #{40}$").unwrap());
        let assert = status()
            .args(["--json", "--debugfs", debugfs])
            .assert()
            .success();
        let json: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        assert_eq!(json["module"]["stored_pages"], 3);
        assert_eq!(json["module"]["load_us_log2"][3], 8);
        assert_eq!(json["module"]["link.1.state"], "down");
    }

    #[test]
    fn no_module_and_no_debugfs_are_told_apart_and_exit_with_3() {
        let dir = tempfile::tempdir().unwrap();
        let debugfs = dir.path().to_str().unwrap();
        let ask = || status().args(["--debugfs", debugfs]).assert().code(3);
        ask().stderr(contains("debugfs is not mounted"));
        std::fs::create_dir(dir.path().join("block")).unwrap();
        ask().stderr(contains("module is not loaded").and(contains("insmod")));
    }

    #[test]
    fn help_and_version_say_what_there_is() {
        memsrvctl("--help")
            .assert()
            .success()
            .stdout(contains("status").and(contains("giveup")));
        memsrvctl("giveup")
            .arg("--help")
            .assert()
            .success()
            .stdout(contains("--yes").and(contains("SIGBUS")));
        status()
            .arg("--help")
            .assert()
            .success()
            .stdout(contains("Exit codes"));
        memsrvctl("--version")
            .assert()
            .success()
            .stdout(contains(env!("CARGO_PKG_VERSION")));
    }
}
