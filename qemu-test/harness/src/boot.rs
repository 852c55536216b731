// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One guest: QEMU without KVM, its disks, its console in a file, its port to us on a socket.

use std::fs::{self, File};
use std::io::BufReader;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use qemu_test_wire::{self as wire, Machine, Purpose, ToGuest, ToHost};

use crate::console::Console;
use crate::tree::Tree;

/// How long a guest may take to its first word; it takes 10 s on a quiet machine.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// The emulator, as the build root has it.
pub const QEMU: &str = "qemu-system-x86_64";

/// How long it may take to switch itself off.
const OFF_LIMIT: Duration = Duration::from_secs(60);

/// What is said of a guest that was reset because a processor could not even say that it failed.
const TRIPLE_FAULT: &str = ", by a triple fault";

/// A running guest. It is killed when the value goes.
pub struct Guest {
    qemu: Child,
    messages: Receiver<std::io::Result<Option<ToHost>>>,
    writer: UnixStream,
    scratch: PathBuf,
    off_limit: Duration,
    qemu_log: PathBuf,
    /// What its kernel says.
    pub console: Console,
}

/// What came from the guest, or did not.
pub enum Event {
    /// A message.
    Message(ToHost),
    /// QEMU ended, or the line broke: the guest panicked or lost its agent.
    Gone(String),
    /// Nothing until the deadline.
    Silence,
}

