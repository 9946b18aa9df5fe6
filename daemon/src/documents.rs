//! Every command line of this program in the documents is one that it takes.

use clap::Parser;

use crate::cli::Cli;

#[path = "../../restore-cli/src/documents/commands.rs"]
mod commands;

const DOCUMENTS: [(&str, &str); 4] = [
    ("README.md", include_str!("../../README.md")),
    ("OPERATIONS.md", include_str!("../../OPERATIONS.md")),
    ("SECURITY.md", include_str!("../../SECURITY.md")),
    ("docs/src/tutorial.md", include_str!("../../docs/src/tutorial.md")),
];

/// Fewer than these would mean that they are not found any more: as many as there are, about.
const EXPECTED_COMMANDS: usize = 6;

/// What is wrong with a command line, where anything is. None of its arguments is required.
fn problem(shown: &commands::Shown) -> Option<String> {
    let error = Cli::try_parse_from(&shown.words).err()?;
    Some(format!("{}: {error}", shown.words.join(" ")))
}

#[test]
fn every_command_in_the_documents_is_one_that_this_program_takes() {
    let mut count = 0;
    for (document, text) in DOCUMENTS {
        for shown in commands::of(text, "lifeboatd") {
            count += 1;
            if let Some(problem) = problem(&shown) {
                panic!("{document}:{}: {problem}", shown.line);
            }
        }
    }
    assert!(count >= EXPECTED_COMMANDS, "only {count} were found");
}

#[test]
fn a_command_that_is_not_there_is_noticed() {
    let problem_of = |document: &str| commands::of(document, "lifeboatd").iter().find_map(problem);
    assert!(problem_of("`lifeboatd stauts`").is_some());
    assert!(problem_of("```\nsudo lifeboatd --check\n```").is_some());
    assert_eq!(problem_of("`lifeboatd --json --once`"), None);
}
