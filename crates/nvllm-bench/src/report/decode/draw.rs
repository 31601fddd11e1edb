//! The chart: both axes logarithmic, so that a rate that grows as the batch does is a straight
//! line.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::curves::{CONTEXT, Curves};
use crate::report::chart::{self, Area, Chart, Drawn};

const HEIGHT: u32 = 440;
/// By how much the axes go beyond the points.
const MARGIN: f64 = 1.3;

pub(super) fn chart(name: String, curves: &Curves) -> Option<Chart> {
    let title = format!("Decode against the roofline, {}", curves.subject);
    let labels: Vec<&str> = curves.lines.iter().map(|line| line.label.as_str()).collect();
    chart::panels(name, title, &labels, &[curves], HEIGHT, |area, curves| draw(area, curves))
}

/// The range of `values`, widened.
fn range(values: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
    values.clone().fold(f64::INFINITY, f64::min) / MARGIN..values.fold(0.0, f64::max) * MARGIN
}

fn draw(area: &Area, curves: &Curves) -> Drawn {
    let of_lines = curves.lines.iter().flat_map(|line| &line.points);
    let points = || of_lines.clone().chain(&curves.roofline);
    let x = range(points().map(|(batch, _)| *batch as f64)).log_scale().base(2.0);
    let y = range(points().map(|(_, rate)| *rate));
    let ticks = ticks(&y);
    let y = y.log_scale().with_key_points(ticks);
    let mut builder = ChartBuilder::on(area);
    builder.margin_left(8).margin_right(20).margin_top(26).margin_bottom(8);
    builder.x_label_area_size(44).y_label_area_size(78);
    let mut plot = builder.build_cartesian_2d(x, y)?;
    plot.configure_mesh()
        .x_labels(16)
        .x_desc("sequences in a step")
        .y_desc("tokens a second")
        .x_label_formatter(&|batch| format!("{batch:.0}"))
        .y_label_formatter(&|rate| rate.to_string())
        .label_style(chart::font(14, chart::LABEL))
        .axis_desc_style(chart::font(14, chart::LABEL))
        .axis_style(chart::LINE)
        .bold_line_style(chart::LINE)
        .light_line_style(chart::LINE)
        .max_light_lines(0)
        .draw()?;
    area.draw_text(&format!("context {CONTEXT}"), &chart::font(16, chart::TEXT), (14, 4))?;
    let place = |(batch, rate): &(usize, f64)| (*batch as f64, *rate);
    let roofline = curves.roofline.iter().map(place);
    plot.draw_series(LineSeries::new(roofline, chart::TEXT.stroke_width(1)))?;
    if let Some(point) = curves.roofline.get(curves.roofline.len() / 2) {
        let (x, y) = chart::pixel(area, plot.backend_coord(&place(point)));
        let style = chart::placed(14, chart::TEXT, HPos::Right, VPos::Bottom);
        area.draw_text("roofline", &style, (x - 8, y - 4))?;
    }
    for (at, line) in curves.lines.iter().enumerate() {
        let colour = chart::colour(at);
        plot.draw_series(LineSeries::new(line.points.iter().map(place), colour.stroke_width(2)))?;
        plot.draw_series(line.points.iter().map(|point| Circle::new(place(point), 4, colour.filled())))?;
    }
    Ok(())
}

/// 1, 2 and 5 of each decade in the range: as many as find room, evenly enough.
fn ticks(range: &std::ops::Range<f64>) -> Vec<f64> {
    let decades = range.start.log10().floor() as i32..=range.end.log10().floor() as i32;
    let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10.0_f64.powi(decade)));
    all.filter(|tick| range.contains(tick)).collect()
}
