//! The page about the loss of a region.

use chrono::{DateTime, Utc};
use lifeboat_engine::format::id::Name;
use maud::{Markup, html};

use super::loss::RegionLoss;
use crate::html::{self, News, bar};
use crate::human;

pub(super) fn page(told: &RegionLoss, now: DateTime<Utc>) -> String {
    let title = format!("The loss of region {}, rehearsed on {}", told.region, told.started.format("%-d %B %Y"));
    let partial = told.datasets.iter().any(|dataset| !dataset.is_whole());
    let all = if told.is_whole() { "Everything" } else { "What was rehearsed" };
    let (news, words) = match (told.is_restored(), told.is_missed(), partial || !told.is_whole()) {
        (false, ..) => (News::Bad, "Not everything can be restored".to_owned()),
        (true, true, _) => (News::Late, format!("{all} can be restored, but not within the objectives")),
        (true, false, true) => (News::Late, format!("{all} can be restored, as far as it was captured")),
        (true, false, false) => (News::Good, "Everything can be restored".to_owned()),
    };
    let names = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
    let main = html! {
        (html::banner(news, &words, &told.verdict))
        section { h2 { "Datasets" } (datasets(told)) }
        section { h2 { "Order" } (order(told)) }
        @if !told.shorter.is_empty() {
            section { h2 { "What would shorten it" } ul { @for what in &told.shorter { li { (what) } } } }
        }
        section {
            h2 { "How this was found out" }
            p {
                "At " (human::time(told.started)) ", replicas " (names(&told.replicas_lost)) " counted as gone, and " (names(&told.replicas_left))
                " were left. From there, each dataset was drilled: restored into a throw-away database, or fetched where its kind allows no more. This ended at "
                (human::time(told.finished)) ". The times above are those of the restores alone, which were measured, in the order of the configuration, "
                (told.at_once) " at once. The signed reports of the drills:"
            }
            ul {
                @for dataset in &told.datasets {
                    li {
                        (dataset.dataset) ": "
                        @match &dataset.drill {
                            Some(drill) => code { "lifeboat report " (dataset.dataset) " --drill " (drill) },
                            None => "not in the vault",
                        }
                    }
                }
            }
        }
    };
    html::page(&title, &main, now)
}

fn datasets(told: &RegionLoss) -> Markup {
    let seconds = |seconds: Option<f64>| seconds.map_or("-".to_owned(), human::seconds);
    html! {
        table {
            thead {
                tr {
                    th scope="col" { "Dataset" }
                    th scope="col" { "Result" }
                    th scope="col" .number { "Restored after" }
                    th scope="col" .number { "Objective" }
                    th scope="col" .number { "Age of data" }
                    th scope="col" .number { "Objective" }
                }
            }
            tbody {
                @for dataset in &told.datasets {
                    @let news = match (dataset.restored && dataset.objectives_missed.is_empty(), dataset.is_whole()) {
                        (true, true) => News::Good,
                        (true, false) => News::Late,
                        (false, _) => News::Bad,
                    };
                    tr {
                        th scope="row" { (dataset.dataset) }
                        td class=(news.class()) {
                            (dataset.result())
                            @if let Some(class) = dataset.error_class.filter(|_| !dataset.restored) { ": " (class) ", told where it was drilled" }
                        }
                        td .number { (seconds(dataset.rto_seconds)) }
                        td .number { (seconds(dataset.rto_objective_seconds)) }
                        td .number { (seconds(dataset.rpo_seconds)) }
                        td .number { (seconds(dataset.rpo_objective_seconds)) }
                    }
                }
                @if told.rto_seconds.is_some() {
                    tr {
                        th scope="row" { "Everything" }
                        td {}
                        td .number { (seconds(told.rto_seconds)) }
                        td {}
                        td .number { (seconds(told.rpo_seconds)) }
                        td {}
                    }
                }
            }
        }
    }
}

fn order(told: &RegionLoss) -> Markup {
    let whole = told.datasets.iter().filter_map(|dataset| dataset.rto_seconds).fold(0.0, f64::max);
    html! {
        table {
            thead {
                tr {
                    th scope="col" { "Dataset" }
                    th scope="col" .number { "Takes" }
                    th scope="col" .wide { "From the loss on" }
                    th scope="col" { "Everything waits for it" }
                }
            }
            tbody {
                @for dataset in &told.datasets {
                    @let began = dataset.begins_after_seconds.unwrap_or_default();
                    @let took = dataset.rto_seconds.unwrap_or_default() - began;
                    tr {
                        th scope="row" { (dataset.dataset) }
                        td .number { (dataset.restore_seconds.map_or("-".to_owned(), human::seconds)) }
                        td { (bar(began, took, whole)) }
                        td { @if told.critical_path.contains(&dataset.dataset) { "yes" } }
                    }
                }
            }
        }
    }
}