impl Guest {
    /// Boots a machine behind a tap device, and waits until its agent is ready.
    pub fn boot(
        tree: &Tree,
        machine: &Machine,
        tap: &str,
        initramfs: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let scratch = logs.join("disks");
        fs::create_dir_all(&scratch).with_context(|| format!("making {}", scratch.display()))?;
        let patience = tree.kernel.patience(BOOT_LIMIT);
        let name = format!("memsrv-qemu-test-{}-{tap}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).context("naming a socket")?;
        let listener = UnixListener::bind_addr(&address).context("listening for QEMU")?;
        let console_path = logs.join("console.log");
        let qemu_log = logs.join("qemu.log");
        let mut command = command(
            tree,
            machine,
            tap,
            initramfs,
            &console_path,
            &name,
            &scratch,
        )?;
        let errors = File::create(&qemu_log).context("making qemu.log")?;
        command
            .stdin(Stdio::null())
            .stdout(errors.try_clone()?)
            .stderr(errors);
        let mut qemu = command.spawn().context("starting QEMU by setpriv")?;
        let connected = accept(&listener, &mut qemu, &qemu_log);
        let writer = match connected {
            Ok(socket) => socket,
            Err(error) => {
                let _ = qemu.kill();
                let _ = qemu.wait();
                return Err(error);
            }
        };
        let messages = listen(writer.try_clone().context("duplicating the socket")?);
        let console = Console::new(&console_path);
        let mut guest = Self {
            qemu,
            messages,
            writer,
            scratch,
            off_limit: tree.kernel.patience(OFF_LIMIT),
            qemu_log,
            console,
        };
        match guest.next(Instant::now() + patience) {
            Event::Message(ToHost::Ready(_)) => Ok(guest),
            Event::Message(other) => bail!("the guest's first word was {other:?}"),
            Event::Gone(why) => bail!(
                "the guest ended while booting ({why}); see {}; its console's end:\n{}",
                tree.short(&console_path),
                tail(&guest.console.text_from(0), 15)
            ),
            Event::Silence => bail!(
                "the guest did not boot within {} s; see {}",
                patience.as_secs(),
                tree.short(&console_path)
            ),
        }
    }

    /// Sends one message.
    pub fn send(&mut self, message: &ToGuest) -> Result<()> {
        wire::send(&mut self.writer, message).context("writing to the guest")
    }

    /// Waits for what comes next.
    pub fn next(&mut self, deadline: Instant) -> Event {
        let patience = deadline.saturating_duration_since(Instant::now());
        match self.messages.recv_timeout(patience) {
            Ok(Ok(Some(message))) => Event::Message(message),
            Ok(Ok(None)) | Err(RecvTimeoutError::Disconnected) => Event::Gone(self.ended()),
            Ok(Err(error)) => Event::Gone(format!("{error}; {}", self.ended())),
            Err(RecvTimeoutError::Timeout) => Event::Silence,
        }
    }

    /// Switches it off in good order.
    pub fn power_off(mut self) -> Result<()> {
        self.send(&ToGuest::PowerOff)?;
        let deadline = Instant::now() + self.off_limit;
        while self.qemu.try_wait().context("waiting for QEMU")?.is_none() {
            if Instant::now() > deadline {
                let limit = self.off_limit.as_secs();
                bail!("the guest did not switch off within {limit} s");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn ended(&mut self) -> String {
        // The socket closes just before the process ends.
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.qemu.try_wait() {
                let log = fs::read_to_string(&self.qemu_log).unwrap_or_default();
                let why = if log.contains("Triple fault") {
                    TRIPLE_FAULT
                } else {
                    ""
                };
                return format!("QEMU ended: {status}{why}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        "the line closed, QEMU still runs".to_owned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Already ended is no error here; the scratch directory holds only sparse disks.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

fn accept(listener: &UnixListener, qemu: &mut Child, log: &Path) -> Result<UnixStream> {
    listener.set_nonblocking(true).context("socket options")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(false).context("socket options")?;
                return Ok(socket);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("waiting for QEMU"),
        }
        if let Some(status) = qemu.try_wait().context("waiting for QEMU")? {
            let said = fs::read_to_string(log).unwrap_or_default();
            bail!("QEMU did not start ({status}): {}", said.trim());
        }
        if Instant::now() > deadline {
            bail!("QEMU did not connect within 60 s");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn listen(socket: UnixStream) -> Receiver<std::io::Result<Option<ToHost>>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(socket);
        loop {
            let message = wire::receive(&mut reader);
            let last = !matches!(message, Ok(Some(_)));
            if sender.send(message).is_err() || last {
                return;
            }
        }
    });
    receiver
}

fn command(
    tree: &Tree,
    machine: &Machine,
    tap: &str,
    initramfs: &Path,
    console: &Path,
    socket: &str,
    scratch: &Path,
) -> Result<Command> {
    let kernel = tree.kernel.image(tree)?;
    let root = tree.file("guest-root.ext4")?;
    let mut command = tree.in_root();
    command.args(["env", &format!("TMPDIR={}", scratch.display()), QEMU]);
    command.args(match machine.purpose {
        Purpose::Test | Purpose::Bench => &["-accel", "tcg,thread=multi"][..],
        Purpose::Count => &[
            "-accel",
            "tcg,thread=single",
            "-icount",
            "shift=0,sleep=off",
        ],
    });
    // TCG executes "fast short rep mov" byte by byte, and counts each as an instruction: copying a page would be four
    // thousand of them. Without, kernel and libraries copy words.
    command.args(["-cpu", "max,-fsrm,-erms", "-no-reboot", "-nodefaults"]);
    // On its standard error: of a reset, whether a processor gave up.
    command.args(["-d", "cpu_reset"]);
    command.args(["-machine", tree.kernel.machine(), "-display", "none"]);
    command.args([
        "-m",
        &tree.kernel.memory_mib(machine.memory_mib).to_string(),
        "-smp",
        &machine.cpus.to_string(),
    ]);
    command
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs);
    command.args(["-append", &tree.kernel.parameters(machine.purpose)]);
    command
        .arg("-serial")
        .arg(format!("file:{}", console.display()));
    command.args(["-device", "virtio-serial-pci"]);
    command
        .arg("-chardev")
        .arg(format!("socket,id=results,path={socket},abstract=on"));
    command.arg("-device").arg(format!(
        "virtserialport,chardev=results,name={}",
        wire::PORT_NAME
    ));
    command.arg("-netdev").arg(format!(
        "tap,id=network,ifname={tap},script=no,downscript=no"
    ));
    command.args(["-device", "virtio-net-pci,netdev=network,romfile="]);
    command.arg("-drive").arg(format!(
        "file={},if=none,id=root,format=raw,snapshot=on,cache=unsafe",
        root.display()
    ));
    command.args(["-device", "virtio-blk-pci,drive=root,serial=root"]);
    for (index, mib) in machine.swap_mib.iter().enumerate() {
        let path = scratch.join(format!("swap{index}"));
        let disk = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        disk.set_len(u64::from(*mib) << 20)
            .context("making a swap disk")?;
        command.arg("-drive").arg(format!(
            "file={},if=none,id=swap{index},format=raw,cache=unsafe",
            path.display()
        ));
        command.arg("-device").arg(format!(
            "virtio-blk-pci,drive=swap{index},serial=swap{index}"
        ));
    }
    Ok(command)
}

/// The last `count` lines.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    lines.get(from..).unwrap_or_default().join("\n")
}
