use super::svg::write;
use super::{Kind, Link, Node, Picture};
use resvg::{tiny_skia, usvg};

fn node(name: &str, op: &'static str, kind: Kind, sweep: &str) -> Node {
    Node { name: name.into(), op, kind, sweep: sweep.into(), stacked: sweep.contains('×'), doc: None }
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
    let all = |from, to, axes: &[&str]| Link {
        gathered: axes.iter().map(|a| a.to_string()).collect(),
        ..link(from, to)
    };
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

#[test]
fn png() {
    let svg = write(&figure());
    let tree = usvg::Tree::from_str(&svg, &options()).unwrap();
    let size = tree.size().to_int_size();
    let mut pixmap = tiny_skia::Pixmap::new(size.width() * 2, size.height() * 2).unwrap();
    resvg::render(&tree, tiny_skia::Transform::from_scale(2.0, 2.0), &mut pixmap.as_mut());
    std::fs::write("/tmp/fig.svg", &svg).unwrap();
    pixmap.save_png("/tmp/fig.png").unwrap();
}
