// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A panel of bars that lie, one for each contender, with the spread of its rounds as a whisker.

use anyhow::Result;
use plotters::coord::ranged1d::SegmentValue;
use plotters::element::ErrorBar;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use crate::style::{anchored, number, text, Area, TEXT};
use qemu_test_results::figures::Spread;

/// One.
pub struct Bar {
    pub name: String,
    pub color: RGBAColor,
    pub spread: Spread,
}

/// Bars that are compared with each other.
pub struct Panel {
    pub title: &'static str,
    /// What is to be read from a bar's length, with its unit.
    pub length: &'static str,
    /// From the top.
    pub bars: Vec<Bar>,
}

/// Draws it.
pub fn draw(area: &Area, panel: &Panel) -> Result<()> {
    let most = panel.bars.iter().map(|bar| bar.spread.most);
    // A third more, for the number beside the longest bar.
    let most = most.fold(0.0, f64::max).max(1.0) * 1.33;
    let count = panel.bars.len();
    // The first row is the lowest one.
    let from_below: Vec<&Bar> = panel.bars.iter().rev().collect();
    let name = |row: &SegmentValue<usize>| match row {
        SegmentValue::CenterOf(row) => from_below.get(*row).map(|bar| bar.name.clone()),
        SegmentValue::Exact(_) | SegmentValue::Last => None,
    };
    let rows = (0..count.saturating_sub(1)).into_segmented();
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, text(TEXT + 5))
        .x_label_area_size(TEXT * 5 / 2)
        .y_label_area_size(TEXT * 6)
        .margin_right(TEXT)
        .build_cartesian_2d(0.0..most, rows)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc(panel.length)
        .label_style(text(TEXT))
        .axis_desc_style(text(TEXT))
        .x_labels(5)
        .y_labels(count)
        .x_label_formatter(&|length| number(*length))
        .y_label_formatter(&|row| name(row).unwrap_or_default())
        .x_max_light_lines(1)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (row, bar) in from_below.iter().enumerate() {
        let Spread {
            least,
            middle,
            most,
        } = bar.spread;
        let corners = [
            (0.0, SegmentValue::Exact(row)),
            (middle, SegmentValue::Exact(row + 1)),
        ];
        let mut rectangle = Rectangle::new(corners, bar.color.filled());
        rectangle.set_margin(6, 6, 0, 0);
        chart.draw_series([rectangle])?;
        let center = SegmentValue::CenterOf(row);
        let whisker = BLACK.filled().stroke_width(3);
        let whisker = ErrorBar::new_horizontal(center.clone(), least, middle, most, whisker, 10);
        chart.draw_series([whisker])?;
        let words = EmptyElement::at((most, center))
            + Text::new(number(middle), (16, 0), anchored(TEXT, HPos::Left));
        chart.draw_series([words])?;
    }
    Ok(())
}
