// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What scenarios' `result` files say: how each ended, of which build, so that a run of hours can be gone on with.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use qemu_test_wire::Scenario;

use crate::lanes::Done;
use crate::tree::Tree;

/// A word for all that a scenario's end depends on; it finds what has changed, nothing else.
pub fn fingerprint(tree: &Tree) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    let own = std::env::current_exe().context("finding this program's own file")?;
    let agent = tree.file("qemu-test-agent")?;
    let module = tree.file(tree.kernel.module())?;
    let files = [
        own,
        agent,
        module,
        tree.file("memsrvd")?,
        tree.file("memsrvctl")?,
        // Of when it was made.
        tree.file("guest-root")?.join("../recipe"),
        tree.kernel.image(tree)?,
    ];
    for path in files {
        let mut file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .with_context(|| format!("reading {}", path.display()))?;
        hasher.write(&bytes);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Writes how a scenario ended into the directory of its logs.
pub fn write(logs: &Path, build: &str, done: &Done) -> Result<()> {
    let figures = serde_json::to_string(&done.figures)?;
    let word = if done.error.is_some() { "FAIL" } else { "ok" };
    let error = done.error.as_deref().unwrap_or_default();
    let (seconds, line) = (done.seconds, if error.is_empty() { "" } else { "\n" });
    let text =
        format!("{word}\nbuild {build}\nseconds {seconds:.1}\nfigures {figures}\n{error}{line}");
    fs::write(logs.join("result"), text).context("writing a result")
}

/// Parts scenarios into those that have passed with this build, and the rest.
pub fn passed(tree: &Tree, build: &str, all: Vec<Scenario>) -> (Vec<Done>, Vec<Scenario>) {
    let mut passed = Vec::new();
    let mut rest = Vec::new();
    for scenario in all {
        let path = tree.log_root().join(&scenario.name).join("result");
        let text = fs::read_to_string(path).unwrap_or_default();
        match read(&scenario.name, build, &text) {
            Some(done) => passed.push(done),
            None => rest.push(scenario),
        }
    }
    (passed, rest)
}

/// What a result says, if it is of this build and good.
fn read(name: &str, build: &str, text: &str) -> Option<Done> {
    let mut lines = text.lines();
    let is_good = lines.next()? == "ok" && lines.next()?.strip_prefix("build ")? == build;
    let seconds = lines.next()?.strip_prefix("seconds ")?.parse().ok()?;
    let figures = serde_json::from_str(lines.next()?.strip_prefix("figures ")?).ok()?;
    is_good.then(|| Done {
        name: name.to_owned(),
        error: None,
        figures,
        seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_passed_with_this_build_is_not_run_again() {
        let logs = tempfile::tempdir().unwrap();
        let ended = |error: Option<&str>| {
            let done = Done {
                name: "basic".to_owned(),
                error: error.map(str::to_owned),
                figures: [("stored_pages".to_owned(), 8192)].into(),
                seconds: 7.25,
            };
            write(logs.path(), "00ff", &done).unwrap();
            fs::read_to_string(logs.path().join("result")).unwrap()
        };
        let good = read("basic", "00ff", &ended(None)).unwrap();
        assert_eq!((good.figures["stored_pages"], good.seconds), (8192, 7.2));
        assert!(read("basic", "00fe", &ended(None)).is_none());
        assert!(read("basic", "00ff", &ended(Some("3 bytes are wrong"))).is_none());
        assert!(read("basic", "00ff", "").is_none());
    }
}
