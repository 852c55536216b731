// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Where things are: the source tree's build directory, found from this program's own place in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};
use qemu_test_wire::Scenario;
use rustix::fs::{flock, FlockOperation};

use crate::kernel::Kernel;

/// The revision of a tree that git knows nothing of.
pub const UNKNOWN: &str = "unknown";

/// The build directory of the source tree.
pub struct Tree {
    build: PathBuf,
    /// The kernel that guests boot.
    pub kernel: Kernel,
}

impl Tree {
    /// `build/` is where this program stands.
    pub fn find(kernel: Kernel) -> Result<Self> {
        let own = std::env::current_exe().context("finding this program's own file")?;
        let build = own
            .parent()
            .context("this program stands in no directory")?
            .to_owned();
        ensure!(
            build.join("kernel").exists(),
            "{} holds no test kernel; run `make demo` or `make test`, which prepare it",
            build.display()
        );
        Ok(Self { build, kernel })
    }

    /// Waits until no other run uses the logs and disks of this tree; ours ends with the value.
    pub fn take_turn(&self) -> Result<File> {
        let path = self.build.join(".qemu-test-lock");
        let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            println!("waiting for another run of guests in this tree");
            flock(&file, FlockOperation::LockExclusive).context("waiting for our turn")?;
        }
        Ok(file)
    }

    /// A file in build/.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.build.join(name);
        ensure!(
            path.exists(),
            "{} is not there; run `make` first",
            path.display()
        );
        Ok(path)
    }

    /// A file in build/ that may be missing.
    pub fn optional(&self, name: &str) -> Option<PathBuf> {
        Some(self.build.join(name)).filter(|path| path.exists())
    }

    /// An empty directory for logs; `name` may have several parts.
    pub fn logs(&self, name: &str) -> Result<PathBuf> {
        let path = self.log_root().join(name);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("emptying {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// Keeps logs beside their place, as those of a first attempt that does not count.
    pub fn set_aside(&self, logs: &Path, attempt: u32) -> Result<()> {
        let mut name = logs.file_name().context("logs without a name")?.to_owned();
        name.push(format!("-again-{attempt}"));
        let aside = logs.with_file_name(name);
        if aside.exists() {
            fs::remove_dir_all(&aside).with_context(|| format!("removing {}", aside.display()))?;
        }
        fs::rename(logs, &aside).with_context(|| format!("renaming {}", logs.display()))
    }

    /// A place in build/ for something that is made.
    pub fn place(&self, name: &str) -> PathBuf {
        self.build.join(name)
    }

    /// What is checked out, as git says it; [`UNKNOWN`] without git.
    pub fn revision(&self) -> String {
        let output = Command::new("git")
            .arg("-C")
            .arg(&self.build)
            .args(["-c", "safe.directory=*", "describe", "--always", "--dirty"])
            .output();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .unwrap_or_else(|| UNKNOWN.to_owned())
    }

    /// The directory of all logs.
    pub fn log_root(&self) -> PathBuf {
        self.build.join(self.kernel.logs())
    }

    /// The path as a person in the source tree would write it.
    pub fn short(&self, path: &Path) -> String {
        let top = self.build.parent().unwrap_or(&self.build);
        path.strip_prefix(top).unwrap_or(path).display().to_string()
    }

    /// A place in the source tree.
    pub fn source(&self, name: &str) -> PathBuf {
        self.build.parent().unwrap_or(&self.build).join(name)
    }

    /// What runs a program of the build root, which is the same on every machine, as root and no longer than we run;
    /// its name and words are to be added.
    pub fn in_root(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(self.source("qemu-test/env/in-root"));
        command.env("MEMSRV_UID", "0").env("MEMSRV_GID", "0");
        command
    }

    /// One scenario of the agent's table.
    pub fn scenario(&self, name: &str) -> Result<Scenario> {
        self.scenarios()?
            .into_iter()
            .find(|scenario| scenario.name == name)
            .with_context(|| format!("the agent has no scenario named {name}"))
    }

    /// The agent's table.
    pub fn scenarios(&self) -> Result<Vec<Scenario>> {
        let agent = self.file("qemu-test-agent")?;
        let output = Command::new(&agent)
            .arg("list")
            .output()
            .with_context(|| format!("running {}", agent.display()))?;
        ensure!(
            output.status.success(),
            "{} list: {}",
            agent.display(),
            output.status
        );
        serde_json::from_slice(&output.stdout).context("the agent's list of scenarios")
    }
}
