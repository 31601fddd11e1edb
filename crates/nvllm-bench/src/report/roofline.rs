//! Bars against the roofline: which share of what the hardware allows each engine reached.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::chart::{self, Area, Chart, Drawn};
use super::section::Section;
use super::section::distinct;
use crate::record::Record;

/// One workload at one context.
struct Panel {
    title: String,
    /// What the groups of bars differ in.
    axis: &'static str,
    /// By batch or prompt length, ascending; in each the engine's place and its share.
    groups: Vec<(usize, Vec<(usize, f64)>)>,
}

const HEIGHT: u32 = 210;
/// Pixels of a bar at most, and at least for its figure to stand in it.
const MOST_WIDTH: f64 = 80.0;
const FIGURE_WIDTH: f64 = 34.0;

/// `None` if no record says how far from the limit it was.
pub(super) fn chart(section: &Section) -> Option<Chart> {
    let engines = section.engines();
    let keys = distinct(section.records.iter().filter(|r| bar(r).is_some()).map(key));
    let panels: Vec<Panel> = keys.into_iter().map(|key| panel(section, &engines, key)).collect();
    let title = format!("Share of the roofline, {}", section.title());
    chart::panels(format!("{}-roofline.svg", section.name), title, &engines, &panels, HEIGHT, draw)
}

/// What the records of a panel share: workload, context, and prompts at once if there are several.
fn key(record: &Record) -> (&str, Option<usize>, Option<usize>) {
    let prompts = record.case.batch.filter(|batch| *batch > 1 && record.case.prompt_len.is_some());
    (&record.workload, record.case.context, prompts)
}

/// The group of a record, and its share; none for a part of a step, whose values may never leave a
/// cache.
fn bar(record: &Record) -> Option<(&'static str, usize, f64)> {
    if record.case.op.is_some() {
        return None;
    }
    let prompt = record.case.prompt_len.map(|len| ("prompt tokens", len));
    let (axis, size) = prompt.or(record.case.batch.map(|batch| ("batch", batch)))?;
    Some((axis, size, record.share()?))
}

fn panel(section: &Section, engines: &[&str], of: (&str, Option<usize>, Option<usize>)) -> Panel {
    let records = || section.records.iter().filter(|record| key(record) == of);
    let bars: Vec<_> = records()
        .filter_map(|record| {
            let engine = engines.iter().position(|name| *name == record.engine.name)?;
            Some((bar(record)?, engine))
        })
        .collect();
    let mut sizes = distinct(bars.iter().map(|((_, size, _), _)| *size));
    sizes.sort_unstable();
    let group = |wanted: usize| {
        let of_size = bars.iter().filter(|((_, size, _), _)| *size == wanted);
        let mut group: Vec<(usize, f64)> = of_size.map(|((_, _, share), engine)| (*engine, *share)).collect();
        group.sort_by_key(|(engine, _)| *engine);
        (wanted, group)
    };
    let context = of.1.map(|context| format!(", context {context}")).unwrap_or_default();
    let prompts = of.2.map(|prompts| format!(", {prompts} prompts at once")).unwrap_or_default();
    Panel {
        title: format!("{}{context}{prompts}", of.0),
        axis: bars.first().map_or("", |((axis, ..), _)| axis),
        groups: sizes.into_iter().map(group).collect(),
    }
}

fn draw(area: &Area, panel: &Panel) -> Drawn {
    let shares = panel.groups.iter().flat_map(|(_, bars)| bars).map(|(_, share)| *share);
    // A rate measured beside the steps may be a little below the one during them.
    let top = shares.fold(1.0_f64, f64::max) * 1.06;
    let num = panel.groups.len() as f64;
    let mut builder = ChartBuilder::on(area);
    builder.margin_left(8).margin_right(14).margin_top(26).margin_bottom(12);
    builder.x_label_area_size(34).y_label_area_size(46);
    let mut plot = builder.build_cartesian_2d(0.0..num, 0.0..top)?;
    plot.configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_labels(5)
        .y_label_formatter(&|share| format!("{:.0} %", 100.0 * share))
        .label_style(chart::font(14, chart::LABEL))
        .axis_style(chart::LINE)
        .bold_line_style(chart::LINE)
        .light_line_style(chart::LINE)
        .y_max_light_lines(0)
        .draw()?;
    area.draw_text(&panel.title, &chart::font(16, chart::TEXT), (14, 4))?;
    let most = panel.groups.iter().map(|(_, bars)| bars.len()).max().unwrap_or(1);
    let group = f64::from(chart::WIDTH) / num;
    let width = (0.8 / most as f64).min(MOST_WIDTH / group);
    let mut figures = Vec::new();
    for (at, (size, bars)) in panel.groups.iter().enumerate() {
        let middle = at as f64 + 0.5;
        for (place, (engine, share)) in bars.iter().enumerate() {
            let left = middle + (place as f64 - bars.len() as f64 / 2.0) * width;
            let corners = [(left + 0.04 * width, 0.0), (left + 0.96 * width, *share)];
            plot.draw_series([Rectangle::new(corners, chart::colour(*engine).filled())])?;
            figures.push((plot.backend_coord(&(left + 0.5 * width, *share)), *share));
        }
        let below = chart::pixel(area, plot.backend_coord(&(middle, 0.0)));
        let style = chart::placed(14, chart::LABEL, HPos::Center, VPos::Top);
        area.draw_text(&size.to_string(), &style, (below.0, below.1 + 5))?;
    }
    plot.draw_series([PathElement::new([(0.0, 1.0), (num, 1.0)], chart::TEXT.stroke_width(1))])?;
    if group * width >= FIGURE_WIDTH {
        figures.into_iter().try_for_each(|(place, share)| figure(area, chart::pixel(area, place), share))?;
    }
    let (width, height) = area.dim_in_pixel();
    let style = chart::placed(14, chart::LABEL, HPos::Center, VPos::Bottom);
    area.draw_text(panel.axis, &style, (width as i32 / 2, height as i32 - 10))
}

/// The figure of a bar whose upper end lies at `(x, y)`: in it, or above it where it is too low.
fn figure(area: &Area, (x, y): (i32, i32), share: f64) -> Drawn {
    let text = format!("{:.0} %", 100.0 * share);
    let inside = share > 0.15;
    let (colour, y, down) =
        if inside { (chart::ON_BAR, y + 6, VPos::Top) } else { (chart::LABEL, y - 3, VPos::Bottom) };
    area.draw_text(&text, &chart::placed(13, colour, HPos::Center, down), (x, y))
}
