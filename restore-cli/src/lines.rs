//! Lines as they are given: in the argument itself, on standard input, or in a file; and how they
//! are printed. None of them is secret.

use std::fmt;
use std::io::Read;

use lifeboat_engine::format::line::MAX_LINE_BYTES;
use lifeboat_engine::{Error, Result};
use serde::Serialize;

/// The text that an argument gives: itself, standard input for `-`, a file for `@FILE`.
///
/// # Errors
/// It cannot be read, or is too long.
pub(crate) fn given(argument: &str) -> Result<String> {
    let unread = |error: std::io::Error| Error::usage(format!("cannot read a line from {argument}")).because(error);
    let mut text = String::new();
    let limit = MAX_LINE_BYTES as u64 + 1;
    if argument == "-" {
        std::io::stdin().take(limit).read_to_string(&mut text).map_err(unread)?;
    } else if let Some(path) = argument.strip_prefix('@') {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text)).map_err(unread)?;
    } else {
        argument.clone_into(&mut text);
    }
    if text.len() as u64 >= limit {
        return Err(
            Error::usage("a line is longer than any can be").hint("pass what Lifeboat printed, and nothing else")
        );
    }
    Ok(text)
}

/// One line, which is the whole output.
#[derive(Serialize)]
pub(crate) struct OneLine {
    pub(crate) line: String,
}

impl fmt::Display for OneLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}
