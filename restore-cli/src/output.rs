//! The one place that writes to standard output and standard error.
//!
//! Standard output carries results only: text for people, or exactly one JSON value with `--json`.
//! Everything else (notes, warnings, questions, errors, logs) goes to standard error; with `--json`
//! the last line there is the error.
//!
//! Whatever a terminal would obey is escaped, since names and errors of others are shown here.

use std::fmt::Display;
use std::io::{self, BufRead, IsTerminal, Write};

use lifeboat_engine::base::escape;
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;
use serde_json::json;

/// Where results, notes and errors go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    /// As the flags `--json` and `--quiet` say.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether results are JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// The result of a command. Call it once: two JSON values cannot be parsed as one.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub(crate) fn result<T: Serialize + Display>(self, value: &T) -> Result<()> {
        if !self.json {
            return self.text(value);
        }
        let text =
            serde_json::to_string_pretty(value).map_err(|error| Error::failed("cannot write JSON").because(error))?;
        write_out(format!("{}\n", escape::json(&text)).as_bytes())
    }

    /// Text for people on standard output; nothing with `--json`.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub(crate) fn text(self, text: impl Display) -> Result<()> {
        if self.json { Ok(()) } else { write_out(format!("{}\n", escape::lines(&text.to_string())).as_bytes()) }
    }

    /// Begins a new page where somebody looks at a terminal.
    pub(crate) fn clear_screen(self) {
        if !self.json && io::stdout().is_terminal() {
            // Whatever is wrong with the terminal, the page itself tells.
            let _ = write_out(b"\x1b[2J\x1b[H");
        }
    }

    /// Bytes on standard output, whatever the flags: a manual, a completion script.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<()> {
        write_out(bytes)
    }

    /// What a person should know beside the result.
    pub(crate) fn note(self, note: impl Display) {
        if !self.json && !self.quiet {
            write_err(&continued("note: ", &note.to_string()));
        }
    }

    /// What a person is asked about, or compares with what another machine shows. `--quiet`
    /// does not hide it.
    pub(crate) fn asked_about(self, text: impl Display) {
        if self.json {
            write_err(&escape::json(&json!({ "note": text.to_string() }).to_string()));
        } else {
            write_err(&continued("note: ", &text.to_string()));
        }
    }

    /// What a person must know beside the result; `--quiet` does not hide it.
    pub(crate) fn warning(self, warning: impl Display) {
        if self.json {
            write_err(&escape::json(&json!({ "warning": warning.to_string() }).to_string()));
        } else {
            write_err(&continued("warning: ", &warning.to_string()));
        }
    }

    /// What failed, why, and what to do next.
    pub(crate) fn error(self, error: &Error) {
        write_err(&if self.json {
            escape::json(&json_error(error).to_string()).into_owned()
        } else {
            human_error(error)
        });
    }

    /// Shows lines of `text` on standard error.
    pub(crate) fn plain_error(self, text: &str) {
        write_err(&escape::lines(text.trim_end()));
    }

    /// Whether somebody can be asked.
    pub(crate) fn can_ask(self) -> bool {
        !self.json && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks for something, and waits for a line.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(crate) fn ask_for(self, question: &str) -> Result<String> {
        let failed = |error| Error::failed("the answer cannot be read").because(error);
        let (mut stderr, question) = (io::stderr().lock(), escape::line(question));
        write!(stderr, "{question}").and_then(|()| stderr.flush()).map_err(failed)?;
        let mut answer = String::new();
        match io::stdin().lock().read_line(&mut answer).map_err(failed)? {
            0 => Err(Error::failed("the answer cannot be read").because("the terminal was closed")),
            _ => Ok(answer),
        }
    }

    /// Asks, and waits for a line. Only `word` means yes.
    pub(crate) fn ask(self, question: &str, word: &str) -> bool {
        let (mut stderr, question) = (io::stderr().lock(), escape::line(question));
        let asked = write!(stderr, "{question} Type `{word}` to continue: ").and_then(|()| stderr.flush());
        let mut answer = String::new();
        asked.and_then(|()| io::stdin().lock().read_line(&mut answer)).is_ok() && answer.trim() == word
    }
}

fn write_out(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // Whoever reads has seen enough, as in `lifeboat list | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Error::new(Class::Failed, "cannot write to standard output").because(error)),
    }
}

fn write_err(line: &str) {
    // Nobody is left to tell.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

fn causes(error: &Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes
}

/// `text` behind its `label`. Its other lines are indented, so that none of them reads as a line of
/// ours.
fn continued(label: &str, text: &str) -> String {
    let indent = format!("\n{}", " ".repeat(label.len()));
    format!("{label}{}", escape::lines(text.trim_end()).replace('\n', &indent))
}

fn human_error(error: &Error) -> String {
    let mut text = continued("error: ", error.message());
    for cause in causes(error) {
        text.push_str(&format!("\n{}", continued("  why:  ", &cause)));
    }
    if let Some(hint) = error.hint_text() {
        text.push_str(&format!("\n{}", continued("  next: ", hint)));
    }
    text
}

fn json_error(error: &Error) -> serde_json::Value {
    json!({ "error": {
        "class": error.class().as_str(),
        "message": error.message(),
        "causes": causes(error),
        "hint": error.hint_text(),
        "exit_code": error.class().exit_code(),
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Error {
        Error::storage("replica north: cannot list datasets/")
            .because(io::Error::other("connection refused\nby 10.0.0.1"))
            .hint("run `lifeboat check`")
            .within("dataset shop cannot be read")
    }

    #[test]
    fn people_read_what_why_and_what_next() {
        assert_eq!(
            human_error(&example()),
            "error: dataset shop cannot be read\n  why:  replica north: cannot list datasets/\n  why:  connection refused\n        by 10.0.0.1\n  next: run `lifeboat check`"
        );
        assert_eq!(human_error(&Error::failed("it broke")), "error: it broke");
        let hostile = Error::failed("no \u{1b}[2J\nerror: forged").hint("\u{202e}\u{9b}");
        assert_eq!(human_error(&hostile), "error: no \\u{1b}[2J\n       error: forged\n  next: \\u{202e}\\u{9b}");
    }

    #[test]
    fn scripts_read_class_and_exit_code() {
        assert_eq!(
            json_error(&example()),
            json!({ "error": {
                "class": "storage",
                "message": "dataset shop cannot be read",
                "causes": ["replica north: cannot list datasets/", "connection refused\nby 10.0.0.1"],
                "hint": "run `lifeboat check`",
                "exit_code": 5,
            }})
        );
        assert_eq!(json_error(&Error::failed("x"))["error"]["hint"], serde_json::Value::Null);
    }
}
