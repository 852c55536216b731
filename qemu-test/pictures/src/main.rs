// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What was measured, as pictures: SVG, and the same as PNG.
//!
//! They are made of `results.json` alone, so that a kept run can be drawn again. A part that was never run has no
//! picture. It is a program of its own because what it draws with takes a minute to build, for which nobody shall wait
//! who wants the demo.

mod bars;
mod latency;
mod lines;
mod server;
mod slowdown;
mod style;
mod throughput;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{ensure, Context, Result};
use clap::Parser;
use qemu_test_results::Results;
use resvg::{tiny_skia, usvg};

/// A picture's name, without an ending, and its SVG.
type Picture = (&'static str, String);

/// Draws what benchmarks measured; `qemu-test pictures` runs this.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// What was measured: a results.json.
    results: PathBuf,
    /// Where the pictures go.
    directory: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qemu-test-pictures: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { results, directory }: &Arguments) -> Result<()> {
    let place = results.display();
    ensure!(
        results.exists(),
        "{place} is missing; `make bench` measures"
    );
    let pictures = write(&Results::read(results)?, directory)?;
    if pictures.is_empty() {
        println!("no picture shows what is in {place}");
    }
    for picture in pictures {
        println!("{}", picture.display());
    }
    Ok(())
}

/// Draws all there is to draw; the files' names.
pub fn write(results: &Results, directory: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let mut written = Vec::new();
    for (name, svg) in draw(results)? {
        let png = png(&svg).with_context(|| format!("making a PNG of {name}"))?;
        for (ending, bytes) in [("svg", svg.as_bytes()), ("png", &png)] {
            let place = directory.join(format!("{name}.{ending}"));
            fs::write(&place, bytes).with_context(|| format!("writing {}", place.display()))?;
            written.push(place);
        }
    }
    Ok(written)
}

fn draw(results: &Results) -> Result<Vec<Picture>> {
    style::register_font()?;
    let mut pictures = Vec::new();
    if let Some(page) = &results.page {
        pictures.push(("latency", latency::draw(page)?));
        pictures.push(("throughput", throughput::draw(page)?));
    }
    if let Some(apps) = &results.apps {
        pictures.push(("slowdown", slowdown::draw(apps)?));
    }
    if let Some(server) = &results.server {
        pictures.push(("server", server::draw(server)?));
    }
    // What was measured may be none of what a picture shows.
    let some = |(name, svg): (&'static str, Option<String>)| Some((name, svg?));
    Ok(pictures.into_iter().filter_map(some).collect())
}

/// The same picture in pixels. (Of the ways to a PNG this one needs nothing installed, and what is drawn is drawn once;
/// plotters' own bitmaps would be drawn anew, with jagged lines, and rsvg-convert wants fonts and half of GNOME.)
fn png(svg: &str) -> Result<Vec<u8>> {
    let mut options = usvg::Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_font_data(ttf_noto_sans::REGULAR.to_vec());
    fonts.set_sans_serif_family(style::FONT_NAME);
    let tree = usvg::Tree::from_str(svg, &options)?;
    let size = tree.size().to_int_size();
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height()).context("no pixels")?;
    let as_it_is = tiny_skia::Transform::default();
    resvg::render(&tree, as_it_is, &mut pixels.as_mut());
    Ok(pixels.encode_png()?)
}

#[cfg(test)]
mod tests;
