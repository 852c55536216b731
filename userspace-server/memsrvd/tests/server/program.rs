// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The program itself: options, exit codes, signals, and what it takes from the machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use assert_cmd::cargo::CommandCargoExt;
use assert_cmd::Command as Program;
use predicates::str::contains;
use rustix::process::{Pid, Signal};

use crate::source::*;
use crate::support::*;
use memsrv_protocol::*;
use memsrvd::mirror::MirrorAck;

fn memsrvd() -> Program {
    let mut program = Program::cargo_bin("memsrvd").unwrap();
    program.timeout(PATIENCE);
    program
}

/// Reads a log, up to the line that says so; gives back what stands before it, and that line.
fn until_it_listens(log: &mut impl BufRead) -> (String, String) {
    let (mut said, mut line) = (String::new(), String::new());
    while !line.contains("listening") {
        said.push_str(&line);
        line.clear();
        let len = log.read_line(&mut line).unwrap();
        assert_ne!(len, 0, "it ended before it listened: {said}");
    }
    (said, line)
}

/// The program, running; killed at the end of the test at the latest.
pub struct Running {
    pub child: Child,
    pub address: SocketAddr,
    /// What it said before it listened.
    pub said: String,
    /// What it says; without it nobody listens.
    pub log: Option<BufReader<std::process::ChildStderr>>,
}

impl Running {
    pub fn start(options: &[&str]) -> Running {
        Running::start_by(Command::cargo_bin("memsrvd").unwrap(), options)
    }

    /// By a command that memsrvd's options are put behind.
    pub fn start_by(mut command: Command, options: &[&str]) -> Running {
        command.args(["--listen", "127.0.0.1:0", "--capacity", "16M", "--no-lock"]);
        command
            .args(["--log-format", "json"])
            .args(options)
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (said, line) = until_it_listens(&mut log);
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = entry["address"].as_str().unwrap().parse().unwrap();
        Running {
            child,
            address,
            said,
            log: Some(log),
        }
    }

