//! The frame of every page that is written: one file without script, which needs nothing else and
//! prints well.
//!
//! Templates escape whatever they are given. The policy in the head lets a browser run nothing, and
//! fetch nothing, whatever stands in the page.

use chrono::{DateTime, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::human;

/// Lets through what is in this file, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
const STYLE: &str = include_str!("html.css");

/// A page with this heading. It says when it was made.
pub(crate) fn page(title: &str, main: &Markup, now: DateTime<Utc>) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { h1 { (title) } (main) }
                footer { "Made by Lifeboat at " (human::time(now)) ". Times of drills are those of the drill host." }
            }
        }
    };
    page.into_string()
}

/// How good the news is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    Good,
    Late,
    Bad,
}

impl News {
    /// The class that gives it its colour.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Late => "late",
            Self::Bad => "bad",
        }
    }
}

/// What the page says, before all else.
pub(crate) fn banner(news: News, words: &str, sentence: &str) -> Markup {
    html! {
        div class=(format!("banner {}", news.class())) {
            p .word { (words) }
            p { (sentence) }
        }
    }
}

/// A bar in a row of a table, from one share of the whole to another, both in seconds.
pub(crate) fn bar(began: f64, took: f64, whole: f64) -> Markup {
    let share = |seconds: f64| if whole > 0.0 { (100.0 * seconds / whole).clamp(0.0, 100.0) } else { 0.0 };
    html! { div .bar style=(format!("margin-left:{:.2}%;width:{:.2}%", share(began), share(took))) {} }
}
