//! SVG with the layout of [`super::layout`]: light and dark, readable without the pipeline file beside it.

use super::layout::{Layout, Route, Sized, place};
use super::{Kind, Node, Picture};
use crate::report::font::{BOLD, FAMILY, REGULAR};
use std::collections::BTreeMap;
use std::fmt::Write;

const MARGIN: f64 = 28.0;
const NAME: f32 = 14.0;
const SMALL: f32 = 11.5;
const LABEL: f32 = 10.5;
const LINE: f64 = 17.0;
const PADDING: f64 = 16.0;
/// Names longer than this are cut; the whole name stays as the box's tooltip.
const WIDEST: f32 = 300.0;
/// Offset of each sheet of a stack.
const SHEET: f64 = 4.0;
const GAP: f64 = 44.0;
/// What a label adds to the gap beside it.
const LABEL_ROOM: f64 = 18.0;
const ARROW: f64 = 8.0;
const TITLE: f32 = 18.0;

/// A place on a box's edge where links meet: an output or a port.
struct Slot {
    label: Option<String>,
    width: f64,
    /// Links that meet here.
    links: Vec<usize>,
}

/// A box with what is written in it and the slots on its edges.
struct Shape<'a> {
    node: &'a Node,
    lines: Vec<(String, Line)>,
    size: Sized,
    outputs: Vec<Slot>,
    ports: Vec<Slot>,
}

#[derive(Clone, Copy, PartialEq)]
enum Line {
    Name,
    Op,
    Sweep,
    Note,
}

/// Where a drawing will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On its own.
    File,
    /// Inside a page, which gives it its heading and ground.
    Page,
}

pub(super) fn write(picture: &Picture, place_in: Place) -> String {
    let mut shapes: Vec<Shape> = picture.boxes.iter().enumerate().map(|(i, b)| shape(picture, i, b)).collect();
    let routes: Vec<Route> = picture.links.iter().map(|l| Route { from: l.from, to: l.to }).collect();
    let sizes: Vec<Sized> = shapes.iter().map(|s| Sized { width: s.size.width, height: s.size.height }).collect();
    let labelled = |slots: &[Slot]| slots.iter().any(|s| s.label.is_some());
    let layout = place(&sizes, &routes, |above, below| {
        let out = above.iter().any(|&b| labelled(&shapes[b].outputs));
        let into = below.iter().any(|&b| labelled(&shapes[b].ports));
        GAP + LABEL_ROOM * (f64::from(u8::from(out)) + f64::from(u8::from(into)))
    });
    order_slots(&mut shapes, picture, &layout);
    document(picture, &shapes, &layout, place_in)
}

fn shape<'a>(picture: &Picture, index: usize, node: &'a Node) -> Shape<'a> {
    let mut lines =
        vec![(BOLD.fit(&node.name, NAME, WIDEST), Line::Name), (REGULAR.fit(&node.op, SMALL, WIDEST), Line::Op)];
    if !node.sweep.is_empty() {
        lines.push((REGULAR.fit(&node.sweep, SMALL, WIDEST), Line::Sweep));
    }
    if !node.note.is_empty() {
        lines.push((REGULAR.fit(&node.note, SMALL, WIDEST), Line::Note));
    }
    let outputs = slots(picture, |l| (l.from == index).then(|| l.output.map(str::to_string)));
    let ports = slots(picture, |l| (l.to == index).then(|| l.head()));
    let text = lines.iter().map(|(text, line)| f64::from(line.width(text))).fold(0.0, f64::max);
    let edge = |slots: &[Slot]| slots.iter().map(|s| s.width).sum::<f64>();
    let width = (text + 2.0 * PADDING).max(edge(&outputs) + 16.0).max(edge(&ports) + 16.0).max(96.0).ceil();
    let height = LINE * lines.len() as f64 + 16.0;
    Shape { node, lines, size: Sized { width, height }, outputs, ports }
}

impl Line {
    fn width(self, text: &str) -> f32 {
        match self {
            Self::Name => BOLD.width(text, NAME),
            _ => REGULAR.width(text, SMALL),
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Op => "op",
            Self::Sweep => "sweep",
            Self::Note => "note",
        }
    }
}

