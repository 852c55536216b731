// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the test harness and the agent in the guest say to each other, one JSON value a line.
//!
//! The line runs over a virtio-serial port of its own: the console belongs to the kernel, and what a
//! crash leaves there must not look like a result. The harness names one scenario at a time; while it
//! runs, the agent may ask the harness for what only the outside can do (start, stop, kill or freeze
//! the memory server), and gets one [`Answer`] for each [`Ask`].

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Name of the virtio-serial port.
pub const PORT_NAME: &str = "memsrv.results";

/// Last part of the host's address on the guest's network, and of the guest's.
pub const HOST_ADDRESS: &str = "10.77.0.1";
/// Another of the host's: the mirror's.
pub const MIRROR_ADDRESS: &str = "10.77.0.3";
/// The guest's address.
pub const GUEST_ADDRESS: &str = "10.77.0.2";
/// The second guest's, if there is one: that which serves by NVMe/TCP.
pub const TARGET_ADDRESS: &str = "10.77.0.4";
/// The scenario that makes a second guest serve.
pub const TARGET_SCENARIO: &str = "nvme-target";
/// Length of their network's prefix.
pub const PREFIX: u8 = 24;
/// The memory servers' port.
pub const SERVER_PORT: u16 = 7170;

/// The machine that a scenario runs on; scenarios with equal needs share a boot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Machine {
    /// Guest RAM in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// Size in MiB of each disk that can be swapped to (serial numbers `swap0`, `swap1`, ...).
    pub swap_mib: Vec<u32>,
    /// What the machine is for.
    pub purpose: Purpose,
}

/// What a machine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// To find out what is right.
    Test,
    /// To find out how long something takes, beside others.
    Bench,
    /// To find out what something costs: its clock counts the instructions of its one processor (a nanosecond
    /// each), and jumps ahead where there is nothing to do, so that times repeat whatever the host does. What
    /// waits for the host, such as a disk, takes no time, or any.
    Count,
}

/// One scenario as `qemu-test-agent list` tells it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scenario {
    /// What `make test FILTER=` looks for, and the name of the log directory.
    pub name: String,
    /// What it shows, in a few words.
    pub about: String,
    /// What it runs on.
    pub machine: Machine,
    /// How long it may take under TCG on a busy machine, in seconds.
    pub limit_s: u64,
    /// Whether it loads memsrv.ko; those that do not are there to test the tests.
    pub module: bool,
    /// Whether `test` runs it; the demo is run by `demo` alone.
    pub in_test: bool,
    /// Whether only the debug kernel can run it.
    pub debug: bool,
    /// Its place in the fault matrix, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<Cell>,
}

/// A cell of the fault matrix: what befalls whom, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// How pages are kept: the table.
    pub mode: String,
    /// What happens: the row.
    pub fault: String,
    /// When it happens: the column.
    pub moment: String,
    /// Whether a program may be ended there because a page of its is gone.
    pub loss_allowed: bool,
    /// Why the cell cannot arise; then it is never run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Scenario {
    /// Whether there is something to run.
    #[must_use]
    pub fn can_arise(&self) -> bool {
        self.cell.as_ref().is_none_or(|cell| cell.reason.is_none())
    }
}

/// From the harness to the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToGuest {
    /// Run the scenario of this name.
    Run(String),
    /// The answer to the agent's last [`Ask`].
    Answer(Answer),
    /// Sync and switch off.
    PowerOff,
}

/// From the agent to the harness.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToHost {
    /// Booted, everything mounted; carries the kernel's release.
    Ready(String),
    /// What is going on, for a person who waits.
    Note(String),
    /// A line of a table, for a person who looks.
    Row(Row),
    /// What was measured.
    Samples(Samples),
    /// A request to the harness; an [`Answer`] follows.
    Ask(Ask),
    /// The scenario is over.
    Done(Outcome),
}

/// A program that ran in the demo.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Which.
    pub what: String,
    /// Memory that it needs, MiB.
    pub size_mib: u64,
    /// Memory that it was given, MiB.
    pub limit_mib: u64,
    /// How long it took.
    pub seconds: f64,
    /// How it ended.
    pub result: String,
}

/// Measurements of one thing, made one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    /// Who was measured, such as `memsrv` or `nbd`.
    pub who: String,
    /// What was measured, with its unit, such as `fault_ns`.
    pub what: String,
    /// In which round of the whole, from 0.
    pub round: usize,
    /// The values.
    pub values: Vec<u64>,
}

