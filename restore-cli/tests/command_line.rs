//! The program as a shell meets it: exit codes, which stream says what, and what it generates.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn lifeboat(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lifeboat"))
        .args(arguments)
        .env_remove("LIFEBOAT_CONFIG")
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_goes_to_standard_output_and_explains_the_exit_codes() {
    for arguments in [&["--help"][..], &["drill", "--help"], &["help", "restore"]] {
        let output = lifeboat(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(stdout(&output).contains("8  everything worked, but outside the objectives"), "{}", stdout(&output));
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn a_wrong_command_line_is_exit_2_with_nothing_on_standard_output() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["restore", "shop"],
        &["restore", "shop", "--to-directory", "/x", "--stdout", "y"],
        &["restore", "shop", "--to-directory", "/x", "--to-postgres", "service:x"],
        &["restore", "shop", "--to-postgres", "service:x", "--stdout", "y"],
        &["restore", "shop", "--to-postgres", "service:x", "--sync"],
        &["restore", "shop", "--stdout", "y", "--sync"],
        &["list", "--directory", "/a", "--s3-bucket", "b", "--s3-region", "eu"],
        &["list", "--s3-endpoint", "https://s3.example"],
        &["list", "--directory", "/a", "--replica", "north"],
        &["prune", "--directory", "/a"],
        &["init", "--directory", "/a"],
        &["restore", "shop", "--stdout", "globals", "--json"],
        &["restore", "shop", "--to-postgres", "service:x", "--database", "a", "--database", "b", "--rename", "c"],
    ] {
        let output = lifeboat(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_missing_configuration_is_exit_3_and_names_the_way_out() {
    let output = lifeboat(&["list", "--config", "/nonexistent/lifeboat.toml"]);
    assert_eq!(output.status.code(), Some(3));
    let said = stderr(&output);
    assert!(said.starts_with("error: there is no configuration /nonexistent/lifeboat.toml\n"), "{said}");
    assert!(said.contains("  next: ") && said.contains("--directory"), "{said}");
}

#[test]
fn the_help_of_restore_shows_every_target_and_that_one_is_required() {
    let help = stdout(&lifeboat(&["restore", "--help"]));
    assert!(
        help.contains(
            "<--to-directory <DIR>|--stdout [<STREAM>]|--to-file <FILE>|--to-postgres <SERVER>|--to-mariadb <SERVER>|--to-redis <SERVER>>"
        ),
        "{help}"
    );
    assert!(help.contains("A postgres server: postgresql://user@host/database"), "{help}");
    let refused = stderr(&lifeboat(&["restore", "shop"]));
    assert!(refused.contains("--to-postgres <SERVER>"), "{refused}");
    let unsynced = stderr(&lifeboat(&["restore", "shop", "--to-postgres", "service:x", "--sync"]));
    assert!(unsynced.starts_with("error: --sync works with --to-directory only\n  next: "), "{unsynced}");
    for (flags, why) in [
        (&["--stdout"][..], "--stdout needs the name of a stream, --table or --schema-only"),
        (&["--to-file", "x"], "--to-file needs --table or --schema-only"),
        (&["--table", "a.b", "--stdout", "globals"], "--stdout takes no STREAM"),
        (&["--table", "a.b", "--table", "a.c", "--to-file", "x"], "one file holds the rows of one table"),
        (&["--table", "a.b", "--to-directory", "x"], "cannot be used with"),
        (&["--table", "a.b", "--format", "csv", "--to-postgres", "service:x"], "--format goes with"),
        (&["--format", "csv", "--stdout", "globals"], "required arguments were not provided"),
        (&["--table", "a.b", "--stdout", "--database", "a", "--database", "b"], "is of one database"),
        (&["--schema-only", "--to-file", "x", "--database", "a", "--database", "b"], "is of one database"),
        (&["--schema-only", "--stdout", "--database", "a", "--database", "b"], "is of one database"),
    ] {
        let refused = lifeboat(&[&["restore", "shop"], flags].concat());
        assert_eq!(refused.status.code(), Some(2), "{flags:?}");
        assert!(stderr(&refused).contains(why), "{flags:?}: {}", stderr(&refused));
    }
}

#[test]
fn a_page_of_a_drill_is_refused_with_the_command_that_writes_it() {
    for words in [&["drill", "shop", "--html", "x"][..], &["drill", "--due", "--html", "x"]] {
        let refused = lifeboat(words);
        assert_eq!(refused.status.code(), Some(2), "{words:?}: {}", stderr(&refused));
        assert!(stderr(&refused).contains("--region-loss"), "{words:?}: {}", stderr(&refused));
    }
    let refused = stderr(&lifeboat(&["drill", "shop", "--html", "x"]));
    assert!(refused.contains("`lifeboat report shop --html FILE`"), "{refused}");
    for (file, why) in [("missing/o.csv", "missing does not exist"), (".", "it is a directory")] {
        let refused = lifeboat(&["restore", "shop", "--table", "a.b", "--to-file", file]);
        assert_eq!(refused.status.code(), Some(2), "{file}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(why) && stderr(&refused).contains("next: "), "{}", stderr(&refused));
    }
}

#[test]
fn errors_are_json_with_json_also_those_of_the_command_line() {
    for (arguments, class, code) in [
        (&["--json", "list", "--config", "/nonexistent/lifeboat.toml"][..], "configuration", 3),
        (&["restore", "shop", "--json"], "usage", 2),
        (&["list", "--s3-bucket", "b", "--json"], "usage", 2),
    ] {
        let output = lifeboat(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(output.stdout.is_empty());
        let said = stderr(&output);
        let last: Value = serde_json::from_str(said.lines().last().unwrap()).expect(&said);
        let error = &last["error"];
        assert_eq!(error["class"], class);
        assert_eq!(error["exit_code"], code);
        assert!(error["message"].is_string() && error["causes"].is_array() && error["hint"].is_string(), "{said}");
    }
}

#[test]
fn a_password_on_the_command_line_is_refused_and_not_repeated() {
    let output = lifeboat(&["restore", "shop", "--to-postgres", "postgresql://shop:hunter2@db/shop"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("--password-file"), "{said}");
    assert!(!said.contains("hunter2"), "the shell knows it, the log of a job must not: {said}");
}

#[test]
fn a_server_elsewhere_must_prove_who_it_is() {
    let restore = ["restore", "shop", "--to-postgres", "postgresql://shop@db.example.com/shop?sslmode=require"];
    let refused = lifeboat(&restore);
    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    assert!(said.contains("prove that the server is db.example.com") && said.contains("verify-full"), "{said}");
    // With the flag it goes on, to the configuration that is not there.
    let said = stderr(&lifeboat(&[&restore[..], &["--allow-unverified-tls"]].concat()));
    assert!(!said.contains("prove that the server"), "{said}");
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = lifeboat(&["completions", shell]);
        assert!(output.status.success());
        assert!(stdout(&output).contains("to-postgres"), "{shell}");
    }
    let script = stdout(&lifeboat(&["completions", "bash"]));
    let mut bash = Command::new("bash").args(["-n"]).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut bash.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());
}

#[test]
fn the_manual_has_a_page_for_every_command_and_names_the_exit_codes() {
    let page = stdout(&lifeboat(&["man"]));
    assert!(page.contains(".TH lifeboat 1") && page.contains("Exit codes"), "{page}");
    let place = tempfile::tempdir().unwrap();
    let manuals = place.path().join("share");
    assert!(lifeboat(&["man", manuals.to_str().unwrap()]).status.success());
    assert!(manuals.join("man5/lifeboat.toml.5").is_file());
    let directory = manuals.join("man1");
    for page in ["lifeboat.1", "lifeboat-restore.1", "lifeboat-drill.1", "lifeboat-completions.1"] {
        assert!(directory.join(page).is_file(), "{page}");
    }
    let restore = std::fs::read_to_string(directory.join("lifeboat-restore.1")).unwrap();
    assert!(restore.contains("\\fB\\-\\-to\\-postgres\\fR"), "{restore}");
    let into_file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml/man1");
    assert_eq!(lifeboat(&["man", into_file.to_str().unwrap()]).status.code(), Some(5));
}