    /// Waits for its end; gives back the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("it has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        rustix::process::kill_process(pid.unwrap(), signal).unwrap();
    }

    /// Nanoseconds on a CPU, and how often put on one, summed over the process's threads.
    fn cpu_use(&self) -> (u64, u64) {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let sum = |(time, runs): (u64, u64), task: std::io::Result<fs::DirEntry>| {
            let text = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            let numbers: Vec<u64> = text
                .split_whitespace()
                .map(|n| n.parse().unwrap())
                .collect();
            (time + numbers[0], runs + numbers[2])
        };
        tasks.fold((0, 0), sum)
    }

    /// Waits until a tenth of a second went by without a use of the CPU; `each` is called meanwhile.
    fn come_to_rest(&self, each: impl Fn()) {
        let mut before = self.cpu_use();
        wait_until("it has come to rest", || {
            for _ in 0..10 {
                std::thread::sleep(Duration::from_millis(10));
                each();
            }
            let now = self.cpu_use();
            std::mem::replace(&mut before, now) == now
        });
    }

    /// A line of /proc/PID/status, in KiB.
    fn memory_kib(&self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap();
        line.trim_start_matches(':')
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_and_version_say_what_there_is() {
    for word in [
        "--listen",
        "--capacity",
        "--quota",
        "--congestion",
        "--config",
        "SIZE",
        "Exit codes",
        "memsrvd(8)",
    ] {
        memsrvd()
            .arg("--help")
            .assert()
            .success()
            .stdout(contains(word));
    }
    memsrvd()
        .arg("--version")
        .assert()
        .success()
        .stdout(contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_options_exit_with_2_and_name_the_mistake() {
    for (options, words) in [
        (&["--capacity", "1.5G"][..], "\"1.5G\" is not a size"),
        (&["--capacity", "100"], "less than one page"),
        (&["--capacity", "1M", "--quota", "1"], "quota of 1 B"),
        (
            &["--capacity", "1M", "--listen", "host:1"],
            "\"host:1\" is not an address",
        ),
        (&["--capacity", "1M", "--threads", "0"], "threads is 0"),
        (
            &["--capacity", "1M", "--max-connections", "0"],
            "nobody could connect",
        ),
        (
            &["--capacity", "1M", "--config", "/nowhere/x.toml"],
            "/nowhere/x.toml",
        ),
        (
            &["--capacity", "1M", "--mirror", "mirror.example"],
            "\"mirror.example\" is not the address of a mirror",
        ),
        (
            &["--capacity", "1M", "--mirror", "[::]:7170"],
            "\"[::]:7170\" is not the address of a mirror",
        ),
        (
            &["--capacity", "1M", "--mirror", "192.0.2.1:0"],
            "\"192.0.2.1:0\" is not the address of a mirror",
        ),
        (
            &["--capacity", "1M", "--mirror-ack", "before"],
            "mirror-ack without mirror",
        ),
        (
            &[
                "--capacity",
                "1M",
                "--mirror",
                "::1",
                "--mirror-ack",
                "soon",
            ],
            "'soon'",
        ),
        (&[], "--capacity 2G"),
        (&["--nonsense"], "--nonsense"),
    ] {
        memsrvd()
            .args(options)
            .assert()
            .code(2)
            .stderr(contains(words));
    }
}

#[test]
fn the_file_gives_what_the_command_line_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memsrvd.toml");
    let text =
        "capacity = \"8M\"\nquota = \"1M\"\nadmit = \"listed\"\n[client.big]\nquota = \"4M\"\n\
                [client.small]\n";
    fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    let server = Running::start(&["--config", file]);
    let mut client = Client::connect(server.address);
    // 16M of the command line wins over 8M.
    assert_eq!(client.report().capacity_pages, 4096);
    assert_eq!(
        Client::connect(server.address)
            .welcome(&hello("big", 1))
            .granted,
        1024
    );
    assert_eq!(
        Client::connect(server.address)
            .welcome(&hello("small", 1))
            .granted,
        256
    );
    client.send(&hello_bytes(&hello("other", 1)));
    client.refused(Status::Denied);
    for (wrong, words) in [
        ("capacity = 5", "capacity"),
        ("capactiy = \"5M\"", "capactiy"),
        ("capacity = \"5M\"\n[client.\"a b\"]", "client name \"a b\""),
        ("admit = \"some\"", "some"),
        ("capacity = \"5M\"\nmax_regions = 0", "max_regions is 0"),
        (
            "capacity = \"5M\"\nhello_timeout_ms = 0",
            "hello_timeout_ms is 0",
        ),
        ("capacity = \"5M\"\npull_threads = 65", "pull_threads is 65"),
        (
            "capacity = \"5M\"\nmirror = \"x\"",
            "\"x\" is not the address",
        ),
        (
            "capacity = \"5M\"\nmirror = \"::1\"\nmirror_ack = \"soon\"",
            "soon",
        ),
        (
            "capacity = \"5M\"\npull_from = [\"10.0.0.3\", \"mirror\"]",
            "\"mirror\" in pull_from",
        ),
    ] {
        fs::write(&path, wrong).unwrap();
        memsrvd()
            .args(["--config", file])
            .assert()
            .code(2)
            .stderr(contains(words));
    }
}

#[test]
fn the_mirror_is_given_by_either_and_is_another_server() {
    let (dir, free) = (tempfile::tempdir().unwrap(), {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    });
    let path = dir.path().join("memsrvd.toml");
    let file = path.to_str().unwrap();
    let own = format!("127.0.0.1:{free}");
    for (listen, mirror) in [
        (own.clone(), own.clone()),
        (own.clone(), format!("[::ffff:127.0.0.1]:{free}")),
        (format!("0.0.0.0:{free}"), own.clone()),
    ] {
        memsrvd()
            .args(["--capacity", "1M", "--no-lock"])
            .args(["--listen", &listen, "--mirror", &mirror])
            .assert()
            .code(2)
            .stderr(contains("is this server's own address"));
    }
    fs::write(&path, "mirror = \"192.0.2.1\"\nmirror_ack = \"before\"").unwrap();
    let mirror = |options: &[&str]| {
        let config = config(&[&["--config", file], options].concat());
        let mirror = config.mirror.unwrap();
        (mirror.address.to_string(), mirror.ack)
    };
    assert_eq!(
        mirror(&[]),
        ("192.0.2.1:7170".to_owned(), MirrorAck::Before)
    );
    let options = ["--mirror", "[2001:db8::1]:5", "--mirror-ack", "after"];
    assert_eq!(
        mirror(&options),
        ("[2001:db8::1]:5".to_owned(), MirrorAck::After)
    );
}

#[test]
fn the_file_says_who_fetches_pages_and_from_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memsrvd.toml");
    let outcome = |text: &str| {
        fs::write(&path, text).unwrap();
        let server = Running::start(&["--config", path.to_str().unwrap()]);
        let mut client = Client::connect(server.address);
        client.welcome(&hello("a", 1));
        // Nobody listens there.
        let nowhere = "127.0.0.1:1".parse().unwrap();
        let pull = pull_from(&FreeMask::ALL, nowhere, INSTANCE);
        client.send(&pull_bytes(1, 0, &pull));
        client.pulled().1
    };
    assert_eq!(outcome(""), Err(Status::Unreachable));
    assert_eq!(outcome("pull_threads = 0"), Err(Status::Denied));
    assert_eq!(outcome("pull_from = [\"10.0.0.0/8\"]"), Err(Status::Denied));
    let both = "pull_threads = 1\npull_from = [\"10.0.0.0/8\", \"127.0.0.1\"]";
    assert_eq!(outcome(both), Err(Status::Unreachable));
}

/// How it chooses is tested beside the source; this is that it is told, and says what it could not do.
#[test]
fn a_congestion_control_that_is_not_there_is_one_warning() {
    for (wanted, warnings) in [("no-such", 1), ("reno", 0), ("", 0)] {
        let server = Running::start(&["--congestion", wanted]);
        assert_eq!(
            server.said.matches("TCP congestion").count(),
            warnings,
            "{}",
            server.said
        );
        Client::connect(server.address).report();
    }
}

#[test]
fn a_port_in_use_exits_with_3_and_says_which() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let assert = memsrvd()
        .args(["--capacity", "1M", "--listen", &address])
        .assert();
    assert
        .code(3)
        .stderr(contains(address))
        .stderr(contains("--listen"));
}

