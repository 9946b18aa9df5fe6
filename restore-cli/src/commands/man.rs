//! `man`: the manual. Pages of commands come from the definition of the command line, that of the
//! configuration is the annotated example.

use std::io::Write;
use std::path::{Path, PathBuf};

use lifeboat_engine::base::Context;
use lifeboat_engine::{Class, Result};

use super::man_examples as examples;
use crate::session::Session;

const ANNOTATED: &str = include_str!("../../../config/lifeboat.toml");
const SMALLEST: &str = include_str!("../../../config/minimal.toml");
const DRILL_HOST: &str = include_str!("../../../config/drill-host.toml");

/// Print the manual, or write its pages into a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of manuals, such as /usr/local/share/man; `man1` and `man5` in it are created
    /// if missing
    directory: Option<PathBuf>,
}

/// `program` is the whole command line.
pub(crate) fn run(args: &Args, session: &Session, program: clap::Command) -> Result<()> {
    let Some(directory) = &args.directory else {
        let page = page(&program, "").context(Class::Failed, || "cannot write the manual")?;
        return session.out.bytes(&page);
    };
    write(directory, program)
        .context(Class::Storage, || format!("cannot write the manual into {}", directory.display()))
}

fn write(directory: &Path, program: clap::Command) -> std::io::Result<()> {
    let (commands, files) = (directory.join("man1"), directory.join("man5"));
    std::fs::create_dir_all(&commands)?;
    std::fs::create_dir_all(&files)?;
    std::fs::write(files.join("lifeboat.toml.5"), configuration()?)?;
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let mut all = vec![(String::new(), program)];
    while let Some((words, command)) = all.pop() {
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        let inner = command.get_subcommands();
        all.extend(inner.map(|inner| (format!("{words} {}", inner.get_name()).trim().to_owned(), inner.clone())));
        std::fs::write(commands.join(format!("{name}.1")), page(&command, &words)?)?;
    }
    Ok(())
}

/// The page of a command, with its examples.
fn page(command: &clap::Command, words: &str) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    let examples = examples::of(words);
    if !examples.is_empty() {
        writeln!(page, ".SH EXAMPLES")?;
    }
    for (what, line) in examples {
        writeln!(page, ".TP\n{}:\n.B {}", roff(what), roff(line))?;
    }
    Ok(page)
}

/// The page of the configuration.
fn configuration() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    writeln!(
        page,
        ".TH lifeboat.toml 5\n.SH NAME\nlifeboat.toml \\- configuration of lifeboatd and lifeboat\n.SH DESCRIPTION\n\
         /etc/lifeboat/lifeboat.toml, or the file that \\-\\-config names. It is written in TOML. Times take a unit \
         (s, m, h, d, w), and so do sizes (KiB, MiB, GiB). \"credential:NAME\" names a secret: a file that systemd \
         hands over, or a file of mode 0600 in the directory of keys. A key that is unknown is an error, and \
         \"lifeboatd \\-\\-check\\-config\" tells all that is wrong.\n\
         .PP\nThis file has every key. What begins with # and no space is the default."
    )?;
    for (section, text) in [("KEYS", ANNOTATED), ("EXAMPLES", SMALLEST), ("EXAMPLE OF A DRILL HOST", DRILL_HOST)] {
        writeln!(page, ".SH {section}\n.nf")?;
        for line in text.lines() {
            writeln!(page, "{}", roff(line))?;
        }
        writeln!(page, ".fi")?;
    }
    writeln!(page, ".SH SEE ALSO\n.BR lifeboat (1),\n.BR lifeboatd (1)")?;
    Ok(page)
}

/// A line of text, as roff shows it as it is.
fn roff(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::cli;

    /// Splits as a shell does where only spaces are escaped.
    fn words(line: &str) -> Vec<std::ffi::OsString> {
        line.replace("\\ ", "\u{a0}").split(' ').map(|word| word.replace('\u{a0}', " ").into()).collect()
    }

    #[test]
    fn each_command_has_a_page_and_its_examples_are_command_lines() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), cli::command()).unwrap();
        let mut commands = vec![(String::new(), cli::command())];
        let mut seen = 0;
        while let Some((name, command)) = commands.pop() {
            let page = std::fs::read_to_string(place.path().join(format!("man1/lifeboat{}.1", name.replace(' ', "-"))));
            let page = page.unwrap_or_else(|error| panic!("{error}: no page of {name:?}"));
            for (_, line) in examples::of(name.trim()) {
                assert!(page.contains(&roff(line)), "{line}");
                let own = format!("{line} ").starts_with(&format!("lifeboat{name} "));
                assert!(own || line.contains("--json"), "{line} is of another command than{name}");
                if let Err(error) = cli::parse(words(line)) {
                    panic!("{line}: {error}");
                }
                seen += 1;
            }
            let has_verbs = command.get_subcommands().next().is_some();
            let is_plain = ["completions", "man"].contains(&name.trim());
            assert!(
                has_verbs
                    || is_plain
                    || page.contains(".SH EXAMPLES")
                    || name.starts_with(" owner")
                    || name.starts_with(" root")
                    || name.starts_with(" audit"),
                "{name} has no example"
            );
            commands
                .extend(command.get_subcommands().map(|inner| (format!("{name} {}", inner.get_name()), inner.clone())));
        }
        assert!(seen > 30, "{seen}");
        let file = std::fs::read_to_string(place.path().join("man5/lifeboat.toml.5")).unwrap();
        assert!(file.contains("state_directory") && !file.contains("\n.TOML"));
    }

    #[test]
    fn no_line_of_text_is_taken_for_a_request() {
        assert_eq!(roff(".x -y \\z"), "\\&.x \\-y \\ez");
        assert_eq!(roff("'a"), "\\&'a");
    }
}
