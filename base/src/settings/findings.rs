//! What is wrong with a configuration file: every finding at once, each with its line and a remedy.

use std::ops::Range;
use std::path::Path;

use crate::error::Error;

/// Collects what is wrong while a file is validated.
pub struct Findings<'a> {
    path: &'a Path,
    text: &'a str,
    found: Vec<(usize, String)>,
    /// What is wrong outside of the file.
    elsewhere: Vec<String>,
}

impl<'a> Findings<'a> {
    /// No findings yet.
    #[must_use]
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text, found: Vec::new(), elsewhere: Vec::new() }
    }

    /// Adds what is wrong at `span`. `remedy` says what to write instead; it is empty where the
    /// problem says so itself.
    pub fn add(&mut self, span: Range<usize>, problem: impl AsRef<str>, remedy: impl AsRef<str>) {
        let line = self.text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1);
        let remedy = remedy.as_ref();
        let separator = if remedy.is_empty() { "" } else { ": " };
        self.found.push((line, format!("{}{separator}{remedy}", problem.as_ref())));
    }

    /// Adds what is wrong with something that the file names, or that is used because the file does
    /// not name it: no line of the file is at fault.
    pub fn add_elsewhere(&mut self, problem: impl AsRef<str>, remedy: impl AsRef<str>) {
        self.elsewhere.push(format!("{}: {}", problem.as_ref(), remedy.as_ref()));
    }

    /// All findings as one error; `None` if there are none.
    pub fn into_error(mut self) -> Option<Error> {
        self.found.sort();
        let hint = match self.found.is_empty() {
            false => "correct the file, then check it with `lifeboatd --check-config`",
            true => "correct what is named, then check it with `lifeboatd --check-config`",
        };
        let in_file = self.found.iter().map(|(line, text)| format!("{}:{line}: {text}", self.path.display()));
        let shown: Vec<String> = in_file.chain(self.elsewhere).collect();
        (!shown.is_empty()).then(|| Error::configuration(shown.join("\n")).hint(hint))
    }
}

/// The message of a TOML error, with the nearest known key where a key is unknown.
///
/// It never repeats a value, which may be a secret in the wrong place.
#[must_use]
pub fn explain(message: &str) -> String {
    if let Some((before, rest)) = message.split_once("string \"")
        && let Some((_, after)) = rest.rsplit_once('"')
    {
        let remedy = match after.strip_prefix(", expected ") {
            Some(expected)
                if expected.starts_with(['u', 'i']) && expected[1..].starts_with(|c: char| c.is_ascii_digit()) =>
            {
                ": write the number without quotes"
            }
            Some("usize") => ": write the number without quotes",
            Some("a boolean") => ": write true or false without quotes",
            _ => "",
        };
        return format!("{before}text{after}{remedy}");
    }
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((unknown, known)) = quoted.split_first().filter(|_| message.starts_with("unknown field")) else {
        return message.to_owned();
    };
    let nearest = known.iter().map(|key| (strsim::damerau_levenshtein(unknown, key), key)).min();
    match nearest {
        Some((distance, key)) if distance <= 3 => format!("unknown key `{unknown}`: did you mean `{key}`?"),
        _ => format!("unknown key `{unknown}`: known here are {}", known.join(", ")),
    }
}
