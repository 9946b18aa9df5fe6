//! The runbooks of OPERATIONS.md as tests take them: what is run is what a section shows.
//!
//! A section's commands are the lines of its code blocks, and the code spans of its sentences that
//! begin with a program. A test takes each of them by its text, in the order of the document, or
//! says why it cannot be run. So a command that is new or was changed fails the test of its section
//! until the test runs it. One that a section shows a second time counts as run. What stands below
//! "Alerts" is not taken.

use std::collections::BTreeMap;

use crate::tools;

/// What begins a command in a sentence. Other code spans are names, values and flags.
const PROGRAMS: [&str; 12] = [
    "age",
    "age-keygen",
    "journalctl",
    "lifeboat",
    "lifeboatd",
    "minisign",
    "pg_restore",
    "psql",
    "sudo",
    "systemctl",
    "systemd-run",
    "timedatectl",
];

/// One section, and which of its commands were taken.
pub struct Runbook {
    heading: String,
    /// In the order of the document. A command may stand in it more than once.
    commands: Vec<String>,
    taken: BTreeMap<String, Taken>,
}

#[derive(PartialEq, Eq)]
enum Taken {
    Run,
    /// With the reason.
    LeftOut(&'static str),
}

impl Runbook {
    /// The section of OPERATIONS.md with this heading, of its third level.
    ///
    /// # Panics
    /// There is none, or it shows no command.
    #[must_use]
    pub fn open(heading: &str) -> Self {
        let sections = sections();
        let text = sections.get(heading).unwrap_or_else(|| panic!("OPERATIONS.md has no section `{heading}`"));
        let commands = commands(text);
        assert!(!commands.is_empty(), "`{heading}` shows no command");
        Self { heading: heading.to_owned(), commands, taken: BTreeMap::new() }
    }

    /// What the section shows and a test cannot run, and why.
    ///
    /// # Panics
    /// The section does not show it.
    #[must_use]
    pub fn leaving_out(mut self, shown: &str, reason: &'static str) -> Self {
        self.must_show(shown);
        self.taken.insert(shown.to_owned(), Taken::LeftOut(reason));
        self
    }

    /// Takes a command that is run now.
    ///
    /// # Panics
    /// The section does not show it; it shows another one before it that was not taken.
    pub fn take(&mut self, shown: &str) {
        let at = self.must_show(shown);
        let before = self.commands[..at].iter().find(|command| !self.taken.contains_key(*command));
        assert!(before.is_none(), "`{}` is shown before `{shown}`: {}", before.unwrap_or(&String::new()), self.heading);
        if let Some(Taken::LeftOut(reason)) = self.taken.insert(shown.to_owned(), Taken::Run) {
            panic!("`{shown}` is run, though it is left out: {reason}");
        }
    }

    fn must_show(&self, shown: &str) -> usize {
        let at = self.commands.iter().position(|command| command == shown);
        at.unwrap_or_else(|| panic!("`{}` does not show `{shown}`, but {:#?}", self.heading, self.commands))
    }
}

impl Drop for Runbook {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let left: Vec<_> = self.commands.iter().filter(|command| !self.taken.contains_key(*command)).collect();
            assert!(left.is_empty(), "`{}` shows what was not run: {left:#?}", self.heading);
        }
    }
}

/// The headings below "Runbooks" of all sections that show a command.
///
/// # Panics
/// OPERATIONS.md cannot be read.
#[must_use]
pub fn headings() -> Vec<String> {
    sections().into_iter().filter(|(_, text)| !commands(text).is_empty()).map(|(heading, _)| heading).collect()
}

fn sections() -> BTreeMap<String, String> {
    let document = std::fs::read_to_string(tools::workspace().join("OPERATIONS.md"))
        .unwrap_or_else(|error| panic!("OPERATIONS.md: {error}"));
    let (_, runbooks) = document.split_once("\n## Runbooks\n").unwrap_or_else(|| panic!("no runbooks"));
    let runbooks = runbooks.split_once("\n## ").map_or(runbooks, |(runbooks, _)| runbooks);
    let parts = runbooks.split("\n### ").skip(1).map(|part| part.split_once('\n').unwrap_or((part, "")));
    parts.map(|(heading, text)| (heading.to_owned(), text.to_owned())).collect()
}

/// The commands of a section, in its order.
fn commands(section: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for (number, part) in section.split("```").enumerate() {
        if number % 2 == 1 {
            // The first line names the language.
            let block = part.split_once('\n').map_or("", |(_, block)| block);
            commands.extend(lines(block));
        } else {
            let spans = part.split('`').skip(1).step_by(2).map(in_one_line);
            commands.extend(spans.filter(|span| is_command(span)));
        }
    }
    commands
}

/// The lines of a code block. One that goes on, or whose pipe does, is one with the next.
fn lines(block: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun = String::new();
    for line in block.lines() {
        let (line, goes_on) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, line.ends_with('|')),
        };
        begun.push_str(line);
        begun.push(' ');
        if !goes_on {
            lines.push(in_one_line(&std::mem::take(&mut begun)));
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_command(span: &str) -> bool {
    let (program, has_words) = span.split_once(' ').map_or((span, false), |(program, _)| (program, true));
    // A program alone is its name, but for one that needs no words.
    PROGRAMS.contains(&program) && (has_words || program == "timedatectl")
}

#[test]
fn a_section_shows_lines_of_blocks_and_spans_that_begin_with_a_program() {
    let section = "Run `lifeboat\nlist shop`, see `vault.json` and `lifeboat`:\n\n   ```\n   a \\\n     b\n   c |\n     d\n\
                   ```\nThen `timedatectl`, with `--yes`.\n";
    assert_eq!(commands(section), ["lifeboat list shop", "a b", "c | d", "timedatectl"]);
}