/// What only the outside can do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Start `memsrvd --listen ... --capacity CAPACITY` and further arguments; wait until it listens. An
    /// argument `@NAME` is a directory of that name which lives as long as the scenario.
    StartServer {
        /// As on its command line, such as `64M`.
        capacity: String,
        /// Further arguments.
        arguments: Vec<String>,
    },
    /// From now on, "the server" is the mirror, or no longer is.
    Mirror(bool),
    /// "The server" goes on as a spare one, and the spare one, if there is one, is "the server".
    Spare,
    /// End it by SIGTERM and check that it ends with status 0.
    StopServer,
    /// End it by SIGKILL.
    KillServer,
    /// Freeze it by SIGSTOP: its connections stay open and silent.
    PauseServer,
    /// Let it go on.
    ResumeServer,
    /// For so many milliseconds let it run a tenth of the time only, by SIGSTOP and SIGCONT.
    SlowServer(u64),
    /// Reset its connections, whatever they are in the midst of; the answer says how many there were.
    ResetConnections,
    /// Flip one bit in each of so many pages that it stores, behind its back; the answer says in how many.
    FlipBits {
        /// At most so many.
        pages: usize,
    },
    /// What `memsrvctl status --server --json` prints.
    ServerStatus,
    /// For how many nanoseconds its threads have had a processor.
    ServerTime,
    /// Listen in its place with something that is no memory server.
    FakeServer(Fake),
    /// Start one of what memsrv is compared with; it ends with the scenario, or when another one is started.
    StartOther(Other),
    /// End it.
    StopOther,
    /// The guest switches itself off; the scenario passes if the server holds nothing afterwards.
    ExpectEnd,
    /// The server can no longer be reached, or can again: as if its own cable were pulled.
    Reach {
        /// It can be reached.
        on: bool,
    },
    /// Take the guest's network link down or up.
    Link {
        /// Up, or down.
        up: bool,
    },
}

/// What memsrv is compared with, outside the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Other {
    /// The `pong` program of the agent.
    Pong,
    /// nbdkit with its memory plugin.
    Nbdkit,
    /// The same with one thread.
    NbdkitOneThread,
    /// Debian's nbd-server, on a file in memory.
    NbdServer,
    /// A second guest, which serves its RAM by NVMe/TCP at [`TARGET_ADDRESS`].
    Nvme,
}

impl Other {
    /// Its port.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Pong => 7171,
            Self::Nbdkit | Self::NbdkitOneThread => 10809,
            Self::NbdServer => 10810,
            // The one registered for NVMe over fabrics.
            Self::Nvme => 4420,
        }
    }
}

/// What a listener that is no memory server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fake {
    /// Accepts, and closes at once.
    Closes,
    /// Accepts, and never says anything.
    Silent,
    /// Answers with bytes that are no memsrv message.
    Noise,
    /// Takes the session, says that it is alive, and does nothing that it is asked for.
    Deaf,
    /// Takes the session and breaks the protocol.
    Hostile,
    /// Takes the session, grants LZ4, acknowledges every store, and answers loads with blocks that are no page's.
    Rubbish,
}

/// The harness's answer to an [`Ask`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done.
    Done,
    /// Done, and this is what was asked for.
    Status(serde_json::Value),
    /// Not done, and why.
    Failed(String),
}

/// How a scenario ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name, so that an answer to an earlier question is not taken for this one's.
    pub name: String,
    /// Why it failed; none if it passed.
    pub error: Option<String>,
    /// Whether the guest is as it was before, so that the next scenario can run in it.
    pub clean: bool,
    /// What it measured.
    pub figures: BTreeMap<String, u64>,
    /// /proc/sys/kernel/tainted at the end.
    pub taint: u64,
}

/// Writes one message as one line.
///
/// # Errors
/// Those of the writer.
pub fn send<T: Serialize>(writer: &mut impl Write, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    writer.write_all(&line)?;
    writer.flush()
}

/// Reads one message; `None` at the end of the stream.
///
/// # Errors
/// Those of the reader, and `InvalidData` for a line that is no message.
pub fn receive<T: DeserializeOwned>(reader: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if !line.trim().is_empty() {
            break;
        }
    }
    serde_json::from_str(&line)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}: {line}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_sent_is_received() {
        let mut line = Vec::new();
        let ask = Ask::StartServer {
            capacity: "64M".to_owned(),
            arguments: vec!["--quota".to_owned(), "1M".to_owned()],
        };
        send(&mut line, &ToHost::Ask(ask)).unwrap();
        send(&mut line, &ToHost::Note("two\nlines".to_owned())).unwrap();
        let mut reader = line.as_slice();
        let first: Option<ToHost> = receive(&mut reader).unwrap();
        assert!(
            matches!(first, Some(ToHost::Ask(Ask::StartServer { capacity, .. })) if capacity == "64M")
        );
        let second: Option<ToHost> = receive(&mut reader).unwrap();
        assert!(matches!(second, Some(ToHost::Note(text)) if text == "two\nlines"));
        assert!(receive::<ToHost>(&mut reader).unwrap().is_none());
    }

    #[test]
    fn noise_is_an_error_and_not_a_message() {
        let mut reader = &b"Kernel panic\n"[..];
        assert!(receive::<ToHost>(&mut reader).is_err());
    }
}