/// Links with the same label meet at one slot.
fn slots(picture: &Picture, label: impl Fn(&super::Link) -> Option<Option<String>>) -> Vec<Slot> {
    let mut by_label: BTreeMap<Option<String>, Vec<usize>> = BTreeMap::new();
    for (i, link) in picture.links.iter().enumerate() {
        if let Some(label) = label(link) {
            by_label.entry(label).or_default().push(i);
        }
    }
    let slot = |(label, links): (Option<String>, Vec<usize>)| {
        let width = label.as_deref().map_or(16.0, |l| f64::from(REGULAR.width(l, LABEL)) + 14.0);
        Slot { label, width, links }
    };
    by_label.into_iter().map(slot).collect()
}

/// Slots from left to right as their links come and go, so that links do not cross before they arrive.
fn order_slots(shapes: &mut [Shape], picture: &Picture, layout: &Layout) {
    let first = |l: usize| layout.bends[l].first().map_or(layout.centres[picture.links[l].to].0, |b| b.0);
    let last = |l: usize| layout.bends[l].last().map_or(layout.centres[picture.links[l].from].0, |b| b.0);
    let mean = |links: &[usize], at: &dyn Fn(usize) -> f64| {
        links.iter().map(|&l| at(l)).sum::<f64>() / links.len().max(1) as f64
    };
    for shape in shapes {
        shape.outputs.sort_by(|a, b| mean(&a.links, &first).total_cmp(&mean(&b.links, &first)));
        shape.ports.sort_by(|a, b| mean(&a.links, &last).total_cmp(&mean(&b.links, &last)));
    }
}

/// The slot of a link on an edge, as x from the box's centre, and whether it has a label.
fn slot_of(slots: &[Slot], link: usize) -> (f64, bool) {
    let total: f64 = slots.iter().map(|s| s.width).sum();
    let mut left = -total / 2.0;
    for slot in slots {
        if slot.links.contains(&link) {
            return (left + slot.width / 2.0, slot.label.is_some());
        }
        left += slot.width;
    }
    (0.0, false)
}

fn document(picture: &Picture, shapes: &[Shape], layout: &Layout, place_in: Place) -> String {
    let legend: Vec<Kind> = picture.kinds().collect();
    let legend_width: f64 = legend.iter().map(|k| legend_step(*k)).sum();
    let (title_width, margin, heading) = match place_in {
        Place::File => (f64::from(BOLD.width(&picture.title, TITLE)), MARGIN, 44.0),
        Place::Page => (0.0, 6.0, 0.0),
    };
    let width = (layout.width + 2.0 * SHEET).max(title_width).max(legend_width) + 2.0 * margin;
    let top = margin + heading;
    let height = top + layout.height + 2.0 * SHEET + 28.0 + 14.0 + margin;
    let origin = ((width - layout.width) / 2.0, top);
    let mut out = opening(picture, place_in, (&number(width), &number(height)));
    links(&mut out, picture, shapes, layout, origin);
    for (shape, &(x, y)) in shapes.iter().zip(&layout.centres) {
        draw_box(&mut out, shape, x + origin.0, y + origin.1);
    }
    labels(&mut out, shapes, layout, origin);
    draw_legend(&mut out, &legend, (width - legend_width) / 2.0, height - margin - 4.0);
    out + "</svg>\n"
}

/// The element's head: what it is, its colours and, on its own, its heading.
fn opening(picture: &Picture, place_in: Place, (w, h): (&str, &str)) -> String {
    let mut out = String::new();
    let title = escaped(&picture.title);
    // Writing to a string cannot fail, here and below.
    if place_in == Place::Page {
        let _ = writeln!(
            out,
            "<svg class=\"graph\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" font-family=\"{FAMILY}\" \
             role=\"group\" aria-label=\"{title}\">"
        );
        return out + &style(".graph ", &Kind::ENDINGS);
    }
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
         font-family=\"{FAMILY}\" role=\"img\">"
    );
    let _ = writeln!(out, "<title>{title}</title>");
    if !picture.doc.is_empty() {
        let _ = writeln!(out, "<desc>{}</desc>", escaped(&picture.doc));
    }
    out += &style("", &Kind::WORK);
    let _ = writeln!(out, "<rect class=\"ground\" width=\"{w}\" height=\"{h}\" rx=\"10\"/>");
    let y = number(MARGIN + 14.0);
    // The numbers are of our own making.
    let middle = number(w.parse::<f64>().unwrap_or_default() / 2.0);
    let _ = writeln!(out, "<text class=\"title\" x=\"{middle}\" y=\"{y}\">{title}</text>");
    out
}

