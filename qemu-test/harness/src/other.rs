// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What memsrv is compared with, outside the guest: Debian's own programs, run in the tree that the guest's root
//! was made of, and a second guest.

use std::fs::{File, Permissions};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use qemu_test_wire::{self as wire, Other};

use crate::target::Target;
use crate::tree::Tree;

/// What they may hold.
const ROOM: &str = "1G";

/// What nbd-server serves: sparse, and in the host's page cache.
const NBD_FILE: &str = "/var/tmp/nbd-server.img";

/// One of them; it is killed when the value goes.
pub enum Running {
    /// A program.
    Program(Child),
    /// A guest.
    #[expect(dead_code, reason = "it is there to be dropped")]
    Guest(Target),
}

impl Running {
    /// Starts it and waits until it takes connections.
    pub fn start(tree: &Tree, other: Other, logs: &Path) -> Result<Self> {
        let port = other.port().to_string();
        let address = format!("{}:{port}", wire::HOST_ADDRESS);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        match other {
            Other::Pong => {
                command
                    .arg(tree.file("qemu-test-agent")?)
                    .args(["pong", &address]);
            }
            Other::Nbdkit | Other::NbdkitOneThread => {
                let threads = if other == Other::Nbdkit { "16" } else { "1" };
                let words = ["-f", "-t", threads, "-i", wire::HOST_ADDRESS, "-p", &port];
                command.arg("chroot").arg(tree.file("guest-root")?);
                command.arg("/usr/bin/nbdkit").args(words);
                command.args(["memory", ROOM]);
            }
            Other::NbdServer => {
                let file = tree
                    .file("guest-root")?
                    .join(NBD_FILE.trim_start_matches('/'));
                let file =
                    File::create(&file).with_context(|| format!("making {}", file.display()))?;
                file.set_len(1 << 30).context("making nbd-server's file")?;
                // Debian's configuration lets it serve as a user of its own.
                file.set_permissions(Permissions::from_mode(0o666))
                    .context("letting nbd-server write its file")?;
                let at = format!("{}:{port}", wire::HOST_ADDRESS);
                // It forks for each client, and who looks whether it listens is one: so all of them end with the first.
                command.args(["unshare", "--pid", "--kill-child", "--"]);
                command.arg("chroot").arg(tree.file("guest-root")?);
                command.args(["/usr/bin/nbd-server", "-n", &at, NBD_FILE]);
            }
            Other::Nvme => return Target::start(tree).map(Self::Guest),
        }
        let log = File::create(logs.join(format!("{other:?}.log").to_lowercase()))
            .context("making a log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {other:?} by setpriv"))?;
        let mut running = Self::Program(child);
        let address: SocketAddr = address.parse().context("an address")?;
        let name = format!("{other:?}");
        if let Self::Program(child) = &mut running {
            await_port(child, address, &name, tree, logs)?;
        }
        Ok(running)
    }
}

/// Waits until a child takes connections.
pub fn await_port(
    child: &mut Child,
    address: SocketAddr,
    name: &str,
    tree: &Tree,
    logs: &Path,
) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(address).is_err() {
        if let Some(status) = child.try_wait().context("waiting for it")? {
            let logs = tree.short(logs);
            bail!("{name} ended at once: {status}; see {logs}");
        }
        ensure!(Instant::now() < deadline, "{name} does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Program(child) = self {
            // Already ended is no error here.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
