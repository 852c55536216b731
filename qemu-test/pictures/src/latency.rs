// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How long single faults take: for each contender, how many of a hundred are done within a time.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::ShapeStyle;
use qemu_test_results::Samples;

use crate::style::{
    legend, log_ticks, looks, number, picture, text, Area, Look, DASH, SPACE, TEXT,
};
use qemu_test_results::figures::{float, once, quantile};
use qemu_test_results::Part;

/// What is drawn.
const WHAT: &str = "fault_ns";
/// What is the least that a request and its answer take.
const FLOOR: &str = "ping-pong";
/// Points of a curve: more cannot be seen.
const POINTS: usize = 500;

/// A contender's.
struct Curve {
    words: String,
    look: Look,
    /// Microseconds, and how many of a hundred take no longer.
    points: Vec<(f64, f64)>,
}

/// The picture, if there are faults.
pub fn draw(part: &Part<Vec<Samples>>) -> Result<Option<String>> {
    let faults = part.samples.iter().filter(|samples| samples.what == WHAT);
    let whos = once(faults.map(|samples| samples.who.as_str()));
    if whos.is_empty() {
        return Ok(None);
    }
    let curves: Vec<Curve> = looks(&whos)
        .into_iter()
        .map(|(who, look)| curve(&part.samples, who, look))
        .collect();
    let title = "How long a fault of a single page takes: further left is better";
    picture(title, &part.about, |area| fill(area, &curves)).map(Some)
}

fn curve(samples: &[Samples], who: &str, look: Look) -> Curve {
    let mut ns: Vec<u64> = samples
        .iter()
        .filter(|samples| samples.what == WHAT && samples.who == who)
        .flat_map(|samples| samples.values.iter().copied())
        .collect();
    let [half, tail] = [500, 990].map(|part| number(quantile(&mut ns, part) / 1000.0));
    let floor = if who == FLOOR { " (the floor)" } else { "" };
    let words = format!("{who}{floor}: p50 {half} µs, p99 {tail} µs");
    // `quantile` has sorted them. Of a thousand the slowest one is left out: it would press the others together.
    let shown = ns.len() - ns.len() / 1000;
    let every = (shown / POINTS).max(1);
    let all = float(u64::try_from(ns.len()).unwrap_or(u64::MAX));
    let points = (1..=shown)
        .zip(&ns)
        .filter(|(place, _)| (place - 1) % every == 0);
    let points = points.map(|(place, ns)| {
        let place = float(u64::try_from(place).unwrap_or(u64::MAX));
        (float(*ns) / 1000.0, place / all * 100.0)
    });
    Curve {
        words,
        look,
        points: points.collect(),
    }
}

fn fill(area: &Area, curves: &[Curve]) -> Result<()> {
    let entries: Vec<(String, Look)> = curves
        .iter()
        .map(|curve| (curve.words.clone(), curve.look))
        .collect();
    let area = legend(area, &entries)?;
    let times = curves
        .iter()
        .flat_map(|curve| &curve.points)
        .map(|(us, _)| *us);
    let (range, ticks) = log_ticks(times)?;
    let mut chart = ChartBuilder::on(&area)
        .x_label_area_size(TEXT * 5 / 2)
        .y_label_area_size(TEXT * 4)
        .margin_right(TEXT * 2)
        .build_cartesian_2d(range.log_scale().with_key_points(ticks), 0.0..100.0)?;
    chart
        .configure_mesh()
        .x_desc("time of a fault, µs (logarithmic)")
        .y_desc("faults that take no longer, %")
        .label_style(text(TEXT))
        .axis_desc_style(text(TEXT))
        .x_labels(30)
        .x_label_formatter(&|us| number(*us))
        .y_label_formatter(&|percent| number(*percent))
        .max_light_lines(1)
        .light_line_style(TRANSPARENT)
        .draw()?;
    // The widest last: it is ours.
    let mut curves: Vec<&Curve> = curves.iter().collect();
    curves.sort_by_key(|curve| curve.look.width);
    for curve in curves {
        let style: ShapeStyle = curve.look.color.stroke_width(curve.look.width);
        let points = curve.points.iter().copied();
        if curve.look.dashed {
            chart.draw_series(DashedLineSeries::new(points, DASH, SPACE, style))?;
        } else {
            chart.draw_series(LineSeries::new(points, style))?;
        }
    }
    Ok(())
}
