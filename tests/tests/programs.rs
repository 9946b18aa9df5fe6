//! The harness must not let a hanging or stubborn program hang a test, nor kill one that is
//! cleaning up.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use lifeboat_tests::programs::{run, run_until};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(60);

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script);
    command
}

#[tokio::test]
async fn exit_code_and_both_outputs_are_kept_however_long() {
    let script = "seq 100000; echo problem >&2; exit 6";
    let output = run(&mut shell(script), LONG).await.unwrap();
    assert_eq!(output.code(), Some(6));
    assert_eq!(output.stdout.lines().count(), 100_000);
    assert_eq!(output.stderr, "problem\n");
}

#[tokio::test]
async fn program_beyond_its_deadline_is_an_error() {
    let begun = Instant::now();
    let error = run(&mut shell("exec sleep 60"), Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(begun.elapsed() < LONG / 2);
}

#[tokio::test]
async fn stopped_program_is_given_time_to_clean_up() {
    let stop = CancellationToken::new();
    let later = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        later.cancel();
    });
    let script = "trap 'sleep 1; echo cleaned up; exit 1' TERM; while :; do sleep 0.1; done";
    let output = run_until(&mut shell(script), LONG, &stop).await.unwrap();
    assert_eq!((output.code(), output.stdout.as_str()), (Some(1), "cleaned up\n"));
}

#[tokio::test]
async fn program_that_does_not_exist_is_named() {
    let error = run(&mut Command::new("/nonexistent/lifeboat"), LONG).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/lifeboat"), "{error}");
}