fn links(out: &mut String, picture: &Picture, shapes: &[Shape], layout: &Layout, origin: (f64, f64)) {
    for (i, link) in picture.links.iter().enumerate() {
        let (from, to) = (&shapes[link.from], &shapes[link.to]);
        let (out_x, out_label) = slot_of(&from.outputs, i);
        let (in_x, in_label) = slot_of(&to.ports, i);
        let (fx, fy) = layout.centres[link.from];
        let (tx, ty) = layout.centres[link.to];
        let start = (fx + out_x + origin.0, fy + from.size.height / 2.0 + origin.1);
        let sheets = if from.node.stacked { 2.0 * SHEET } else { 0.0 };
        let end = (tx + in_x + origin.0, ty - to.size.height / 2.0 + origin.1 - ARROW);
        let stub = |label: bool| if label { LABEL_ROOM } else { 0.0 };
        let mut path = format!("M{} {}", number(start.0), number(start.1));
        let mut at = (start.0, start.1 + sheets + stub(out_label));
        let _ = write!(path, "V{}", number(at.1));
        for &(x, band_top, band_bottom) in &layout.bends[i] {
            let x = x + origin.0;
            curve(&mut path, at, (x, band_top + origin.1));
            at = (x, band_bottom + origin.1);
            let _ = write!(path, "V{}", number(at.1));
        }
        let arrive = (end.0, end.1 - stub(in_label));
        curve(&mut path, at, arrive);
        let _ = writeln!(out, "<path class=\"link\" d=\"{path}V{}\"/>", number(end.1));
        let (x, tip) = (end.0, end.1 + ARROW);
        let _ = writeln!(out, "<path class=\"head\" d=\"M{} {}l-4 -8.5h8z\"/>", number(x), number(tip - 0.5));
    }
}

/// A smooth piece that leaves and arrives vertically.
fn curve(path: &mut String, from: (f64, f64), to: (f64, f64)) {
    let middle = number((from.1 + to.1) / 2.0);
    let _ = write!(path, "C{} {middle} {} {middle} {} {}", number(from.0), number(to.0), number(to.0), number(to.1));
}

fn draw_box(out: &mut String, shape: &Shape, x: f64, y: f64) {
    let (w, h) = (shape.size.width, shape.size.height);
    let (left, top) = (x - w / 2.0, y - h / 2.0);
    let kind = shape.node.kind.class();
    if let Some(href) = &shape.node.href {
        let _ = write!(out, "<a href=\"{}\">", escaped(href));
    }
    let _ = writeln!(out, "<g class=\"{kind}\">");
    let mut tip = format!("{}: {}", shape.node.name, shape.node.op);
    if !shape.node.sweep.is_empty() {
        let _ = write!(tip, " ({})", shape.node.sweep);
    }
    if let Some(doc) = &shape.node.doc {
        let _ = write!(tip, "\n{doc}");
    }
    let _ = writeln!(out, "<title>{}</title>", escaped(&tip));
    let sheets: &[f64] = if shape.node.stacked { &[2.0, 1.0, 0.0] } else { &[0.0] };
    for sheet in sheets {
        let _ = writeln!(
            out,
            "<rect class=\"box\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"8\"/>",
            number(left + sheet * SHEET),
            number(top + sheet * SHEET),
            number(w),
            number(h)
        );
    }
    for (i, (text, line)) in shape.lines.iter().enumerate() {
        let _ = writeln!(
            out,
            "<text class=\"{}\" x=\"{}\" y=\"{}\">{}</text>",
            line.class(),
            number(x),
            number(top + 8.0 + LINE * (i as f64 + 0.76)),
            escaped(text)
        );
    }
    *out += if shape.node.href.is_some() { "</g></a>\n" } else { "</g>\n" };
}

