use super::*;
use resvg::usvg::{Group, Node, Rect};

fn bar(value: f64) -> Bar {
    Bar { value: Some(value), ..Bar::default() }
}

fn within(value: f64, low: f64, high: f64) -> Bar {
    Bar { interval: Some((low, high)), ..bar(value) }
}

fn absent(word: &str) -> Bar {
    Bar { absent: Some(word.into()), ..Bar::default() }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| n.to_string()).collect()
}

fn chart(series: &[&str], marks: Marks) -> Chart {
    Chart {
        title: Some("Mean perplexity of answers under a target model".into()),
        x_label: "set".into(),
        y_label: "mean perplexity".into(),
        x_scale: ScaleKind::Linear,
        y_scale: ScaleKind::Linear,
        width: None,
        height: None,
        series: names(series),
        marks,
        notes: Vec::new(),
    }
}

fn grouped(series: &[&str], categories: &[&str], bars: Vec<Vec<Bar>>) -> Chart {
    chart(series, Marks::Bars { categories: names(categories), bars })
}

fn simple(values: &[f64]) -> Chart {
    let categories: Vec<String> = (0..values.len()).map(|i| format!("category {i}")).collect();
    chart(&[], Marks::Bars { categories, bars: vec![values.iter().map(|v| bar(*v)).collect()] })
}

fn logarithmic(chart: Chart) -> Chart {
    Chart { y_scale: ScaleKind::Log, ..chart }
}

/// Five variants on three sets, one of them skipped.
fn figure_2() -> Chart {
    let bars = vec![
        vec![within(4.54, 4.4, 4.7), within(5.83, 5.1, 6.9), within(51.3, 44.0, 60.1)],
        vec![within(2.35, 2.3, 2.4), within(2.2, 2.1, 2.3), within(6.35, 6.0, 6.7)],
        vec![within(2.355, 2.3, 2.41), within(2.236, 2.2, 2.3), absent("n/a")],
        vec![within(2.27, 2.2, 2.3), within(2.25, 2.2, 2.3), within(4.66, 4.5, 4.9)],
        vec![within(2.67, 2.6, 2.7), within(2.65, 2.6, 2.7), within(6.89, 6.5, 7.2)],
    ];
    let series = ["groundtruth", "gpt-4", "claude", "paraphrase", "minimum-change"];
    let notes = vec!["ECQA, claude: skipped: `claude.json` does not exist".to_string()];
    Chart { notes, ..grouped(&series, &["GSM8K", "MATH-algebra", "ECQA"], bars) }
}

const LONG: [&str; 7] = [
    "GPT-4 Detailed Step-by-Step Transformation of Ground Truth",
    "Claude Answer Directly",
    "GPT-4 Step-by-Step Transformation of GT",
    "Groundtruth",
    "minimum_change_with_a_long_name",
    "Donaudampfschifffahrtsgesellschaftskapitän",
    "a & <b> \"c\"",
];

fn point(x: f64, y: f64) -> Point {
    Point { x, y, interval: None }
}

fn points(lines: bool) -> Chart {
    let series = |s: usize| (0..8).map(|i| point(f64::from(i), 50.0 / f64::from(i + 1) + s as f64 * 4.0)).collect();
    let mut all: Vec<Vec<Point>> = (0..4).map(series).collect();
    all[0].iter_mut().for_each(|p| p.interval = Some((p.y - 2.0, p.y + 2.0)));
    chart(&["lower", "higher", "mixed", "a fourth one"], Marks::Points { points: all, lines })
}

fn histogram(kind: ScaleKind, series: &[Vec<f64>]) -> Chart {
    let (edges, counts) = bins(kind, series, None);
    let names = ["human", "gpt-4"];
    let names = if series.len() > 1 { &names[..series.len()] } else { &[] };
    Chart { x_scale: kind, ..chart(names, Marks::Histogram { edges, counts }) }
}

fn spread(offset: f64) -> Vec<f64> {
    (0..500).map(|i| ((f64::from(i * 7919 % 997) / 997.0 + 0.001).ln().abs() + 0.2) * offset).collect()
}

