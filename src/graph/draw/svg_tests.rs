use super::svg::{Place, write};
use super::{Kind, Link, Node, Picture};
use resvg::usvg;

fn node(name: &str, op: &'static str, kind: Kind, sweep: &str) -> Node {
    let stacked = sweep.contains('×');
    let (note, href) = (String::new(), None);
    Node { name: name.into(), op: op.into(), kind, sweep: sweep.into(), stacked, doc: None, note, href }
}

fn link(from: usize, to: usize) -> Link {
    Link { from, to, output: None, port: None, gathered: Vec::new() }
}

fn figure() -> Picture {
    let boxes = vec![
        node("rows", "load", Kind::Source, "24 × set, variant, target"),
        node("scored", "score-ppl", Kind::Model, "24 × set, variant, target"),
        node("cell", "summarize", Kind::Transform, "24 × set, variant, target"),
        node("published", "load", Kind::Source, ""),
        node("all", "concat", Kind::Transform, ""),
        node("with-published", "join", Kind::Transform, ""),
        node("figure-2", "table", Kind::Sink, ""),
        node("chart", "plot", Kind::Sink, ""),
        node("halves", "split-by-ppl", Kind::Transform, "3 × set"),
        node("lower", "write", Kind::Sink, "3 × set"),
        node("higher-perplexity-half-with-a-very-long-name-that-goes-on", "write", Kind::Sink, "3 × set"),
        node("checks", "lint", Kind::Sink, ""),
    ];
    let all =
        |from, to, axes: &[&str]| Link { gathered: axes.iter().map(|a| a.to_string()).collect(), ..link(from, to) };
    let links = vec![
        link(0, 1),
        link(1, 2),
        all(2, 4, &["set", "variant", "target"]),
        Link { port: Some("left"), ..link(4, 5) },
        Link { port: Some("right"), ..link(3, 5) },
        link(5, 6),
        link(5, 7),
        all(1, 8, &["variant", "target"]),
        Link { output: Some("lower"), ..link(8, 9) },
        Link { output: Some("higher"), ..link(8, 10) },
        all(0, 11, &["set", "variant", "target"]),
    ];
    Picture { title: "figure-2".into(), doc: "Mean perplexity".into(), boxes, links }
}

fn options() -> usvg::Options<'static> {
    let mut options = usvg::Options { font_family: "DejaVu Sans".into(), ..Default::default() };
    let fonts = options.fontdb_mut();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    options
}

/// Bounds of texts and of filled shapes, as a renderer sees them.
fn bounds(group: &usvg::Group, texts: &mut Vec<usvg::Rect>, boxes: &mut Vec<usvg::Rect>) {
    for child in group.children() {
        match child {
            usvg::Node::Group(inner) => bounds(inner, texts, boxes),
            usvg::Node::Path(path) if path.fill().is_some() => boxes.push(path.abs_bounding_box()),
            usvg::Node::Text(text) => texts.push(text.abs_bounding_box()),
            usvg::Node::Path(_) | usvg::Node::Image(_) => {}
        }
    }
}

#[test]
fn text_stays_inside_its_box() {
    let picture = figure();
    let tree = usvg::Tree::from_str(&write(&picture, Place::File), &options()).expect("well-formed");
    let (mut texts, mut boxes) = (Vec::new(), Vec::new());
    bounds(tree.root(), &mut texts, &mut boxes);
    assert!(texts.len() > 2 * picture.boxes.len() && boxes.len() > picture.boxes.len());
    for text in texts {
        for shape in boxes.iter().filter(|b| b.intersect(&text).is_some()) {
            let inside = text.left() >= shape.left() + 2.0 && text.right() <= shape.right() - 2.0;
            assert!(inside, "{text:?} runs over {shape:?}");
        }
    }
}

#[test]
fn whatever_is_in_the_names_the_picture_is_well_formed() {
    let mut picture = figure();
    picture.title = "<a> & \"b\" \u{1}\u{7f} 漢字".into();
    picture.doc = "]]> <!-- --".into();
    picture.boxes[0].name = "<rows> & 'more'".into();
    picture.boxes[1].doc = Some("a\nb <c>".into());
    let svg = write(&picture, Place::File);
    usvg::Tree::from_str(&svg, &options()).expect("well-formed");
    assert!(svg.contains("&lt;rows&gt; &amp; 'more'"));
}

#[test]
fn an_empty_picture_has_a_title() {
    let picture = Picture { title: "empty".into(), doc: String::new(), boxes: Vec::new(), links: Vec::new() };
    usvg::Tree::from_str(&write(&picture, Place::File), &options()).expect("well-formed");
}
