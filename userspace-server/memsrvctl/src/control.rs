// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The file through which the module is told what to do.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes a command in one piece, into a file that is there already; an error names the file.
pub fn write(debugfs: &Path, command: &str) -> Result<(), (PathBuf, io::Error)> {
    let path = debugfs.join("memsrv/control");
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(command.as_bytes()))
        .map_err(|error| (path, error))
}
