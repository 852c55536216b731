// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A panel of lines over steps of something, such as 100, 75, 50, 30%, with the spread of rounds as whiskers.

use anyhow::Result;
use plotters::coord::ranged1d::{AsRangedCoord, SegmentValue, ValueFormatter};
use plotters::element::ErrorBar;
use plotters::prelude::*;

use crate::style::{number, text, Area, Look, DASH, SPACE, TEXT};
use qemu_test_results::figures::Spread;

/// A contender's.
pub struct Line {
    pub look: Look,
    /// By the number of the step, in order.
    pub points: Vec<(usize, Spread)>,
}

/// Lines that are compared with each other.
pub struct Panel<'w> {
    pub title: String,
    pub x: &'w str,
    pub y: &'w str,
    /// Room for the labels of values, in pixels.
    pub room: i32,
    /// What the steps are called.
    pub steps: Vec<String>,
    pub lines: Vec<Line>,
}

/// Draws it, with a linear or logarithmic axis of values.
pub fn draw<Y>(area: &Area, panel: &Panel, values: Y) -> Result<()>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let name = |step: &SegmentValue<usize>| match step {
        SegmentValue::CenterOf(step) => panel.steps.get(*step).cloned().unwrap_or_default(),
        SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
    };
    let steps = (0..panel.steps.len().saturating_sub(1)).into_segmented();
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, text(TEXT + 5))
        .x_label_area_size(TEXT * 5 / 2)
        .y_label_area_size(panel.room)
        .margin_right(TEXT)
        .margin_bottom(TEXT / 2)
        .build_cartesian_2d(steps, values)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc(panel.x)
        .y_desc(panel.y)
        .label_style(text(TEXT))
        .axis_desc_style(text(TEXT))
        .x_labels(panel.steps.len())
        .x_label_formatter(&name)
        .y_label_formatter(&|value| number(*value))
        .y_max_light_lines(1)
        .light_line_style(TRANSPARENT)
        .draw()?;
    // The widest last: it is ours.
    let mut lines: Vec<&Line> = panel.lines.iter().collect();
    lines.sort_by_key(|line| line.look.width);
    for Line { look, points } in lines {
        let style: ShapeStyle = look.color.stroke_width(look.width);
        let middles = points
            .iter()
            .map(|(step, spread)| (SegmentValue::CenterOf(*step), spread.middle));
        if look.dashed {
            chart.draw_series(DashedLineSeries::new(middles, DASH, SPACE, style))?;
        } else {
            chart.draw_series(LineSeries::new(middles, style))?;
        }
        chart.draw_series(points.iter().map(|(step, spread)| {
            let Spread {
                least,
                middle,
                most,
            } = *spread;
            let step = SegmentValue::CenterOf(*step);
            let style = look.color.stroke_width(2).filled();
            ErrorBar::new_vertical(step, least, middle, most, style, 14)
        }))?;
    }
    Ok(())
}
