//! What the charts share: colours for light and dark pages, panels below a legend.
//!
//! Drawn with light colours, each used for one purpose only; a style sheet inside the SVG replaces
//! them where the reader prefers dark. The background is drawn too: a page's own colour may be
//! another than the one its reader prefers.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A chart as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chart {
    /// File name.
    pub name: String,
    /// What it shows, for those who cannot see it.
    pub title: String,
    /// An SVG document.
    pub svg: String,
}

/// Pixels.
pub(super) const WIDTH: u32 = 860;
const LEGEND: u32 = 58;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// A colour on light pages, and its counterpart on dark ones.
type Pair = (RGBColor, RGBColor);

const BACKGROUND: Pair = (RGBColor(0xff, 0xff, 0xff), RGBColor(0x0d, 0x11, 0x17));
const INK: Pair = (RGBColor(0x1f, 0x23, 0x28), RGBColor(0xe6, 0xed, 0xf3));
const MUTED: Pair = (RGBColor(0x59, 0x63, 0x6e), RGBColor(0x91, 0x98, 0xa1));
const GRID: Pair = (RGBColor(0xd8, 0xde, 0xe4), RGBColor(0x30, 0x36, 0x3d));
/// Of engines, ours first.
const ENGINES: [Pair; 8] = [
    (RGBColor(0x0b, 0x5f, 0xb0), RGBColor(0x58, 0xa6, 0xff)),
    (RGBColor(0xc2, 0x57, 0x0c), RGBColor(0xf0, 0x88, 0x3e)),
    (RGBColor(0x1a, 0x7f, 0x5a), RGBColor(0x3f, 0xb9, 0x8a)),
    (RGBColor(0x82, 0x50, 0xa8), RGBColor(0xbc, 0x8c, 0xff)),
    (RGBColor(0xb3, 0x26, 0x6b), RGBColor(0xf7, 0x78, 0xba)),
    (RGBColor(0x7a, 0x6a, 0x00), RGBColor(0xd3, 0xb5, 0x3a)),
    (RGBColor(0x12, 0x7c, 0x94), RGBColor(0x4c, 0xc2, 0xdc)),
    (RGBColor(0x8c, 0x6d, 0x52), RGBColor(0xc8, 0xa8, 0x8c)),
];

pub(super) const TEXT: RGBColor = INK.0;
pub(super) const LABEL: RGBColor = MUTED.0;
pub(super) const LINE: RGBColor = GRID.0;
/// Of text on a bar.
pub(super) const ON_BAR: RGBColor = BACKGROUND.0;

/// The colour of the engine at this place among [`Section::engines`](super::Section::engines).
pub(super) fn colour(engine: usize) -> RGBColor {
    ENGINES[engine % ENGINES.len()].0
}

/// Text of `size` units, a fifth less in pixels.
pub(super) fn font(size: u32, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour)
}

/// Text around its place.
pub(super) fn placed(size: u32, colour: RGBColor, across: HPos, down: VPos) -> TextStyle<'static> {
    font(size, colour).pos(Pos::new(across, down))
}

/// Where a point of the plot lies in the area that holds it.
pub(super) fn pixel(area: &Area, (x, y): (i32, i32)) -> (i32, i32) {
    let (left, top) = area.get_base_pixel();
    (x - left, y - top)
}

/// A chart of panels of `height` pixels each below a title and a legend; `None` if there is none,
/// or drawing failed, which it cannot in memory.
pub(super) fn panels<P>(
    name: String,
    title: String,
    engines: &[&str],
    panels: &[P],
    height: u32,
    draw: impl Fn(&Area, &P) -> Drawn,
) -> Option<Chart> {
    if panels.is_empty() {
        return None;
    }
    let mut svg = String::new();
    {
        let size = (WIDTH, LEGEND + height * panels.len() as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&BACKGROUND.0).ok()?;
        let (top, rest) = root.split_vertically(LEGEND);
        legend(&top, &title, engines).ok()?;
        for (area, panel) in rest.split_evenly((panels.len(), 1)).iter().zip(panels) {
            draw(area, panel).ok()?;
        }
        root.present().ok()?;
    }
    Some(Chart { svg: dressed(&svg, &title), name, title })
}

fn legend(area: &Area, title: &str, engines: &[&str]) -> Drawn {
    area.draw_text(title, &font(16, TEXT), (14, 10))?;
    let mut x = 14;
    for (at, engine) in engines.iter().enumerate() {
        area.draw(&Rectangle::new([(x, 37), (x + 11, 48)], colour(at).filled()))?;
        area.draw_text(engine, &font(15, TEXT), (x + 17, 36))?;
        // As wide as the widest sans-serif sets it.
        x += 17 + 7 * engine.chars().count() as i32 + 20;
    }
    Ok(())
}

/// With the title for those who cannot see it and the colours for dark pages, right behind the
/// opening tag.
fn dressed(svg: &str, title: &str) -> String {
    let Some((tag, rest)) = svg.split_once('>') else { return svg.into() };
    let mut rules = String::new();
    for (light, dark) in [BACKGROUND, INK, MUTED, GRID].iter().chain(&ENGINES) {
        let hexadecimal = |c: &RGBColor| format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2);
        let (light, dark) = (hexadecimal(light), hexadecimal(dark));
        rules += &format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}\n");
    }
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    let style = format!("<style>\n@media (prefers-color-scheme: dark) {{\n{rules}}}\n</style>");
    format!("{tag} role=\"img\">\n<title>{title}</title>\n{style}{rest}")
}
