// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How all pictures look: size, font, colours, title, legend, ticks.

use std::ops::Range;

use anyhow::{anyhow, ensure, Context, Result};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::FontStyle;

use qemu_test_results::About;

/// Of a picture, in pixels; a page shows it at about half of that.
pub const SIZE: (u32, u32) = (1600, 1000);

/// What SVG calls the font, so that each viewer takes its own.
const FONT: &str = "sans-serif";
/// Ours, for PNG, and to know how wide a text is.
pub const FONT_NAME: &str = "Noto Sans";
const TITLE: i32 = 42;
/// Height of a label on an axis, of a legend, of a number beside a bar.
pub const TEXT: i32 = 27;
const SMALL: i32 = 21;
/// From a picture's edge.
const EDGE: i32 = 24;

const SPDX: &str = "<!-- SPDX-License-Identifier: GPL-2.0-only OR MIT -->\n";

// Okabe and Ito, "Color Universal Design", 2008: told apart by the colour-blind, too. Their yellow is left out: it
// cannot be seen on white.
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const PURPLE: RGBColor = RGBColor(204, 121, 167);
const SKY: RGBColor = RGBColor(86, 180, 233);
const GREY: RGBColor = RGBColor(120, 120, 120);

/// A part of a picture, measured in pixels.
pub type Area<'s> = DrawingArea<SVGBackend<'s>, Shift>;

/// Of a contender, in all pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    pub color: RGBColor,
    /// Dashed lines are for variants of another one, and for bounds.
    pub dashed: bool,
    /// Of a line.
    pub width: u32,
}

/// Those whom we know; the related have related colours.
const LOOKS: [(&str, RGBColor, bool); 16] = [
    ("memsrv", BLUE, false),
    ("memsrv spin_us=0", BLUE, true),
    ("memsrvd", BLUE, false),
    ("ping-pong", BLACK, true),
    ("echo", BLACK, true),
    ("nbd", ORANGE, false),
    ("nbdkit", ORANGE, false),
    ("nbd per CPU", ORANGE, true),
    ("nbd -t1", VERMILION, false),
    ("nbdkit -t1", VERMILION, false),
    ("nbd-server", PURPLE, false),
    ("redis", PURPLE, false),
    ("nvme-tcp", PURPLE, true),
    ("zram", GREEN, false),
    ("brd", SKY, false),
    ("disk", GREY, false),
];

/// For others, in turn.
const SPARE: [(RGBColor, bool); 4] = [(GREEN, true), (SKY, true), (VERMILION, true), (GREY, true)];

/// How each of these looks.
pub fn looks<'w>(whos: &[&'w str]) -> Vec<(&'w str, Look)> {
    let mut spare = SPARE.iter().cycle();
    let look = |who: &&'w str| {
        let known = LOOKS.iter().find(|(name, ..)| name == who);
        let (color, dashed) = match known {
            Some((_, color, dashed)) => (*color, *dashed),
            None => spare.next().copied().unwrap_or((GREY, true)),
        };
        let width = if color == BLUE { 6 } else { 4 };
        let look = Look {
            color,
            dashed,
            width,
        };
        (*who, look)
    };
    whos.iter().map(look).collect()
}

/// Makes the font known to plotters.
pub fn register_font() -> Result<()> {
    plotters::style::register_font(FONT, FontStyle::Normal, ttf_noto_sans::REGULAR)
        .map_err(|_| anyhow!("the font is damaged"))
}

/// A text's style.
pub fn text(size: i32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&BLACK)
}

/// The style of a text that stands at a point: left, in the middle or right of it, and half above it.
pub fn anchored(size: i32, side: HPos) -> TextStyle<'static> {
    text(size).pos(Pos::new(side, VPos::Center))
}

/// A whole picture: its title, below it how it came about, and what `fill` draws in the rest.
pub fn picture(
    title: &str,
    about: &About,
    fill: impl FnOnce(&Area) -> Result<()>,
) -> Result<String> {
    let mut svg = SPDX.to_owned();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let middle = i32::try_from(SIZE.0 / 2)?;
        let centered = |size| anchored(size, HPos::Center);
        root.draw_text(title, &centered(TITLE), (middle, EDGE + TITLE / 2))?;
        let below = EDGE + TITLE + SMALL;
        let grey = centered(SMALL).color(&GREY);
        root.draw_text(&about.line(), &grey, (middle, below))?;
        fill(&root.margin(below + SMALL, EDGE, EDGE, EDGE))?;
        root.present()?;
    }
    Ok(svg)
}

