//! The tutorial, followed as a person does: in one shell, one block after the other.

use std::fmt::Write as _;

use crate::{DEADLINE, Machines};
use lifeboat_tests::programs::{self, run};
use tokio::process::Command;

const PAGE: &str = include_str!("../../../docs/src/tutorial.md");

/// Fewer would mean that blocks are not found any more.
const EXPECTED_BLOCKS: usize = 8;

/// A block of commands, and what the page says that they print.
struct Step<'a> {
    commands: &'a str,
    printed: Vec<&'a str>,
}

/// The blocks of the page. One without a language has commands, one of `text` what they print.
fn steps(page: &str) -> Vec<Step<'_>> {
    let mut found: Vec<Step<'_>> = Vec::new();
    for block in page.split("```").skip(1).step_by(2) {
        let (language, text) = block.split_once('\n').unwrap();
        match language {
            "" => found.push(Step { commands: text, printed: Vec::new() }),
            "text" => found.last_mut().unwrap().printed.extend(text.lines().filter(|line| !line.trim().is_empty())),
            other => panic!("a block of `{other}` is neither commands nor what they print"),
        }
    }
    found
}

/// A line without what differs from run to run: numbers, ids, units, and how columns are aligned.
fn shape(line: &str) -> String {
    let units = ["ms", "s", "min", "h", "B", "KiB", "MiB"];
    let mut words: Vec<&str> = Vec::new();
    for word in line.split_whitespace() {
        let bare = word.trim_end_matches([',', '.']);
        if words.last() == Some(&"#") && units.contains(&bare) {
            continue;
        }
        words.push(if word.contains(|letter: char| letter.is_ascii_digit()) && !word.contains('|') {
            "#"
        } else {
            word
        });
    }
    words.join(" ")
}

/// The first line that a page says is printed and is not, after those before it.
fn missing<'a>(said: &[&'a str], printed: &str) -> Option<&'a str> {
    let mut lines = printed.lines().map(shape);
    said.iter().copied().find(|line| !lines.any(|printed| printed == shape(line)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_works_and_prints_what_it_says() {
    let machines = Machines::new();
    let steps = steps(PAGE);
    assert!(steps.len() >= EXPECTED_BLOCKS, "only {} blocks were found", steps.len());
    let mut script = String::from("set -eu; exec 2>&1\n");
    for step in &steps {
        // Not in the page, so nothing that it prints is taken for the end of a step.
        writeln!(script, "{}\nprintf '\\n=== step ended\\n'", step.commands).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).current_dir(machines.path(""));
    shell.env("PATH", format!("{}:{path}", programs::directory().display())).env_remove("LIFEBOAT_CONFIG");
    let done = run(&mut shell, DEADLINE).await.unwrap();
    assert!(done.status.success(), "{done}");
    let printed: Vec<&str> = done.stdout.split("\n=== step ended\n").collect();
    assert_eq!(printed.len(), steps.len() + 1, "{done}");
    for (step, printed) in steps.iter().zip(printed) {
        if let Some(line) = missing(&step.printed, printed) {
            panic!("the tutorial says that this prints\n{line}\n{}but it prints\n{printed}", step.commands);
        }
    }
    // What the page counts up at its end is there: all of the wiki, in both replicas.
    let list = machines.ok("tutorial/lifeboat-trial/host", &["--json", "list", "wiki"]).await;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let snapshots = list["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), 2, "{list}");
    assert!(snapshots.iter().all(|snapshot| snapshot["replicas"].as_array().unwrap().len() == 2), "{list}");
}

#[test]
fn a_line_that_is_not_printed_is_noticed() {
    let printed = " note: x\n SNAPSHOT  SIZE\n 2026T1-ab  1.2 KiB\nHome|Welcome\n";
    assert_eq!(missing(&["SNAPSHOT SIZE", "2025T9-cd 836 B", "Home|Welcome"], printed), None);
    assert_eq!(missing(&["2025T9-cd 836 B", "SNAPSHOT SIZE"], printed), Some("SNAPSHOT SIZE"));
    assert_eq!(missing(&["Home|Goodbye"], printed), Some("Home|Goodbye"));
}
