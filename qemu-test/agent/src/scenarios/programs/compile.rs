// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Debian's gcc compiles a large file under a tight limit; the object is compared with one made
//! without a limit.

use std::fs::File;
use std::io::{BufWriter, Write};

use anyhow::{Context, Result};

use super::{differing, Ran};
use crate::guest::{program, Cgroup};
use crate::pattern::mix;
use crate::ROOT;

/// Functions in the file; each costs the compiler some kilobytes.
const FUNCTIONS: u64 = 20;
const STATEMENTS: u64 = 12;
/// Numbers in the table, of which the compiler keeps some hundred bytes each.
const ENTRIES: u64 = 60_000;
const GCC: &str = "/usr/bin/gcc";

/// The file, and its object.
pub fn prepare() -> Result<()> {
    let path = format!("{ROOT}/srv/large.c");
    let mut file = BufWriter::new(File::create(&path).with_context(|| format!("making {path}"))?);
    for function in 0..FUNCTIONS {
        writeln!(file, "unsigned f{function}(unsigned a, unsigned *b)\n{{")?;
        for statement in 0..STATEMENTS {
            let number = mix(function * STATEMENTS + statement);
            let (first, second) = (number & 0xffff, (number >> 16) & 0xfff);
            writeln!(
                file,
                "\ta = (a ^ {first}u) * {second}u + b[{statement}];\n\tb[a & 15] += a;"
            )?;
        }
        writeln!(file, "\treturn a;\n}}")?;
    }
    // Numbers that the compiler holds all at once, until its end.
    writeln!(file, "const unsigned table[] = {{")?;
    for entry in 0..ENTRIES {
        write!(
            file,
            "{}u,{}",
            mix(entry) & 0xffff_ffff,
            if entry % 8 == 7 { '\n' } else { ' ' }
        )?;
    }
    writeln!(file, "}};")?;
    file.flush().context("writing the file to compile")?;
    program::run(None, &[GCC, "-c", "/srv/large.c", "-o", "/srv/expected.o"]).map(drop)
}

/// Compiles; compares.
pub fn run(cgroup: &Cgroup) -> Result<Ran> {
    let ran = program::run(
        Some(cgroup),
        &[GCC, "-c", "/srv/large.c", "-o", "/srv/limited.o"],
    )?;
    let read = |name: &str| {
        std::fs::read(format!("{ROOT}/srv/{name}.o")).context("reading an object to compare")
    };
    let wrong = differing(&read("expected")?, &read("limited")?);
    Ok(Ran::after(ran.seconds, wrong))
}
