//! Questions to a person at a terminal. A secret is not echoed, and the terminal is as before when
//! the question has ended, however it ended.

use std::io;

use lifeboat_engine::config::Secret;
use lifeboat_engine::{Error, Result};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::session::Session;

/// The answer to a question, without blanks around it.
///
/// # Errors
/// There is nobody to ask, or the question was cancelled.
pub(super) async fn line(session: &Session, question: &str) -> Result<String> {
    let (out, question) = (session.out, question.to_owned());
    let answer = tokio::task::spawn_blocking(move || out.ask_for(&question));
    let answer = async { answer.await.map_err(|error| Error::failed("cannot ask").because(error)) };
    session.cancellable("the question", answer).await?.map(|answer| answer.trim().to_owned())
}

/// The answer to a question, which is not shown while it is typed.
///
/// # Errors
/// As [`line()`].
pub(super) async fn secret(session: &Session, question: &str) -> Result<Secret> {
    let terminal = Silent::begin()?;
    let answer = line(session, question).await;
    drop(terminal);
    session.out.plain_error("");
    answer.map(|answer| Secret::new(answer.into_bytes()))
}

/// Whether the answer is yes, which nothing means, too. Whoever answers anything else is asked
/// again.
///
/// # Errors
/// As [`line()`].
pub(super) async fn agrees(session: &Session, question: &str) -> Result<bool> {
    loop {
        if let Some(agrees) = meant(&line(session, &format!("{question} [Y/n] ")).await?) {
            return Ok(agrees);
        }
        session.out.plain_error("Answer y or n.");
    }
}

fn meant(answer: &str) -> Option<bool> {
    match answer.to_lowercase().as_str() {
        "" | "y" | "yes" => Some(true),
        "n" | "no" => Some(false),
        _ => None,
    }
}

/// The terminal does not echo while this lives.
struct Silent(Termios);

impl Silent {
    fn begin() -> Result<Self> {
        let failed = |error| Error::failed("the terminal cannot be told not to show a secret").because(error);
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Whoever sits there sees it if it does not work.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_means_yes() {
        for (answer, agrees) in
            [("", Some(true)), ("Y", Some(true)), ("yes", Some(true)), ("N", Some(false)), ("no", Some(false))]
        {
            assert_eq!(meant(answer), agrees, "{answer}");
        }
        for strange in ["nein", "q", "skip it", "yes, but not this", "\u{1b}"] {
            assert_eq!(meant(strange), None, "{strange}");
        }
    }
}
