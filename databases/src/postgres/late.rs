//! What of an archive a role of its own loads when, as [`super::phases`] has it.

use std::collections::BTreeSet;

use super::builds::EntryId;
use super::contents::{Contents, ContentsEntry, Section};
use super::steps::Step;

pub(super) const FOREIGN_KEY: &str = "FK CONSTRAINT";
/// What comes after all that needs code to run: it needs none, or speaks of what does.
pub(super) const LATE_KINDS: [&[u8]; 5] = [b"FK CONSTRAINT", b"COMMENT", b"SECURITY LABEL", b"POLICY", b"ROW SECURITY"];
pub(super) const VIEW_ROWS: &[u8] = b"MATERIALIZED VIEW DATA";
pub(super) const TABLE_ROWS: &[u8] = b"TABLE DATA";

/// What of the definitions waits for the end.
#[derive(Default)]
pub(super) struct Late {
    /// All of it.
    pub(super) entries: BTreeSet<EntryId>,
    /// What else comes after the rows.
    pub(super) others: Vec<EntryId>,
}

/// Materialised views, each as the step that fills it.
#[derive(Default)]
pub(super) struct Views {
    pub(super) of_superusers: Vec<Step>,
    pub(super) of_others: Vec<Step>,
}

/// The entries of a section that are of a wanted kind.
pub(super) fn chosen(contents: &Contents, section: Section, wanted: impl Fn(&[u8]) -> bool) -> Vec<EntryId> {
    let of = contents.of_section(section).filter(|entry| wanted(contents.get(&entry.kind)));
    of.filter_map(ContentsEntry::number).collect()
}

/// The entries of an archive that are rows of tables.
pub(super) fn table_rows(contents: &Contents) -> Vec<EntryId> {
    chosen(contents, Section::Data, |kind| kind == TABLE_ROWS)
}
