//! Every command line of this program in the documents is one that it takes.

use clap::error::ErrorKind;

use crate::cli;

mod commands;

const DOCUMENTS: [(&str, &str); 4] = [
    ("README.md", include_str!("../../README.md")),
    ("OPERATIONS.md", include_str!("../../OPERATIONS.md")),
    ("SECURITY.md", include_str!("../../SECURITY.md")),
    ("docs/src/tutorial.md", include_str!("../../docs/src/tutorial.md")),
];

/// Fewer than these would mean that they are not found any more: as many as there are, about.
const EXPECTED_COMMANDS: usize = 30;

/// What is wrong with a command line, where anything is. One that is only mentioned may lack
/// arguments.
fn problem(shown: &commands::Shown) -> Option<String> {
    let error = cli::parse(shown.words.iter().map(Into::into)).err()?;
    let is_cut_short = matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    let is_an_answer = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    (!is_an_answer && (shown.whole || !is_cut_short)).then(|| format!("{}: {error}", shown.words.join(" ")))
}

#[test]
fn every_command_in_the_documents_is_one_that_this_program_takes() {
    let mut count = 0;
    for (document, text) in DOCUMENTS {
        for shown in commands::of(text, "lifeboat") {
            count += 1;
            if let Some(problem) = problem(&shown) {
                panic!("{document}:{}: {problem}", shown.line);
            }
        }
    }
    assert!(count >= EXPECTED_COMMANDS, "only {count} were found");
}

#[test]
fn a_command_that_is_not_there_or_lacks_arguments_is_noticed() {
    let problem_of = |document: &str| commands::of(document, "lifeboat").iter().find_map(problem);
    for document in
        ["`lifeboat lsit`", "`lifeboat list --al`", "```\nlifeboat restore shop\n```", "```\nsudo lifeboat\n```"]
    {
        assert!(problem_of(document).is_some(), "{document}");
    }
    for document in
        ["`lifeboat restore`", "`lifeboat restore … --replica ireland`", "```\nlifeboat list --json | jq .\n```"]
    {
        assert_eq!(problem_of(document), None, "{document}");
    }
}
