//! The engines that Lifeboat knows: the one list.

use std::ffi::OsString;
use std::path::PathBuf;

use lifeboat_base::settings::{Section, SettingsReader};

use crate::database::{Database, FoundHere, Look, Source, ToolFound, WorkContext};
use crate::tool::environment::ToolEnvironment;
use crate::{command, file, files, mariadb, postgres, redis, sqlite};

/// Every engine, in the order in which they are named to people.
pub const ENGINES: [&dyn Database; 7] = [
    &postgres::Postgres,
    &mariadb::MariaDb,
    &redis::RedisDb,
    &sqlite::Sqlite,
    &files::Files,
    &file::File,
    &command::Command,
];

/// The engine of this kind; `None` if this version does not know it.
#[must_use]
pub fn find(kind: &str) -> Option<&'static dyn Database> {
    ENGINES.into_iter().find(|engine| engine.kind() == kind)
}

/// Validates a `[dataset.source]` table by its kind. `None` if the table cannot be used; the
/// reader's findings say why.
pub fn source(section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<Box<dyn Source>> {
    let kind = section.kind().get_ref().clone();
    let Some(engine) = find(&kind) else {
        reader.findings.add(
            section.place(),
            format!("there are no sources of kind `{kind}`"),
            format!("use {}", kinds()),
        );
        return None;
    };
    let mut foreign = false;
    for (key, span) in section.keys() {
        let of_another = || ENGINES.iter().any(|other| other.keys().contains(&key.as_str()));
        if !engine.keys().contains(&key.as_str()) && of_another() {
            let problem = format!("`{key}` does not belong to kind = \"{kind}\"");
            reader.findings.add(span, problem, "remove it, or correct the kind");
            foreign = true;
        }
    }
    if foreign { None } else { engine.source(section, reader) }
}

/// The client tools of all engines on this machine. Those in `directories` come first.
pub async fn client_tools(directories: &[PathBuf], cx: &WorkContext) -> Vec<ToolFound> {
    let mut found = Vec::new();
    for engine in ENGINES {
        found.extend(engine.client_tools(directories, cx).await);
    }
    found
}

/// The databases of all engines on this machine, in the order of the engines, and what could not be
/// looked at.
pub async fn find_here(look: &Look, cx: &WorkContext) -> FoundHere {
    let mut found = FoundHere::default();
    for place in &look.places {
        if let Err(error) = std::fs::read_dir(place) {
            found.cannot_reach(place.display(), error);
        }
    }
    for engine in ENGINES {
        let FoundHere { sources, unreached } = engine.find_here(look, cx).await;
        found.sources.extend(sources);
        // Each place once, whoever of them looked.
        let (known, new) = (&mut found.unreached, unreached);
        known.extend(new.into_iter().filter(|told| !known.contains(told)).collect::<Vec<_>>());
    }
    found
}

/// What client tools of any engine inherit from the program's environment. `variable` looks up a
/// variable.
pub fn tool_environment(variable: impl Fn(&str) -> Option<OsString>) -> ToolEnvironment {
    let of_engines = ENGINES.iter().flat_map(|engine| engine.inherited_variables());
    ToolEnvironment::inherit(of_engines.copied(), variable)
}

/// `postgres, sqlite, … or command`.
fn kinds() -> String {
    let kinds: Vec<&str> = ENGINES.iter().map(|engine| engine.kind()).collect();
    match kinds.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => kinds.concat(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use lifeboat_base::settings::Surroundings;
    use toml::de::DeTable;

    use super::*;

    /// What validation says of this `[source]` table.
    fn said(table: &str) -> String {
        let surroundings = Surroundings::default();
        let mut reader = SettingsReader::new(Path::new("x.toml"), table, &surroundings, PathBuf::from("/keys"));
        let Ok(mut document) = DeTable::parse(table) else { return "not TOML".to_owned() };
        let section = Section::take(document.get_mut(), 0..0, "source", &mut reader);
        let parsed = section.and_then(|section| source(section, &mut reader)).is_some();
        match reader.findings.into_error() {
            Some(error) => error.message().to_owned(),
            None => format!("passed: {parsed}"),
        }
    }

    #[test]
    fn every_engine_has_a_kind_of_its_own_and_is_found_by_it() {
        let kinds: BTreeSet<&str> = ENGINES.iter().map(|engine| engine.kind()).collect();
        assert_eq!(kinds.len(), ENGINES.len());
        for engine in ENGINES {
            assert_eq!(find(engine.kind()).map(Database::kind), Some(engine.kind()));
        }
        assert!(find("oracle").is_none());
    }

    #[test]
    fn every_engine_names_exactly_the_keys_that_its_table_takes() {
        for engine in ENGINES {
            let message = said(&format!("[source]\nkind = \"{}\"\nnonsense-of-a-key = 1\n", engine.kind()));
            let known: BTreeSet<&str> =
                message.rsplit("known here are ").next().unwrap_or_default().split(", ").map(str::trim).collect();
            assert_eq!(known, engine.keys().iter().copied().collect(), "{}: {message}", engine.kind());
        }
    }

    #[test]
    fn a_key_of_another_kind_is_told_with_its_line() {
        let message = said("[source]\nkind = \"sqlite\"\npath = \"/x\"\njobs = 2\n");
        assert_eq!(message, "x.toml:4: `jobs` does not belong to kind = \"sqlite\": remove it, or correct the kind");
        assert!(
            said("[source]\nkind = \"oracle\"\n")
                .contains("use postgres, mariadb, redis, sqlite, files, file or command")
        );
        assert_eq!(said("[source]\nkind = \"sqlite\"\npath = \"/x\"\n"), "passed: true");
    }
}
