//! A picture of a run: a burst's containers over time, and memory by number of pods.

use std::fmt::Write as _;

use super::report::Report;

const WIDTH: f64 = 760.0;
const PANEL: f64 = 300.0;
const MARGIN: f64 = 56.0;
const COLOURS: [&str; 4] = ["#888888", "#1769aa", "#d9480f", "#2b8a3e"];

/// One curve.
struct Line<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// The report as SVG.
#[must_use]
pub fn svg(report: &Report) -> String {
    let height = 2.0 * PANEL;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let pods = report
        .floor
        .timelines
        .keys()
        .copied()
        .filter(|pods| *pods <= 50)
        .max();
    if let Some(pods) = pods {
        let mut lines = vec![Line {
            name: "bare CRI calls",
            points: steps(report.floor.timelines.get(&pods)),
        }];
        lines.extend(report.subjects.iter().map(|subject| Line {
            name: &subject.name,
            points: steps(subject.timelines.get(&pods)),
        }));
        let title = format!("Burst of {pods} pods: containers running, by seconds");
        panel(&mut out, 0.0, &title, &lines);
    }
    let lines: Vec<Line<'_>> = report
        .subjects
        .iter()
        .map(|subject| Line {
            name: &subject.name,
            points: subject
                .memory
                .iter()
                .map(|(pods, memory)| (number(*pods), kilobytes(memory.rss)))
                .collect(),
        })
        .collect();
    panel(
        &mut out,
        PANEL,
        "MB resident at rest, by number of pods",
        &lines,
    );
    out.push_str("</svg>\n");
    out
}

#[expect(clippy::cast_precision_loss, reason = "numbers of pods")]
fn number(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "drawn")]
fn kilobytes(count: u64) -> f64 {
    count as f64 / 1024.0
}

fn steps(started: Option<&Vec<f64>>) -> Vec<(f64, f64)> {
    let mut points = vec![(0.0, 0.0)];
    for (index, at) in started.into_iter().flatten().enumerate() {
        points.push((*at, number(index)));
        points.push((*at, number(index + 1)));
    }
    points
}

fn panel(out: &mut String, top: f64, title: &str, lines: &[Line<'_>]) {
    let all = || lines.iter().flat_map(|line| &line.points);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max).max(1e-9);
    let (right, up) = (
        most(&mut all().map(|point| point.0)),
        most(&mut all().map(|point| point.1)),
    );
    let x = |value: f64| MARGIN + value / right * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| top + PANEL - MARGIN - value / up * (PANEL - 2.0 * MARGIN);
    let _ = writeln!(
        out,
        "<text x=\"{MARGIN}\" y=\"{}\" font-size=\"14\">{title}</text>",
        top + 24.0
    );
    for quarter in 0..=4 {
        let part = f64::from(quarter) / 4.0;
        let (level, place) = (y(up * part), x(right * part));
        let _ = writeln!(
            out,
            "<line x1=\"{MARGIN}\" x2=\"{}\" y1=\"{level}\" y2=\"{level}\" stroke=\"#dddddd\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{:.0}</text>\
             <text x=\"{place}\" y=\"{}\" text-anchor=\"middle\">{:.1}</text>",
            WIDTH - MARGIN,
            MARGIN - 6.0,
            level + 4.0,
            up * part,
            top + PANEL - MARGIN + 18.0,
            right * part
        );
    }
    for (index, line) in lines.iter().enumerate() {
        // The first colour is the floor's, which only some panels have.
        let shift = usize::from(line.name != "bare CRI calls" && lines[0].name != "bare CRI calls");
        let colour = COLOURS[(index + shift) % COLOURS.len()];
        let points: Vec<String> = line
            .points
            .iter()
            .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)))
            .collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"{colour}\">{}</text>",
            points.join(" "),
            MARGIN + 8.0,
            top + MARGIN + 14.0 * number(index + 1),
            escape(line.name)
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
