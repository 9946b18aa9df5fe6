//! Which extensions of a database a server lacks, so that a load says so before the first row, and
//! names what to install.

use std::collections::BTreeSet;

use lifeboat_base::{Error, Result};

use super::contents::Contents;
use super::parts::DumpPart;
use super::roles::several;
use super::server::Server;
use super::sql::{literal, rows};
use crate::streams::StoredStreams;

/// Extensions whose package at PostgreSQL's and Debian's archives is not called after them. `{}` is
/// the server's major version.
const PACKAGES: [(&str, &str); 20] = [
    ("address_standardizer", "postgresql-{}-postgis-3"),
    ("hstore_plperl", "postgresql-plperl-{}"),
    ("hstore_plperlu", "postgresql-plperl-{}"),
    ("hstore_plpython3u", "postgresql-plpython3-{}"),
    ("jsonb_plperl", "postgresql-plperl-{}"),
    ("jsonb_plperlu", "postgresql-plperl-{}"),
    ("jsonb_plpython3u", "postgresql-plpython3-{}"),
    ("ltree_plpython3u", "postgresql-plpython3-{}"),
    ("pg_cron", "postgresql-{}-cron"),
    ("pg_partman", "postgresql-{}-partman"),
    ("pg_repack", "postgresql-{}-repack"),
    ("plperl", "postgresql-plperl-{}"),
    ("plperlu", "postgresql-plperl-{}"),
    ("plpython3u", "postgresql-plpython3-{}"),
    ("pltcl", "postgresql-pltcl-{}"),
    ("pltclu", "postgresql-pltcl-{}"),
    ("postgis", "postgresql-{}-postgis-3"),
    ("postgis_raster", "postgresql-{}-postgis-3"),
    ("postgis_topology", "postgresql-{}-postgis-3"),
    ("vector", "postgresql-{}-pgvector"),
];
/// They come with the server, where the system's packages do.
const CONTRIB_EXTENSIONS: [&str; 47] = [
    "adminpack",
    "amcheck",
    "autoinc",
    "bloom",
    "bool_plperl",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dblink",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "file_fdw",
    "fuzzystrmatch",
    "hstore",
    "insert_username",
    "intagg",
    "intarray",
    "isn",
    "lo",
    "ltree",
    "moddatetime",
    "old_snapshot",
    "pageinspect",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_prewarm",
    "pg_stat_statements",
    "pg_surgery",
    "pg_trgm",
    "pg_visibility",
    "pg_walinspect",
    "pgcrypto",
    "pgrowlocks",
    "pgstattuple",
    "postgres_fdw",
    "refint",
    "seg",
    "sslinfo",
    "tablefunc",
    "tcn",
    "tsm_system_rows",
    "tsm_system_time",
    "unaccent",
    "uuid-ossp",
    "xml2",
];

impl Server<'_> {
    /// Refuses a database whose extensions this server does not all have.
    ///
    /// # Errors
    /// [`Class::Source`](lifeboat_base::Class::Source): it lacks one. The hint names the packages.
    pub(super) async fn has_extensions_of(
        &self,
        streams: &dyn StoredStreams,
        database: &str,
        parts: &[(DumpPart, &str)],
        major: u32,
    ) -> Result<()> {
        // That there is no such part is found by the load.
        let Some((_, first)) = parts.first().filter(|(part, _)| part.creates()) else { return Ok(()) };
        let contents = Contents::read(streams.open(first).await?.as_mut()).await;
        let contents = contents.map_err(|error| error.within(format!("cannot load {first}")))?;
        let names: Vec<String> = contents
            .of_kind("EXTENSION")
            .map(|entry| String::from_utf8_lossy(contents.get(&entry.tag)).into_owned())
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let wanted: Vec<String> = names.iter().map(|name| literal(name)).collect();
        let sql = format!("SELECT name FROM pg_available_extensions WHERE name IN ({})", wanted.join(", "));
        let there = rows(&self.query(&sql).await?);
        let lacking: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| !there.iter().any(|one| one == name)).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let packages: BTreeSet<String> = lacking.iter().map(|name| package(name, major)).collect();
        Err(Error::source_failed(format!(
            "database {} uses extensions that the server does not have: {}",
            database.escape_debug(),
            several(lacking.iter().copied())
        ))
        .hint(format!(
            "install them where the server runs, on Debian and Ubuntu probably by: apt install {}",
            packages.into_iter().collect::<Vec<_>>().join(" ")
        )))
    }
}

/// The package that most probably brings an extension.
fn package(extension: &str, major: u32) -> String {
    if CONTRIB_EXTENSIONS.contains(&extension) {
        return format!("postgresql-{major}");
    }
    match PACKAGES.iter().find(|(name, _)| *name == extension) {
        Some((_, package)) => package.replace("{}", &major.to_string()),
        // A name that somebody chose to put a command into an operator's terminal is not repeated.
        None if extension.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) => {
            format!("postgresql-{major}-{}", extension.replace('_', "-"))
        }
        None => format!("postgresql-{major}-…"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_called_as_the_archives_call_them() {
        for (extension, expected) in [
            ("postgis", "postgresql-15-postgis-3"),
            ("vector", "postgresql-15-pgvector"),
            ("pg_cron", "postgresql-15-cron"),
            ("plpython3u", "postgresql-plpython3-15"),
            ("pg_qualstats", "postgresql-15-pg-qualstats"),
            ("hypopg", "postgresql-15-hypopg"),
            ("pgcrypto", "postgresql-15"),
            ("a; rm -rf /", "postgresql-15-…"),
        ] {
            assert_eq!(package(extension, 15), expected);
        }
    }
}