/// Labels of outputs and ports, over the links, on a patch of the ground's colour.
fn labels(out: &mut String, shapes: &[Shape], layout: &Layout, origin: (f64, f64)) {
    for (shape, &(x, y)) in shapes.iter().zip(&layout.centres) {
        let (x, y) = (x + origin.0, y + origin.1);
        let half = shape.size.height / 2.0;
        let sheets = if shape.node.stacked { 2.0 * SHEET } else { 0.0 };
        for (slots, at) in [(&shape.outputs, y + half + sheets + 11.0), (&shape.ports, y - half - ARROW - 9.0)] {
            for slot in slots {
                let (Some(label), Some(&link)) = (&slot.label, slot.links.first()) else { continue };
                let centre = x + slot_of(slots, link).0;
                let width = f64::from(REGULAR.width(label, LABEL)) + 6.0;
                let _ = writeln!(
                    out,
                    "<rect class=\"patch\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"15\"/>\
                     <text class=\"label\" x=\"{}\" y=\"{}\">{}</text>",
                    number(centre - width / 2.0),
                    number(at - 7.5),
                    number(width),
                    number(centre),
                    number(at + 3.8),
                    escaped(label)
                );
            }
        }
    }
}

fn legend_step(kind: Kind) -> f64 {
    14.0 + 6.0 + f64::from(REGULAR.width(kind.name(), LABEL)) + 18.0
}

fn draw_legend(out: &mut String, kinds: &[Kind], left: f64, y: f64) {
    let mut x = left;
    for kind in kinds {
        let _ = writeln!(
            out,
            "<g class=\"{}\"><rect class=\"box\" x=\"{}\" y=\"{}\" width=\"14\" height=\"14\" rx=\"4\"/>\
             <text class=\"key\" x=\"{}\" y=\"{}\">{}</text></g>",
            kind.class(),
            number(x),
            number(y - 10.5),
            number(x + 20.0),
            number(y + 0.5),
            kind.name()
        );
        x += legend_step(*kind);
    }
}

/// Colours, for a light ground and, where the reader's system asks for it, a dark one. `scope` begins every selector.
fn style(scope: &str, kinds: &[Kind]) -> String {
    let rules = format!(
        ".title{{font-size:{TITLE}px;font-weight:bold;text-anchor:middle}}\n\
         .name{{font-size:{NAME}px;font-weight:bold;text-anchor:middle}}\n\
         .op,.sweep,.note{{font-size:{SMALL}px;text-anchor:middle}}\n\
         .label{{font-size:{LABEL}px;text-anchor:middle}}\n\
         .key{{font-size:{LABEL}px}}\n\
         .box{{stroke-width:1.4}}\n\
         .link{{fill:none;stroke-width:1.5}}\n"
    );
    let light = ground("#ffffff", "#1c2430", "#566172", "#8592a6", kinds, Kind::light);
    let dark = ground("#0f1520", "#eef2f8", "#a9b4c6", "#7d8ba3", kinds, Kind::dark);
    let (rules, light, dark) = (scoped(scope, &rules), scoped(scope, &light), scoped(scope, &dark));
    format!("<style>\n{rules}{light}@media (prefers-color-scheme: dark){{\n{dark}}}\n</style>\n")
}

/// The rules, a line each, with `scope` before every selector.
fn scoped(scope: &str, rules: &str) -> String {
    let rule = |rule: &str| match rule.split_once('{') {
        Some((selectors, rest)) => {
            let selectors: Vec<String> = selectors.split(',').map(|s| format!("{scope}{s}")).collect();
            format!("{}{{{rest}\n", selectors.join(","))
        }
        None => format!("{rule}\n"),
    };
    rules.lines().map(rule).collect()
}

fn ground(
    back: &str,
    ink: &str,
    muted: &str,
    line: &str,
    kinds: &[Kind],
    colours: fn(Kind) -> (&'static str, &'static str),
) -> String {
    let mut css = format!(
        ".ground,.patch{{fill:{back}}}\n.title,.name{{fill:{ink}}}\n.op,.sweep,.label,.key,.note{{fill:{muted}}}\n\
         .link{{stroke:{line}}}\n.head{{fill:{line}}}\n"
    );
    for kind in kinds {
        let (fill, stroke) = colours(*kind);
        let _ = writeln!(css, ".{} .box{{fill:{fill};stroke:{stroke}}}", kind.class());
    }
    css
}

/// At most one decimal: short, and the same on every machine.
fn number(x: f64) -> String {
    let text = format!("{x:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_string)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            // XML has no place for other control characters.
            c if c.is_control() && c != '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