#[test]
fn too_little_memory_exits_with_4_and_says_how_much_was_wanted() {
    let assert = memsrvd()
        .args(["--capacity", "900T", "--listen", "127.0.0.1:0"])
        .assert();
    assert
        .code(4)
        .stderr(contains("TiB"))
        .stderr(contains("smaller --capacity"));
}

/// The program under a limit on locked memory, without the capability to ignore it.
fn limited(bytes: u64, options: &[&str]) -> Command {
    // For root the limit holds only without CAP_IPC_LOCK.
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            "--bounding-set=-ipc_lock",
            "--inh-caps=-ipc_lock",
            "prlimit",
        ]);
        command
    } else {
        Command::new("prlimit")
    };
    command.arg(format!("--memlock={bytes}"));
    command.arg(assert_cmd::cargo::cargo_bin("memsrvd"));
    command.args(["--listen", "127.0.0.1:0"]).args(options);
    command
}

#[test]
fn a_limit_on_locked_memory_exits_with_5_and_names_it() {
    // Of the second there is enough for the capacity, but not for all of the process.
    for (limit, capacity, words) in [(65536, "16M", "64 KiB"), (4_718_592, "4M", "4.5 MiB")] {
        Program::from_std(limited(limit, &["--capacity", capacity]))
            .timeout(PATIENCE)
            .assert()
            .code(5)
            .stderr(contains("LimitMEMLOCK"))
            .stderr(contains(words));
    }
}

