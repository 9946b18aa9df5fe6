//! The manual of the daemon, from the definition of its command line.

use std::io::Write;
use std::path::Path;

use clap::CommandFactory;
use lifeboat_engine::base::{Class, Context, Result};

use crate::cli::Cli;

/// What for, and the command line.
const EXAMPLES: [(&str, &str); 4] = [
    ("Run as a daemon; the unit does this", "lifeboatd \\-\\-config /etc/lifeboat/lifeboat.toml"),
    ("Tell all that is wrong with the configuration", "lifeboatd \\-\\-check\\-config"),
    ("Back one dataset up, without the daemon", "lifeboatd \\-\\-once shop"),
    ("What runs, what waits, what is wrong?", "lifeboatd status"),
];

/// Writes the page below `directory`.
///
/// # Errors
/// [`Class::Storage`].
pub(crate) fn write(directory: &Path) -> Result<()> {
    let write = || {
        let folder = directory.join("man1");
        std::fs::create_dir_all(&folder)?;
        let mut page = Vec::new();
        let program = Cli::command().disable_help_subcommand(true);
        clap_mangen::generate_to(program.clone(), &folder)?;
        clap_mangen::Man::new(program).render(&mut page)?;
        writeln!(page, ".SH EXAMPLES")?;
        for (what, line) in EXAMPLES {
            writeln!(page, ".TP\n{what}:\n.B {line}")?;
        }
        writeln!(page, ".SH SEE ALSO\n.BR lifeboat (1),\n.BR lifeboat.toml (5)")?;
        std::fs::write(folder.join("lifeboatd.1"), page)
    };
    write().context(Class::Storage, || format!("cannot write the manual into {}", directory.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_page_has_examples_that_are_command_lines() {
        let place = tempfile::tempdir().unwrap();
        write(place.path()).unwrap();
        let page = std::fs::read_to_string(place.path().join("man1/lifeboatd.1")).unwrap();
        for (_, line) in EXAMPLES {
            assert!(page.contains(line), "{line}");
            let line = line.replace("\\-", "-");
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
