//! The pictures of a page, drawn as SVG: no script, and nothing that is fetched.

use lifeboat_engine::drill::{DrillReport, Phase};
use maud::{Markup, html};

use crate::html::bar;
use crate::human;

/// The drawing's own units; the page scales it.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 150.0;
/// Room for a number beside the axis.
const LEFT: f64 = 80.0;
const MARGIN: f64 = 12.0;

/// A number of each drill that a chart shows.
pub(super) struct Measure {
    pub(super) name: &'static str,
    pub(super) of: fn(&DrillReport) -> Option<f64>,
    pub(super) objective: fn(&DrillReport) -> Option<f64>,
}

/// Where each phase stood in the time of the drill.
pub(super) fn timeline(phases: &[Phase]) -> Markup {
    let whole: f64 = phases.iter().map(|phase| phase.seconds).sum();
    let mut before = 0.0;
    html! {
        table {
            thead { tr { th scope="col" { "Phase" } th scope="col" .number { "Time" } th scope="col" .wide { "Share" } } }
            tbody {
                @for phase in phases {
                    tr {
                        th scope="row" { (phase.phase) }
                        td .number { (human::seconds(phase.seconds)) }
                        td { (bar(before, phase.seconds, whole)) }
                    }
                    @let () = before += phase.seconds;
                }
            }
        }
    }
}

/// How a measure went over time, oldest on the left. `None` if fewer than two drills have it.
pub(super) fn over_time(measure: &Measure, newest_first: &[&DrillReport]) -> Option<Markup> {
    let points: Vec<(f64, f64)> = newest_first
        .iter()
        .rev()
        .filter_map(|drill| Some((drill.started.timestamp() as f64, (measure.of)(drill)?)))
        .collect();
    let (first, last) = (points.first()?.0, points.last()?.0);
    if points.len() < 2 {
        return None;
    }
    let objective = newest_first.first().and_then(|drill| (measure.objective)(drill));
    let top = points.iter().map(|(_, value)| *value).chain(objective).fold(f64::MIN_POSITIVE, f64::max);
    let x = |time: f64| match last > first {
        true => LEFT + (WIDTH - LEFT - MARGIN) * (time - first) / (last - first),
        false => LEFT,
    };
    let y = |value: f64| HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * value / top;
    let line: Vec<String> = points.iter().map(|(time, value)| format!("{:.1},{:.1}", x(*time), y(*value))).collect();
    let said = format!(
        "{} of {}, between {} and {}",
        measure.name,
        human::count(points.len() as u64, "drill"),
        human::seconds(points.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min)),
        human::seconds(points.iter().map(|(_, value)| *value).fold(0.0, f64::max)),
    );
    Some(html! {
        figure {
            figcaption { (measure.name) }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(said) {
                line .axis x1=(LEFT) y1=(y(0.0)) x2=(WIDTH - MARGIN) y2=(y(0.0)) {}
                text x=(LEFT - MARGIN) y=(y(0.0)) text-anchor="end" { "0" }
                text x=(LEFT - MARGIN) y=(y(top) + MARGIN) text-anchor="end" { (human::seconds(top)) }
                @if let Some(objective) = objective {
                    line .objective x1=(LEFT) y1=(y(objective)) x2=(WIDTH - MARGIN) y2=(y(objective)) {}
                    text x=(WIDTH - MARGIN) y=(y(objective) + MARGIN) text-anchor="end" { "objective" }
                }
                polyline .series points=(line.join(" ")) {}
                @for (time, value) in &points {
                    circle .point cx=(format!("{:.1}", x(*time))) cy=(format!("{:.1}", y(*value))) r="3" {}
                }
            }
        }
    })
}