/// Draws a legend in rows at the top; what is left below it.
pub fn legend<'s>(area: &Area<'s>, entries: &[(String, Look)]) -> Result<Area<'s>> {
    const SAMPLE: i32 = 60;
    const GAP: i32 = 14;
    let style = anchored(TEXT, HPos::Left);
    let mut widest = 0;
    for (words, _) in entries {
        let (width, _) = area.estimate_text_size(words, &style)?;
        widest = widest.max(i32::try_from(width)?);
    }
    // plotters takes a font's size for its height to reckon with, and for more when it draws.
    widest += widest / 8;
    let cell = (SAMPLE + 4 * GAP + widest).max(1);
    let (width, _) = area.dim_in_pixel();
    let width = i32::try_from(width)?;
    let count = i32::try_from(entries.len())?;
    let columns = (width / cell).clamp(1, count.max(1));
    let left = (width - columns * cell).max(0) / 2;
    let line = TEXT + GAP;
    for (place, (words, look)) in (0..).zip(entries) {
        let (x, y) = (left + place % columns * cell, place / columns * line + line);
        sample(area, (x, y), x + SAMPLE, *look)?;
        area.draw_text(words, &style, (x + SAMPLE + GAP, y))?;
    }
    let rows = (count + columns - 1) / columns;
    let (_, rest) = area.split_vertically(rows * line + line);
    Ok(rest)
}

/// A piece of a line.
fn sample(area: &Area, from: (i32, i32), to: i32, look: Look) -> Result<()> {
    let style = look.color.stroke_width(look.width);
    let points = [from, (to, from.1)];
    if look.dashed {
        let dashes = DashedPathElement::new(points, DASH, SPACE, style);
        area.draw(&dashes)?;
    } else {
        area.draw(&PathElement::new(points, style))?;
    }
    Ok(())
}

/// Pixels of a dash, and between two.
pub const DASH: i32 = 14;
pub const SPACE: i32 = 9;

/// A range for a logarithmic axis with room for these values, and each 1, 2 and 5 of a power of ten in it.
pub fn log_ticks(values: impl Iterator<Item = f64>) -> Result<(Range<f64>, Vec<f64>)> {
    let values: Vec<f64> = values.filter(|value| *value > 0.0).collect();
    let least = values.iter().copied().reduce(f64::min);
    let most = values.iter().copied().reduce(f64::max);
    let (least, most) = least.zip(most).context("nothing to draw")?;
    let steps = (-9..15).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)));
    let ticks_of = |range: &Range<f64>| -> Vec<f64> {
        let within = |tick: &f64| range.contains(tick);
        steps.clone().filter(within).collect()
    };
    let mut range = least / 1.1..most * 1.1;
    // An axis with one number, or none, says nothing.
    while ticks_of(&range).len() < 2 {
        ensure!(range.start > 1e-9, "values that are out of all bounds");
        range = range.start / 1.5..range.end * 1.5;
    }
    let ticks = ticks_of(&range);
    Ok((range, ticks))
}

/// With a blank between thousands, and no more digits than say something.
pub fn number(value: f64) -> String {
    if value > 0.0 && value < 10.0 && value.fract() > 0.0 {
        let short = format!("{value:.2}");
        return short.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_at_least_two_numbers() {
        let ticks = |values: [f64; 2]| log_ticks(values.into_iter()).unwrap().1;
        assert_eq!(ticks([0.97, 11.0]), [1.0, 2.0, 5.0, 10.0]);
        assert!(ticks([3.0, 3.0]).len() >= 2);
        assert!(log_ticks(std::iter::empty()).is_err());
        assert!(log_ticks([1e-300].into_iter()).is_err());
    }

    #[test]
    fn numbers_are_short_and_grouped() {
        for (value, words) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (1.25, "1.25"),
            (10.4, "10"),
            (1234.0, "1 234"),
            (1_234_567.0, "1 234 567"),
        ] {
            assert_eq!(number(value), words);
        }
    }

    #[test]
    fn contenders_that_nobody_knows_look_different() {
        let whos = ["memsrv", "one", "two", "nbd"];
        let looks = looks(&whos);
        for (place, (who, look)) in looks.iter().enumerate() {
            let same = |(_, other): &&(&str, Look)| other == look;
            assert_eq!(looks.iter().filter(same).count(), 1, "{place} {who}");
        }
    }
}