/// From too little for the program's code to enough for all of it, it starts or names the limit: it does
/// not call memory short, nor end by a signal. Tested as far as this machine lets the limit be raised.
#[test]
fn a_limit_that_is_only_just_too_low_exits_with_5_too() {
    let highest = rustix::process::getrlimit(rustix::process::Resource::Memlock).maximum;
    for limit in (3 << 20..16 << 20).step_by(256 << 10) {
        if highest.is_some_and(|highest| limit > highest) {
            eprintln!("limits from {limit} on are not tested");
            break;
        }
        let mut command = limited(limit, &["--capacity", "64K", "--threads", "1"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("listening") && log.read_line(&mut said).unwrap() > 0 {}
        let listening = said.contains("listening");
        if listening {
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        assert!(
            listening || status.code() == Some(5),
            "{limit}: {status}, {said}"
        );
    }
}

/// A server that locks its memory; none where the limit on that is too low for a test.
fn locked() -> Option<Running> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    if limit.is_some_and(|limit| limit < 64 << 20) && !rustix::process::geteuid().is_root() {
        eprintln!("limit on locked memory is {limit:?}: not tested");
        return None;
    }
    let mut command = Command::cargo_bin("memsrvd").unwrap();
    command
        .args(["--listen", "127.0.0.1:0", "--capacity", "16M"])
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let (said, _) = until_it_listens(&mut log);
    Some(Running {
        child,
        address: ([127, 0, 0, 1], 0).into(),
        said,
        log: Some(log),
    })
}

/// Design, rule 14.
#[test]
fn the_capacity_is_locked_in_memory_from_the_start() {
    let Some(server) = locked() else { return };
    assert!(server.memory_kib("VmLck") >= 16 << 10);
    assert!(server.memory_kib("VmRSS") >= 16 << 10);
}

/// Design, rule 14: memory that a thread of the server asks for must not wait for writeback to a client
/// of its own. Without the capability that this takes, it says so and ends.
#[test]
fn every_thread_is_an_io_flusher() {
    // include/linux/sched.h of the kernel: PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE.
    const IO_FLUSHER: u64 = 0x0008_0000 | 0x0010_0000;
    let Some(server) = locked() else { return };
    if server.said.contains("PR_SET_IO_FLUSHER") {
        eprintln!("no CAP_SYS_RESOURCE: not tested");
        return;
    }
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap() {
        let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        // proc(5): the flags are the ninth field, the seventh after the name in parentheses.
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let flags: u64 = rest.split_whitespace().nth(6).unwrap().parse().unwrap();
        assert_eq!(flags & IO_FLUSHER, IO_FLUSHER, "{stat}");
        threads += 1;
    }
    assert!(threads > 1, "only {threads} thread");
}

#[test]
fn sigterm_and_sigint_stop_it_cleanly_and_it_says_what_is_lost() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Running::start(&[]);
        let mut client = Client::connect(server.address);
        client.welcome(&hello("a", 1));
        (0..3).for_each(|slot| client.store(slot, &page(slot)));
        server.signal(signal);
        client.told_of_the_stop();
        assert_eq!(client.rest(), b"");
        assert_eq!(server.wait(), Some(0));
        let log = server.log.take().unwrap();
        let log: String = log.lines().map(Result::unwrap).collect();
        assert!(log.contains("\"dropped_pages\":3"), "{log}");
    }
}

/// Not a single wake-up: the number of times its threads were put on a CPU does not change.
#[test]
fn an_idle_server_uses_no_cpu_at_all() {
    let server = Running::start(&[]);
    let mut client = Client::connect(server.address);
    client.welcome(&hello("a", 1));
    client.store(1, &page(1));
    server.come_to_rest(|| ());
    let before = server.cpu_use();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(server.cpu_use(), before);
    // And the count does count.
    client.ping();
    assert!(server.cpu_use().1 > before.1);
}

/// 40 peers that ask for as much as they can and read nothing: less than 512 KiB each.
#[test]
fn peers_that_never_read_cost_a_bounded_amount_of_memory() {
    let server = Running::start(&[]);
    let mut first = Client::connect(server.address);
    let streams = 41;
    first.welcome(&Hello {
        streams,
        ..hello("a", 1)
    });
    (0..512).for_each(|slot| first.store(slot, &page(slot)));
    let before = server.memory_kib("VmRSS");
    let load = Message::Load {
        tag: Tag(1),
        slot: Slot(0),
        count: 512,
    }
    .encode();
    let requests = load.repeat(40_000);
    let mut deaf = Vec::new();
    for stream in 1..streams {
        let mut client = Client::connect(server.address);
        client.welcome(&Hello {
            stream,
            streams,
            ..hello("a", 1)
        });
        client.stream.set_nonblocking(true).unwrap();
        // As much as the kernel's buffers take; the server takes the rest of what it will from them.
        let _ = client.stream.write(&requests);
        deaf.push(client);
    }
    server.come_to_rest(|| {
        let now = server.memory_kib("VmRSS");
        assert!(now < before + 40 * 512, "{before} KiB, then {now} KiB");
    });
    first.ping();
}
