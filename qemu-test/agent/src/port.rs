// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The agent's end of the line to the harness: the virtio-serial port, and the questions asked over it.

use std::fs::{self, File, OpenOptions};
use std::io::BufReader;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use qemu_test_wire::{self as wire, Answer, Ask, Outcome, Row, Samples, ToGuest, ToHost};

/// The harness, as scenarios see it.
pub struct Host {
    reader: BufReader<File>,
    writer: File,
}

impl Host {
    /// Finds the port by its name; it may take the driver a moment to make it.
    pub fn open() -> Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(device) = find_port()? {
                let writer = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&device)
                    .with_context(|| format!("opening {device}"))?;
                let reader = BufReader::new(writer.try_clone().context("duplicating the port")?);
                return Ok(Self { reader, writer });
            }
            if Instant::now() > deadline {
                bail!("no virtio port named {} appeared", wire::PORT_NAME);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Does something that the port's driver does not survive: it is taken from its device meanwhile.
    pub fn without_port<R>(&mut self, deed: impl FnOnce() -> R) -> Result<R> {
        let driver = "/sys/bus/virtio/drivers/virtio_console";
        let device = fs::read_dir(driver)
            .with_context(|| format!("listing {driver}"))?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .find(|name| name.starts_with("virtio"))
            .context("virtio_console drives no device")?;
        // Closed first: who holds the port keeps a part of the driver.
        let nothing = File::open("/dev/null").context("opening /dev/null")?;
        self.reader = BufReader::new(nothing.try_clone().context("duplicating /dev/null")?);
        self.writer = nothing;
        fs::write(format!("{driver}/unbind"), &device).context("unbinding the port's driver")?;
        let result = deed();
        fs::write(format!("{driver}/bind"), &device).context("binding the port's driver")?;
        *self = Self::open()?;
        Ok(result)
    }

    /// Sends one message.
    pub fn send(&mut self, message: &ToHost) -> Result<()> {
        wire::send(&mut self.writer, message).context("writing to the harness")
    }

    /// Waits for one message.
    pub fn receive(&mut self) -> Result<ToGuest> {
        wire::receive(&mut self.reader)
            .context("reading from the harness")?
            .context("the harness hung up")
    }

    /// Tells who waits what is going on.
    pub fn note(&mut self, text: impl Into<String>) -> Result<()> {
        self.send(&ToHost::Note(text.into()))
    }

    /// Reports one line of the table.
    pub fn row(&mut self, row: Row) -> Result<()> {
        self.send(&ToHost::Row(row))
    }

    /// Reports the end of a scenario.
    pub fn done(&mut self, outcome: Outcome) -> Result<()> {
        self.send(&ToHost::Done(outcome))
    }

    fn ask(&mut self, ask: Ask) -> Result<Option<serde_json::Value>> {
        let words = format!("{ask:?}");
        self.send(&ToHost::Ask(ask))?;
        match self.receive()? {
            ToGuest::Answer(Answer::Done) => Ok(None),
            ToGuest::Answer(Answer::Status(value)) => Ok(Some(value)),
            ToGuest::Answer(Answer::Failed(why)) => bail!("the host could not {words}: {why}"),
            other => bail!("asked {words}, the harness said {other:?}"),
        }
    }

    /// Starts a fresh memory server.
    pub fn start_server(&mut self, capacity: &str) -> Result<()> {
        self.start_server_with(capacity, &[])
    }

    /// Starts a fresh memory server with further arguments.
    pub fn start_server_with(&mut self, capacity: &str, arguments: &[&str]) -> Result<()> {
        let arguments = arguments.iter().map(|&word| word.to_owned()).collect();
        self.ask(Ask::StartServer {
            capacity: capacity.to_owned(),
            arguments,
        })
        .map(drop)
    }

    /// Does something with the mirror in the server's place.
    pub fn mirror<R>(&mut self, deed: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        self.ask(Ask::Mirror(true))?;
        let result = deed(self);
        self.ask(Ask::Mirror(false))?;
        result
    }

    /// The server goes on as a spare one; the spare one, if there is one, is the server.
    pub fn spare(&mut self) -> Result<()> {
        self.ask(Ask::Spare).map(drop)
    }

    /// Ends the server as an administrator would.
    pub fn stop_server(&mut self) -> Result<()> {
        self.ask(Ask::StopServer).map(drop)
    }

    /// The server dies.
    pub fn kill_server(&mut self) -> Result<()> {
        self.ask(Ask::KillServer).map(drop)
    }

    /// The server stands still, its connections open.
    pub fn pause_server(&mut self) -> Result<()> {
        self.ask(Ask::PauseServer).map(drop)
    }

    /// The server goes on.
    pub fn resume_server(&mut self) -> Result<()> {
        self.ask(Ask::ResumeServer).map(drop)
    }

    /// For so long the server runs a tenth of the time only.
    pub fn slow_server(&mut self, time: Duration) -> Result<()> {
        let ms = u64::try_from(time.as_millis())?;
        self.ask(Ask::SlowServer(ms)).map(drop)
    }

    /// The server's connections are reset; says how many.
    pub fn reset_connections(&mut self) -> Result<u64> {
        self.count(Ask::ResetConnections)
    }

    /// One bit is flipped in each of so many pages that the server stores; says in how many.
    pub fn flip_bits(&mut self, pages: usize) -> Result<u64> {
        self.count(Ask::FlipBits { pages })
    }

    fn count(&mut self, ask: Ask) -> Result<u64> {
        let value = self.ask(ask)?.context("the host sent no number")?;
        value.as_u64().context("the host sent something else")
    }

    /// Something else listens on the server's port.
    pub fn fake_server(&mut self, fake: wire::Fake) -> Result<()> {
        self.ask(Ask::FakeServer(fake)).map(drop)
    }

    /// The server can no longer be reached, or can again.
    pub fn reach(&mut self, on: bool) -> Result<()> {
        self.ask(Ask::Reach { on }).map(drop)
    }

    /// The guest's network link goes down or comes up.
    pub fn link(&mut self, up: bool) -> Result<()> {
        self.ask(Ask::Link { up }).map(drop)
    }

    /// The guest is about to switch itself off: the scenario passes if the server is empty then.
    pub fn expect_end(&mut self) -> Result<()> {
        self.ask(Ask::ExpectEnd).map(drop)
    }

    /// Starts one of what memsrv is compared with, outside.
    pub fn start_other(&mut self, other: wire::Other) -> Result<()> {
        self.ask(Ask::StartOther(other)).map(drop)
    }

    /// Ends it.
    pub fn stop_other(&mut self) -> Result<()> {
        self.ask(Ask::StopOther).map(drop)
    }

    /// Reports what was measured.
    pub fn samples(&mut self, who: &str, what: &str, round: usize, values: Vec<u64>) -> Result<()> {
        self.send(&ToHost::Samples(Samples {
            who: who.to_owned(),
            what: what.to_owned(),
            round,
            values,
        }))
    }

    /// The server's own status.
    pub fn server_status(&mut self) -> Result<serde_json::Value> {
        self.ask(Ask::ServerStatus)?
            .context("the host sent no status")
    }

    /// For how many nanoseconds the server's threads have had a processor.
    pub fn server_ns(&mut self) -> Result<u64> {
        self.count(Ask::ServerTime)
    }

    /// Pages stored on the server now.
    pub fn server_pages(&mut self) -> Result<u64> {
        let status = self.server_status()?;
        find_number(&status, "used_pages")
            .with_context(|| format!("no used_pages in the server's status: {status}"))
    }
}

/// The first number of that name, wherever in the value it stands.
fn find_number(value: &serde_json::Value, name: &str) -> Option<u64> {
    match value {
        serde_json::Value::Object(map) => map
            .get(name)
            .and_then(serde_json::Value::as_u64)
            .or_else(|| map.values().find_map(|inner| find_number(inner, name))),
        serde_json::Value::Array(list) => list.iter().find_map(|inner| find_number(inner, name)),
        _ => None,
    }
}

fn find_port() -> Result<Option<String>> {
    let Ok(ports) = fs::read_dir("/sys/class/virtio-ports") else {
        return Ok(None);
    };
    for port in ports {
        let port = port.context("listing virtio ports")?;
        let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
        if name.trim() == wire::PORT_NAME {
            let device = format!("/dev/{}", port.file_name().to_string_lossy());
            return Ok(fs::exists(&device)?.then_some(device));
        }
    }
    Ok(None)
}