fn gallery() -> Vec<(&'static str, Chart)> {
    let long_bars = (0..3).map(|s| (0..7).map(|i| bar(f64::from(i + s) + 0.25)).collect()).collect();
    let both_signs = vec![vec![within(-3.0, -4.0, -2.5), bar(2.0), bar(0.0)], vec![bar(1.0), bar(-0.5), absent("NaN")]];
    let ten: Vec<String> = (0..10).map(|i| format!("series {i}")).collect();
    let ten: Vec<&str> = ten.iter().map(String::as_str).collect();
    let ten_bars = (0..10).map(|s| vec![bar(f64::from(s) + 1.0), bar(10.0 - f64::from(s))]).collect();
    let many: Vec<f64> = (0..120).map(|i| f64::from(i * 37 % 23)).collect();
    vec![
        ("figure-2", figure_2()),
        ("figure-2, logarithmic", logarithmic(figure_2())),
        ("figure-2, small", Chart { width: Some(300.0), height: Some(250.0), ..figure_2() }),
        ("one", simple(&[3.2])),
        ("twenty", simple(&many[..20])),
        ("many", simple(&many)),
        ("two signs", grouped(&["a", "b"], &["x", "y", "z"], both_signs)),
        ("negative", simple(&[-3.0, -1.0])),
        ("zero", simple(&[0.0, 0.0])),
        ("huge range", simple(&[1e12, 1.0, 5e9])),
        ("huge range, logarithmic", logarithmic(simple(&[1e12, 1.0, 5e-9]))),
        ("largest", simple(&[f64::MAX / 4.0, 1.0])),
        ("smallest", logarithmic(simple(&[1e-300, 1e300]))),
        ("long names", grouped(&LONG[..3], &LONG, long_bars)),
        ("ten series", grouped(&ten, &["A", "B"], ten_bars)),
        ("no bars", grouped(&[], &[], vec![vec![]])),
        ("all absent", grouped(&["a", "b"], &["x", "y"], vec![vec![absent("n/a"); 2]; 2])),
        ("histogram", histogram(ScaleKind::Linear, &[spread(1.0)])),
        ("two histograms", histogram(ScaleKind::Log, &[spread(1.0), spread(3.0)])),
        ("no histogram", histogram(ScaleKind::Log, &[vec![]])),
        ("scatter", points(false)),
        ("lines", points(true)),
        ("one point", chart(&[], Marks::Points { points: vec![vec![point(3.0, 4.0)]], lines: true })),
        ("no points", logarithmic(chart(&[], Marks::Points { points: vec![vec![]], lines: false }))),
    ]
}

/// The texts of a drawing with their boxes; `None` for those that stand at an angle.
fn texts(group: &Group, found: &mut Vec<(String, Rect, bool)>) {
    for node in group.children() {
        match node {
            Node::Group(group) => texts(group, found),
            Node::Text(text) => {
                let turned = text.abs_transform();
                let slanted = turned.sx.abs() > 0.01 && turned.kx.abs() > 0.01;
                let content: String = text.chunks().iter().map(|c| c.text()).collect();
                found.push((content, text.abs_bounding_box(), slanted));
            }
            _ => {}
        }
    }
}

#[test]
fn all_texts_are_whole_and_apart() {
    for (name, chart) in gallery() {
        let tree = png::tree(&chart.svg()).unwrap();
        let mut found = Vec::new();
        texts(tree.root(), &mut found);
        assert!(found.len() > 3, "{name}: {found:?}");
        for (text, place, _) in &found {
            let whole = place.left() >= 0.0 && place.right() <= tree.size().width();
            let whole = whole && place.top() >= 0.0 && place.bottom() <= tree.size().height();
            assert!(whole, "{name}: `{text}` at {place:?} leaves the drawing of {:?}", tree.size());
        }
        let level: Vec<_> = found.iter().filter(|(.., slanted)| !slanted).collect();
        for (i, (a, place_a, _)) in level.iter().enumerate() {
            for (b, place_b, _) in &level[i + 1..] {
                // The boxes are those of lines: a pixel above and below is blank.
                let apart = place_a.right() <= place_b.left() || place_b.right() <= place_a.left();
                let apart = apart || place_a.bottom() <= place_b.top() + 2.0 || place_b.bottom() <= place_a.top() + 2.0;
                assert!(apart, "{name}: `{a}` and `{b}` overlap: {place_a:?}, {place_b:?}");
            }
        }
    }
}

