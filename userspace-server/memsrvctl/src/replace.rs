// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Has the module take another server in the place of one of its two, and shows how that is filled.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::error::Error;
use crate::giveup::say;
use crate::module::{self, Sample, Value};
use crate::{control, server, AFTER_HELP, DEBUGFS};

/// How often the module is asked how far it is.
const STEP: Duration = Duration::from_millis(500);

/// How long the new server may take to be connected.
const CONNECTED: Duration = Duration::from_secs(15);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// The one of `server=`
    Primary,
    /// The one of `mirror=`
    Mirror,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Which::Primary => "primary",
            Which::Mirror => "mirror",
        }
    }

    /// Where the module says its address, and how its links are called.
    fn keys(self) -> (&'static str, &'static str) {
        match self {
            Which::Primary => ("server", "link."),
            Which::Mirror => ("mirror", "mirror_link."),
        }
    }
}

/// The command's options.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Replace {
    /// Which server is replaced
    which: Which,
    /// The one that takes its place, as `10.0.0.4`, `10.0.0.4:7170` or `[2001:db8::4]:7170`
    #[arg(value_name = "ADDR[:PORT]", value_parser = server::address)]
    address: SocketAddr,
    /// Do not wait until the new server has every page
    #[arg(long)]
    no_wait: bool,
    /// Write JSON, one object a line
    #[arg(long)]
    json: bool,
    /// Where debugfs is mounted
    #[arg(long, value_name = "DIR", default_value = DEBUGFS)]
    debugfs: PathBuf,
}

/// How far it is.
struct Progress {
    connected: bool,
    /// Clusters that the new server lacks, and those that it was given since `insmod`.
    left: u64,
    filled: u64,
}

/// Replaces a server, and waits until the pair is whole again.
///
/// # Errors
///
/// There is no module, it refuses, or the new server cannot be connected.
pub fn run(options: &Replace) -> Result<(), Error> {
    let name = options.which.name();
    let before = module::take(&options.debugfs)?;
    let filled_before = progress(&before, options.which).filled;
    let command = format!("replace {name} {}", options.address);
    control::write(&options.debugfs, &command).map_err(|(path, error)| match error.kind() {
        io::ErrorKind::ResourceBusy => Error::NotReplaced(name),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => Error::NoReplacement(name),
        _ => Error::Control { path, error },
    })?;
    tell(
        options,
        "told",
        &format!("{} takes the place of the {name}", options.address),
        None,
    )?;
    if options.no_wait {
        return Ok(());
    }
    let started = Instant::now();
    let mut shown = None;
    loop {
        let now = progress(&module::take(&options.debugfs)?, options.which);
        if now.connected && now.left == 0 {
            let words = format!("the {name} has every page");
            return tell(options, "whole", &words, Some(0));
        }
        if !now.connected && started.elapsed() > CONNECTED {
            let address = options.address;
            return Err(Error::NotConnected { name, address });
        }
        if now.connected && shown != Some(now.left) {
            shown = Some(now.left);
            let filled = now.filled.saturating_sub(filled_before);
            let all = now.left.saturating_add(filled);
            let words = format!("filling: {filled} of {all} clusters (of 2 MiB each)");
            tell(options, "filling", &words, Some(now.left))?;
        }
        std::thread::sleep(STEP);
    }
}

fn progress(sample: &Sample, which: Which) -> Progress {
    let name = which.name();
    let number = |key: &str| match sample.get(&format!("{key}_{name}")) {
        Some(Value::Number(number)) => *number,
        _ => 0,
    };
    let (_, prefix) = which.keys();
    let is_state = |key: &str| {
        key.strip_prefix(prefix)
            .is_some_and(|k| k.ends_with(".state"))
    };
    let mut states = sample.0.iter().filter(|(key, _)| is_state(key));
    Progress {
        connected: states.all(|(_, state)| *state == Value::Text("up".to_owned())),
        left: number("behind_clusters"),
        filled: number("refilled_clusters"),
    }
}

fn tell(options: &Replace, state: &str, words: &str, left: Option<u64>) -> Result<(), Error> {
    let line = match options.json {
        true => json!({
            "replaced": options.which.name(), "by": options.address.to_string(),
            "state": state, "clusters_left": left,
        })
        .to_string(),
        false => words.to_owned(),
    };
    say(&line).map_err(Error::Output)
}
