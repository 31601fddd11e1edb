//! Latency against throughput: what a larger batch gives to all, and takes from each.

use plotters::coord::combinators::LogCoord;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::chart::{self, Area, Chart, Drawn};
use super::section::Section;
use super::section::distinct;
use crate::record::names;

/// One context.
struct Panel {
    title: String,
    /// Of each engine, by its place: batch, tokens a second of each sequence, of all together.
    lines: Vec<(usize, Vec<Point>)>,
}

#[derive(Clone, Copy)]
struct Point {
    batch: usize,
    each: f64,
    all: f64,
}

const HEIGHT: u32 = 340;

/// `None` if nothing was decoded at two batch sizes.
pub(super) fn chart(section: &Section) -> Option<Chart> {
    let engines = section.engines();
    let decode = section.records.iter().filter(|record| record.workload == "decode");
    let mut contexts = distinct(decode.filter_map(|record| record.case.context));
    contexts.sort_unstable();
    let panels: Vec<Panel> =
        contexts.into_iter().filter_map(|context| panel(section, &engines, context)).collect();
    let title = format!("Decode, latency against throughput, {}", section.title());
    chart::panels(format!("{}-throughput.svg", section.name), title, &engines, &panels, HEIGHT, draw)
}

fn panel(section: &Section, engines: &[&str], context: usize) -> Option<Panel> {
    let line = |(at, engine): (usize, &&str)| {
        let records = section.records.iter().filter(|record| {
            record.workload == "decode"
                && record.engine.name == *engine
                && record.case.context == Some(context)
        });
        let mut points: Vec<Point> = records
            .filter_map(|record| {
                let (batch, seconds) = (record.case.batch?, record.median(names::STEP_SECONDS)?);
                Some(Point { batch, each: 1.0 / seconds, all: batch as f64 / seconds })
            })
            .collect();
        points.sort_by_key(|point| point.batch);
        (at, points)
    };
    let lines: Vec<(usize, Vec<Point>)> =
        engines.iter().enumerate().map(line).filter(|(_, points)| !points.is_empty()).collect();
    let curves = lines.iter().any(|(_, points)| points.len() > 1);
    curves.then(|| Panel { title: format!("context {context}; points are marked with their batch"), lines })
}

/// An axis of doublings around the values, wide enough that at least one tick lies on it.
fn doublings(values: impl Iterator<Item = f64> + Clone) -> LogCoord<f64> {
    let (low, high) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max));
    (low / 1.45..high * 1.45).log_scale().base(2.0).into()
}

fn draw(area: &Area, panel: &Panel) -> Drawn {
    let points = || panel.lines.iter().flat_map(|(_, points)| points);
    let (x, y) = (doublings(points().map(|point| point.each)), doublings(points().map(|point| point.all)));
    let mut builder = ChartBuilder::on(area);
    builder.margin_left(8).margin_right(20).margin_top(26).margin_bottom(8);
    builder.x_label_area_size(44).y_label_area_size(66);
    let mut plot = builder.build_cartesian_2d(x, y)?;
    plot.configure_mesh()
        .x_desc("tokens a second of each sequence")
        .y_desc("tokens a second of all")
        .x_label_formatter(&|rate| number(*rate))
        .y_label_formatter(&|rate| number(*rate))
        .label_style(chart::font(14, chart::LABEL))
        .axis_desc_style(chart::font(14, chart::LABEL))
        .axis_style(chart::LINE)
        .bold_line_style(chart::LINE)
        .light_line_style(chart::LINE)
        .max_light_lines(0)
        .draw()?;
    area.draw_text(&panel.title, &chart::font(16, chart::TEXT), (14, 4))?;
    let mut labels: Vec<(i32, i32)> = Vec::new();
    for (engine, points) in &panel.lines {
        let colour = chart::colour(*engine);
        plot.draw_series(LineSeries::new(points.iter().map(|p| (p.each, p.all)), colour.stroke_width(2)))?;
        for point in points {
            let place = (point.each, point.all);
            plot.draw_series([Circle::new(place, 4, colour.filled())])?;
            let (x, y) = chart::pixel(area, plot.backend_coord(&place));
            // Where engines come close to each other, ours is labelled.
            if labels.iter().all(|(a, b)| (x - a).abs() > 24 || (y - b).abs() > 11) {
                let style = chart::placed(13, chart::LABEL, HPos::Left, VPos::Bottom);
                area.draw_text(&point.batch.to_string(), &style, (x + 5, y - 4))?;
                labels.push((x, y));
            }
        }
    }
    Ok(())
}

/// A tick: to the hundredth, without what says nothing.
fn number(rate: f64) -> String {
    ((100.0 * rate).round() / 100.0).to_string()
}
