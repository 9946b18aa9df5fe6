//! Tells client tools where to connect: by an option file in memory, never by argv or environment.
//!
//! Tools read no other option file, so nobody's `my.cnf` changes what they do.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};
use zeroize::Zeroizing;

use super::address::MariaAddress;
use crate::database::WorkContext;
use crate::tool::process::{INHERITED_FILE, Invocation};
use crate::tool::secret_file::{password_line, secret_file};

/// Clients read lines of less than 4096 bytes.
const MAX_OPTION_BYTES: usize = 1500;
/// What every client gets: a row may be as long as a server can hold one. `mariadb-dump` does not
/// know all that `mariadb` knows, which reads one more group.
const COMMON_OPTIONS: &str =
    "[mysql]\nconnect-timeout=20\n[client]\ndefault-character-set=utf8mb4\nmax-allowed-packet=1G\n";

/// How to reach one server.
#[derive(Debug, Clone)]
pub(super) struct MariaConnection(Arc<File>);

impl MariaConnection {
    /// Writes the option file.
    ///
    /// # Errors
    /// A part of the address or the password cannot stand in an option file.
    pub(super) fn new(to: &MariaAddress, password: Option<&Secret>) -> Result<Self> {
        let mut options = String::new();
        for (name, value) in to.options() {
            options.push_str(&option(name, &value)?);
        }
        // Without one, a client would not ask for it: it has no terminal.
        let password = password.map(password_line).transpose()?.unwrap_or_default();
        let password = option("password", password)?;
        Ok(Self(Arc::new(secret_file(&[COMMON_OPTIONS.as_bytes(), options.as_bytes(), password.as_bytes()])?)))
    }

    /// A client with these arguments.
    pub(super) fn tool(&self, program: &Path, arguments: &[&str], cx: &WorkContext) -> Invocation {
        let first = format!("--defaults-file={INHERITED_FILE}");
        let all = std::iter::once(first.as_str()).chain(arguments.iter().copied());
        Invocation::new(program, all, cx).inherits(Arc::clone(&self.0))
    }
}

/// A line of an option file.
fn option(name: &str, value: &str) -> Result<Zeroizing<String>> {
    if value.contains(char::is_control) || value.len() > MAX_OPTION_BYTES {
        let hint = format!("use at most {MAX_OPTION_BYTES} bytes without control characters");
        return Err(
            Error::configuration(format!("the {name} for the MariaDB server cannot be given to clients")).hint(hint)
        );
    }
    let escaped = Zeroizing::new(value.replace('\\', "\\\\").replace('"', "\\\""));
    Ok(Zeroizing::new(format!("{name}=\"{}\"\n", *escaped)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_its_line() {
        assert_eq!(*option("password", "a\"b\\ #;'").unwrap(), "password=\"a\\\"b\\\\ #;'\"\n");
        for bad in ["a\nskip-grant", "a\0", &"x".repeat(MAX_OPTION_BYTES + 1)] {
            let error = option("password", bad).unwrap_err();
            assert!(!error.chain_and_hint().contains("skip-grant"), "{error}");
        }
    }
}
