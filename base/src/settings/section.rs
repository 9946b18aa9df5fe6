//! A table of the configuration whose keys only its own kind knows.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::shape::{self, Shape};
use super::{SettingsReader, Text};

/// A table with a `kind`, taken out of the file before the rest of it is read.
pub struct Section<'t> {
    kind: Text,
    table: Spanned<DeTable<'t>>,
}

impl<'t> Section<'t> {
    /// Takes the table `name` out of `parent`, which stands at `place`. `None` if there is no such
    /// table, or no `kind` in it; the findings say why.
    pub fn take(
        parent: &mut DeTable<'t>,
        place: Range<usize>,
        name: &str,
        reader: &mut SettingsReader<'_>,
    ) -> Option<Self> {
        let Some(value) = parent.remove(name) else {
            reader.findings.add(place, format!("`{name}` is missing"), "");
            return None;
        };
        let span = value.span();
        let DeValue::Table(mut table) = value.into_inner() else {
            reader.findings.add(span, format!("`{name}` is not a table"), format!("write [dataset.{name}]"));
            return None;
        };
        let Some(kind) = table.remove("kind") else {
            reader.findings.add(span, "`kind` is missing", "");
            return None;
        };
        let Some(word) = kind.get_ref().as_str().map(str::to_owned) else {
            reader.findings.add(kind.span(), "`kind` is not a text", "write it in quotes");
            return None;
        };
        Some(Self { kind: Spanned::new(kind.span(), word), table: Spanned::new(span, table) })
    }

    /// The kind that the section says it is of.
    #[must_use]
    pub fn kind(&self) -> &Text {
        &self.kind
    }

    /// Where `kind` stands. Findings about the section as a whole are reported there.
    #[must_use]
    pub fn place(&self) -> Range<usize> {
        self.kind.span()
    }

    /// Its keys, and where they stand.
    #[must_use]
    pub fn keys(&self) -> Vec<(String, Range<usize>)> {
        self.table.get_ref().iter().map(|(key, _)| (key.get_ref().to_string(), key.span())).collect()
    }

    /// Its keys as a `T`, which must deny unknown keys. `None` if they do not fit; the findings say
    /// why.
    pub fn read<T: DeserializeOwned>(self, reader: &mut SettingsReader<'_>) -> Option<T> {
        let span = self.table.span();
        match shape::read(self.table.into_inner(), span, &mut reader.findings) {
            Shape::Whole(read) => Some(read),
            Shape::Rest(_) | Shape::Lacking => None,
        }
    }
}
