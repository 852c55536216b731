// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Tells the module to wait no longer for pages that no server is there to give: all of them, or with a mirror what
//! only the one has that is away.
//!
//! What would be lost is shown first, and nothing is done without `--yes`: nobody can take it back.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use memsrv_protocol::PAGE_SIZE;
use serde_json::json;

use crate::error::Error;
use crate::module::{self, Value};
use crate::{control, show, AFTER_HELP, DEBUGFS};

/// The command's options.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Giveup {
    /// Do it; without, only show what would be lost
    #[arg(long)]
    yes: bool,
    /// Write JSON, one object
    #[arg(long)]
    json: bool,
    /// Where debugfs is mounted
    #[arg(long, value_name = "DIR", default_value = DEBUGFS)]
    debugfs: PathBuf,
}

/// Shows what would be lost, or gives it up.
///
/// # Errors
///
/// There is no module, it does not say what would be lost, nothing would be, or it refuses; or `--yes` is
/// missing.
pub fn run(options: &Giveup) -> Result<(), Error> {
    let sample = module::take(&options.debugfs)?;
    let Some(Value::Number(pages)) = sample.get("unreachable_pages") else {
        return Err(Error::NoCount);
    };
    if sample
        .get("disk")
        .is_some_and(|disk| show::plain(disk) == "through")
    {
        return Err(Error::Through);
    }
    let (pages, what) = (*pages, format!("{pages} pages ({})", show::size(*pages)));
    if !options.yes {
        if options.json {
            // Whether anybody reads it or not, this is no success.
            let _ = say(&object(false, pages));
        }
        let servers = servers(&sample);
        return Err(Error::NotSure { what, servers });
    }
    control::write(&options.debugfs, "giveup").map_err(|(path, error)| refused(&path, error))?;
    let line = match options.json {
        true => object(true, pages),
        false => format!(
            "given up: {what} are lost, unless a server comes back; programs that need them get \
             SIGBUS"
        ),
    };
    say(&line).map_err(Error::Output)
}

/// The servers that the module stores to and of which no link is up; all of them, if that is none.
fn servers(sample: &module::Sample) -> String {
    let is_up = |link: &str| {
        let mut links = sample.0.iter().filter(|(key, _)| key.starts_with(link));
        links.any(|(key, state)| key.ends_with(".state") && show::plain(state) == "up")
    };
    let address = |key| sample.get(key).map(show::plain);
    let server = address("server").unwrap_or_else(|| "the server".to_owned());
    match address("mirror") {
        None => server,
        Some(mirror) => match (is_up("link."), is_up("mirror_link.")) {
            (true, false) => mirror,
            (false, true) => server,
            _ => format!("{server} and {mirror}"),
        },
    }
}

fn object(given_up: bool, pages: u64) -> String {
    let bytes = pages.saturating_mul(u64::try_from(PAGE_SIZE).unwrap_or(4096));
    json!({"given_up": given_up, "unreachable_pages": pages, "unreachable_bytes": bytes})
        .to_string()
}

pub(crate) fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// What it means that the word was not taken.
fn refused(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ResourceBusy => Error::Reachable,
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => Error::NoCommand,
        _ => Error::Control {
            path: path.to_owned(),
            error,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_the_module_has_its_words() {
        // EBUSY, EINVAL, EACCES.
        for (errno, words) in [
            (16, "there is nothing to give up"),
            (22, "does not know giveup"),
            (13, "cannot write x: Permission denied"),
        ] {
            let error = refused(Path::new("x"), io::Error::from_raw_os_error(errno));
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.exit_code(), 1);
        }
    }
}