#[test]
fn drawings_are_the_same_every_time() {
    let (first, second) = (figure_2().svg(), figure_2().svg());
    assert_eq!(first, second);
    assert!(png::render(&first).unwrap() == png::render(&second).unwrap());
}

#[test]
fn an_svg_holds_what_it_should() {
    insta::assert_snapshot!(
        grouped(&["a", "b"], &["x & y"], vec![vec![within(2.5, 2.0, 3.25)], vec![absent("n/a")]]).svg()
    );
}

#[test]
fn terminal_charts_fit() {
    for (name, chart) in gallery() {
        let Some(text) = terminal::render(&chart) else { continue };
        let widest = text.lines().map(textwrap::core::display_width).max().unwrap();
        assert!(widest <= 80, "{name}:\n{text}");
    }
}

#[test]
fn a_histogram_of_many_bins_stays_short() {
    let (edges, counts) = bins(ScaleKind::Linear, &[spread(1.0), spread(2.0)], Some(200));
    let chart = chart(&["a", "b"], Marks::Histogram { edges, counts });
    let text = terminal::render(&chart).unwrap();
    let lines: Vec<&str> = text.lines().skip(3).filter(|l| !l.is_empty()).collect();
    let counted: u64 = lines.iter().map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert!(lines.len() <= 42 && counted == 1000, "{counted}\n{text}");
}

#[test]
fn terminal_charts_show_sizes() {
    insta::assert_snapshot!(terminal::render(&figure_2()).unwrap(), @"
    Mean perplexity of answers under a target model
    mean perplexity by set

    GSM8K         groundtruth     ██▋ 4.54 [4.40, 4.70]
                  gpt-4           █▍ 2.35 [2.30, 2.40]
                  claude          █▍ 2.35 [2.30, 2.41]
                  paraphrase      █▎ 2.27 [2.20, 2.30]
                  minimum-change  █▌ 2.67 [2.60, 2.70]

    MATH-algebra  groundtruth     ███▎ 5.83 [5.10, 6.90]
                  gpt-4           █▎ 2.20 [2.10, 2.30]
                  claude          █▎ 2.24 [2.20, 2.30]
                  paraphrase      █▎ 2.25 [2.20, 2.30]
                  minimum-change  █▌ 2.65 [2.60, 2.70]

    ECQA          groundtruth     █████████████████████████████ 51.30 [44.00, 60.10]
                  gpt-4           ███▋ 6.35 [6.00, 6.70]
                  claude          n/a
                  paraphrase      ██▋ 4.66 [4.50, 4.90]
                  minimum-change  ███▉ 6.89 [6.50, 7.20]

    ECQA, claude: skipped: `claude.json` does not exist
    ");
    let signs = vec![vec![bar(-3.0), bar(2.0), bar(0.0)]];
    insta::assert_snapshot!(terminal::render(&grouped(&[], &["x", "y", "z"], signs)).unwrap(), @"
    Mean perplexity of answers under a target model
    mean perplexity by set

    x  ████████████████████████████████████████████ -3
    y                                              ██████████████████████████████ 2
    z                                              0
    ");
    insta::assert_snapshot!(terminal::render(&histogram(ScaleKind::Log, &[spread(1.0)])).unwrap(), @"
    Mean perplexity of answers under a target model
    mean perplexity by set

    0.200 – 0.269  ███████████████████████████████████ 39
    0.269 – 0.363  ████████████████████████████████████▉ 41
    0.363 – 0.488  ████████████████████████████████████████████▉ 50
    0.488 – 0.658  ████████████████████████████████████████████████████▏ 58
    0.658 – 0.885  ██████████████████████████████████████████████████████████████ 69
    0.885 – 1.192  ███████████████████████████████████████████████████████▊ 62
    1.192 – 1.605  ████████████████████████████████████████████████████████████▎ 67
    1.605 – 2.162  █████████████████████████████████████████▍ 46
    2.162 – 2.911  ███████████████████████████████████ 39
    2.911 – 3.920  █████████████████▏ 19
    3.920 – 5.278  ████████▏ 9
    5.278 – 7.108  ▉ 1
    ");
}
