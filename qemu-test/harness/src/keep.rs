// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `bench-keep`: a full run's results, with its tables, pictures and machine, in `Documentation/benchmarks/run`.
//!
//! There is one kept run, the newest of each part: older ones are in git.

use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::Table;
use qemu_test_results::{About, Results};

use crate::tree::{Tree, UNKNOWN};
use crate::{apps, links, micro, race, record};

/// Copies what was measured last; of a part that was not measured, what is kept already stays.
pub fn run(tree: &Tree) -> Result<bool> {
    let measured = Results::read(&record::place(tree))?;
    refuse(&measured)?;
    let directory = tree.source("Documentation/benchmarks/run");
    let copy = directory.join("results.json");
    let results = Results::read(&copy)?.replaced_by(measured);
    // What is left of the last one would be taken for this one's.
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("removing {}", directory.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    results.write(&copy)?;
    record::draw(tree, &copy, &directory)?;
    let pictures = pictures(&directory)?;
    let readme = directory.join("README.md");
    fs::write(&readme, page(&results, &pictures))
        .with_context(|| format!("writing {}", readme.display()))?;
    println!("kept in {}", tree.short(&directory));
    Ok(true)
}

/// An error if there is nothing, or a part is only a first look, or nobody can tell what it measured.
fn refuse(measured: &Results) -> Result<()> {
    let abouts = measured.abouts();
    ensure!(!abouts.is_empty(), "nothing was measured; see `make help`");
    for (part, about) in abouts {
        ensure!(
            !about.quick,
            "the part {part} is a quick run; run it in full"
        );
        ensure!(
            !about.commit.ends_with("-dirty") && about.commit != UNKNOWN,
            "the part {part} was measured with what is in no commit ({}); commit it, and run it again",
            about.commit
        );
    }
    Ok(())
}

/// The names of the pictures there, without an ending.
fn pictures(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        names.extend(file.strip_suffix(".png").map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

/// The run as a page to read.
fn page(results: &Results, pictures: &[String]) -> String {
    let mut page = "<!-- SPDX-License-Identifier: GPL-2.0-only OR MIT -->\n\
        # The last full run of each benchmark\n\n\
        Written by `qemu-test bench-keep`, of [results.json](results.json); [how to read it](../README.md).\n"
        .to_owned();
    let mut add = |text: String| {
        page.push('\n');
        page.push_str(&text);
        page.push('\n');
    };
    add(machines(results).to_string());
    for name in pictures {
        add(format!("![{name}]({name}.png)"));
    }
    if let Some(page) = &results.page {
        add("## page: what a page takes".to_owned());
        add(micro::table(&page.samples).to_string());
        if let Some(words) = micro::spins(&page.samples) {
            add(words);
        }
        if let Some(words) = micro::slow(&page.samples) {
            add(words);
        }
    }
    if let Some(links) = &results.links {
        add("## links: what a page takes over narrow links".to_owned());
        add(links::table(&links.samples).to_string());
    }
    if let Some(apps) = &results.apps {
        add("## apps: how many times as long programs take".to_owned());
        add(apps::table(&apps.samples).to_string());
        add(apps::spent(&apps.samples).to_string());
    }
    if let Some(server) = &results.server {
        add("## server: memsrvd natively".to_owned());
        for table in race::tables(&server.samples) {
            add(table.to_string());
        }
    }
    page
}

/// How each part came about.
fn machines(results: &Results) -> Table {
    let abouts = results.abouts();
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    let names = abouts.iter().map(|(name, _)| (*name).to_owned());
    table.set_header(std::iter::once("part".to_owned()).chain(names));
    let mut row = |words: &str, value: &dyn Fn(&About) -> String| {
        let values = abouts.iter().map(|(_, about)| value(about));
        table.add_row(std::iter::once(words.to_owned()).chain(values));
    };
    let load = |load: [f64; 3]| load.map(|load| load.to_string()).join(" ");
    row("commit", &|about| about.commit.clone());
    row("begun", &|about| about.date.clone());
    row("processor", &|about| about.machine.cpu.clone());
    row("processors", &|about| about.machine.cpus.to_string());
    row("RAM, MiB", &|about| about.machine.ram_mib.to_string());
    row("kernel", &|about| about.machine.kernel.clone());
    row("QEMU", &|about| about.machine.qemu.clone());
    row("guests' kernel", &|about| {
        about.machine.guest_kernel.clone()
    });
    row("load before, of 1, 5, 15 min", &|about| {
        load(about.load_before)
    });
    row("load after", &|about| load(about.load_after));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_up() -> Results {
        let place = concat!(env!("CARGO_MANIFEST_DIR"), "/../results/made-up.json");
        Results::read(Path::new(place)).unwrap()
    }

    #[test]
    fn neither_a_quick_run_nor_one_of_no_commit_nor_none_is_kept() {
        assert!(refuse(&made_up()).is_ok());
        let mut quick = made_up();
        quick.apps.as_mut().unwrap().about.quick = true;
        let mut dirty = made_up();
        dirty.server.as_mut().unwrap().about.commit += "-dirty";
        let mut unknown = made_up();
        unknown.page.as_mut().unwrap().about.commit = UNKNOWN.to_owned();
        let because = [
            (quick, "the part apps is a quick run"),
            (
                dirty,
                "the part server was measured with what is in no commit",
            ),
            (
                unknown,
                "the part page was measured with what is in no commit",
            ),
            (Results::default(), "nothing was measured"),
        ];
        for (refused, why) in because {
            let error = refuse(&refused).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_kept_run_tells_its_machine_tables_and_pictures() {
        let page = page(&made_up(), &["latency".to_owned()]);
        for words in [
            "A Processor",
            "0123456",
            "0 0.1 0.2",
            "![latency](latency.png)",
            // Of 100, 110, ... 290 us.
            "| fault_ns      | memsrv    | 200.0",
            "## apps",
            "| loads, 1 x depth 32  | nbdkit ",
        ] {
            assert!(page.contains(words), "{words}: {page}");
        }
    }
}
