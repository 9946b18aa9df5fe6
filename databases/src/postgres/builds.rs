//! Decides when indexes and constraints can be built: as soon as all rows that they need are there,
//! while other tables are still being loaded. `pg_restore --jobs` does the same, but needs all rows
//! in one file.
//!
//! What the longest chain waits for comes first: rows, the key on them, the foreign key to that
//! key. How long a step takes is estimated from how long the rows are.
//!
//! All of this is read from what `pg_restore --list` prints about the definitions. What is not
//! understood beyond doubt is built at the end, by `pg_restore --jobs` itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::parts::TableName;

/// Entries of these kinds need not wait for the end, …
const EARLY_KINDS: [&str; 3] = ["INDEX", "CONSTRAINT", "FK CONSTRAINT"];
/// … if they need only tables, each other, and entries of these kinds, which exist before the rows.
const BEFORE_ROWS_KINDS: [&str; 13] = [
    "SCHEMA",
    "EXTENSION",
    "TYPE",
    "DOMAIN",
    "FUNCTION",
    "PROCEDURE",
    "AGGREGATE",
    "OPERATOR",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "COLLATION",
    "ACCESS METHOD",
    "TEXT SEARCH CONFIGURATION",
];

/// At the end, entries of these kinds may be built side by side. Others come after them, in the
/// archive's order: they lock partitions that the archive does not name, and could deadlock; or
/// they need a trigger of a parent that it does not name either.
const SIDE_BY_SIDE_KINDS: [&str; 3] = ["INDEX", "CONSTRAINT", "MATERIALIZED VIEW DATA"];

/// The number of an entry in its archive.
pub(crate) type EntryId = u32;

/// One entry of an archive.
struct ArchiveEntry<'a> {
    id: EntryId,
    /// Its line in the list, from the kind on.
    what: &'a str,
    needs: Vec<EntryId>,
}

/// An index or a constraint.
struct Build {
    tables: BTreeSet<TableName>,
    after: BTreeSet<EntryId>,
    /// Whether others that share may be built on the same tables at the same time. An index locks
    /// out only writers.
    shares: bool,
    /// How long it and the longest chain after it take, as the bytes of rows that are loaded in
    /// that time.
    urgency: u64,
    begun: bool,
}

impl Build {
    /// Whether the two must not run at once: constraints lock their tables one after the other, so
    /// two of them could deadlock.
    fn conflicts(&self, other: &Self) -> bool {
        let apart = self.tables.is_disjoint(&other.tables);
        !(apart || self.shares && other.shares)
    }
}

/// The indexes and constraints that need not wait for the end.
pub(crate) struct Builds {
    early: BTreeMap<EntryId, Build>,
    loaded: BTreeSet<TableName>,
    done: BTreeSet<EntryId>,
    /// Everything that comes after the rows, in the archive's order.
    all: Vec<EntryId>,
    /// The part of `all` that is built last.
    last: BTreeSet<EntryId>,
}

/// What is left to build at the end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    /// These may be built side by side.
    pub(crate) side_by_side: Vec<EntryId>,
    /// These are built after them, one after the other.
    pub(crate) in_order: Vec<EntryId>,
}

impl Builds {
    /// `list` lists the definitions with what each needs; `upon_rows` lists those that come after
    /// the rows; `lengths` holds the tables whose rows are loaded separately. `late` is left out.
    pub(crate) fn new(
        list: &str,
        upon_rows: &str,
        lengths: &BTreeMap<TableName, u64>,
        late: &BTreeSet<EntryId>,
    ) -> Self {
        let entries = entries(list);
        let all: Vec<EntryId> =
            self::entries(upon_rows).iter().map(|entry| entry.id).filter(|id| !late.contains(id)).collect();
        let after_rows: BTreeSet<&EntryId> = all.iter().collect();
        let before = entries.iter().filter(|entry| BEFORE_ROWS_KINDS.iter().any(|kind| entry.is(kind)));
        let mut known: BTreeMap<EntryId, Option<&TableName>> = before.map(|entry| (entry.id, None)).collect();
        for table in lengths.keys() {
            // The line of a table begins like this. If another line does too, because names hold
            // blanks, neither is trusted.
            let begins = format!("TABLE {} {} ", table.schema, table.name);
            let mut matching = entries.iter().filter(|entry| entry.what.starts_with(&begins));
            if let (Some(entry), None) = (matching.next(), matching.next()) {
                known.insert(entry.id, Some(table));
            }
        }
        let (mut early, mut order): (BTreeMap<EntryId, Build>, Vec<EntryId>) = Default::default();
        for entry in entries.iter().filter(|entry| after_rows.contains(&entry.id)) {
            let needs = |needed: &EntryId| known.contains_key(needed) || early.contains_key(needed);
            let tables: BTreeSet<TableName> =
                entry.needs.iter().filter_map(|needed| (*known.get(needed)?).cloned()).collect();
            let is_early = EARLY_KINDS.iter().any(|kind| entry.is(kind)) && entry.needs.iter().all(needs);
            if is_early && !tables.is_empty() {
                let after: BTreeSet<EntryId> =
                    entry.needs.iter().copied().filter(|needed| early.contains_key(needed)).collect();
                // An index or a key sorts a column or two; a foreign key joins whole tables.
                let rows: u64 = tables.iter().filter_map(|table| lengths.get(table)).sum();
                let urgency = 1 + if entry.is("FK CONSTRAINT") { rows / 3 * 2 } else { rows / 3 };
                early.insert(entry.id, Build { tables, after, shares: entry.is("INDEX"), urgency, begun: false });
                order.push(entry.id);
            }
        }
        // An entry stands before those that need it.
        for id in order.iter().rev() {
            let chain = early.values().filter(|later| later.after.contains(id)).map(|later| later.urgency).max();
            early.entry(*id).and_modify(|build| build.urgency += chain.unwrap_or_default());
        }
        let mut last = BTreeSet::new();
        for entry in entries.iter().filter(|entry| after_rows.contains(&entry.id)) {
            let side_by_side = SIDE_BY_SIDE_KINDS.iter().any(|kind| entry.is(kind));
            if !side_by_side || entry.needs.iter().any(|needed| last.contains(needed)) {
                last.insert(entry.id);
            }
        }
        Self { early, loaded: BTreeSet::new(), done: BTreeSet::new(), all, last }
    }

    /// How long the longest chain of builds takes that waits for this table's rows.
    pub(crate) fn upon(&self, table: &TableName) -> u64 {
        let upon = self.early.values().filter(|build| build.tables.contains(table));
        upon.map(|build| build.urgency).max().unwrap_or_default()
    }

    /// Notes that all rows of a table are there.
    pub(crate) fn loaded(&mut self, table: &TableName) {
        self.loaded.insert(table.clone());
    }

    /// Notes that an entry is built.
    pub(crate) fn built(&mut self, entry: EntryId) {
        self.done.insert(entry);
    }

    /// An entry that can be built now, beside those that are being built, if it is more urgent than
    /// `others`. Each entry is given once.
    pub(crate) fn next(&mut self, others: u64) -> Option<EntryId> {
        let running = |(id, build): &(&EntryId, &Build)| build.begun && !self.done.contains(*id);
        let running: Vec<&Build> = self.early.iter().filter(running).map(|(_, build)| build).collect();
        let ready = self.early.iter().filter(|(_, build)| {
            !build.begun
                && build.tables.is_subset(&self.loaded)
                && build.after.is_subset(&self.done)
                && !running.iter().any(|other| build.conflicts(other))
        });
        let (id, build) = ready.max_by_key(|(id, build)| (build.urgency, Reverse(**id)))?;
        let id = Some(*id).filter(|_| build.urgency > others)?;
        self.early.entry(id).and_modify(|build| build.begun = true);
        Some(id)
    }

    /// What is left after everything that [`Self::next`] gave was built; `None` if nothing is known
    /// of what comes after the rows.
    pub(crate) fn rest(&self) -> Option<Rest> {
        let left = self.all.iter().copied().filter(|id| !self.done.contains(id));
        let (in_order, side_by_side) = left.partition(|id| self.last.contains(id));
        (!self.all.is_empty()).then_some(Rest { side_by_side, in_order })
    }
}

impl ArchiveEntry<'_> {
    /// Whether it is of this kind. A kind is followed by a schema, or by `-`. But `INDEX ATTACH`
    /// begins like `INDEX`, and a schema may look like the rest of a kind. An entry that is
    /// mistaken for one of another kind is built at the end.
    fn is(&self, kind: &str) -> bool {
        let after = self.what.strip_prefix(kind).and_then(|rest| rest.strip_prefix(' '));
        after.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_uppercase()))
    }
}

/// Reads lines such as `3206; 2606 16419 CONSTRAINT public orders orders_pkey shop`. If an entry
/// needs others, a line such as `;` tab `depends on: 214 216` follows.
fn entries(list: &str) -> Vec<ArchiveEntry<'_>> {
    let mut entries: Vec<ArchiveEntry<'_>> = Vec::new();
    for line in list.lines() {
        if let Some(numbers) = line.strip_prefix(";\tdepends on:") {
            if let Some(entry) = entries.last_mut() {
                entry.needs = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            }
        } else if let Some((id, rest)) = line.split_once("; ")
            && let Ok(id) = id.parse()
            && let Some(what) = rest.splitn(3, ' ').nth(2)
        {
            entries.push(ArchiveEntry { id, what, needs: Vec::new() });
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = ";\n; Selected TOC Entries:\n;\n3360; 0 0 ENCODING - ENCODING \n2; 3079 16384 EXTENSION - btree_gin \n\
        214; 1259 16403 TABLE public customers postgres\n215; 1259 16408 TABLE public orders postgres\n;\tdepends on: 2\n\
        216; 1259 16413 TABLE public small postgres\n217; 1259 16414 TABLE public odd one postgres\n\
        218; 1259 16415 TABLE public odd postgres\n\
        3206; 2606 16419 CONSTRAINT public customers customers_pkey postgres\n;\tdepends on: 214\n\
        3207; 1259 16429 INDEX public orders_gin postgres\n;\tdepends on: 215 2\n\
        3208; 1259 16430 INDEX public small_index postgres\n;\tdepends on: 216\n\
        3209; 1259 16431 INDEX public odd_index postgres\n;\tdepends on: 218\n\
        3212; 2606 16422 FK CONSTRAINT public orders orders_fkey postgres\n;\tdepends on: 3206 215 214\n\
        3213; 2606 16423 FK CONSTRAINT public orders small_fkey postgres\n;\tdepends on: 215 216\n\
        3214; 2620 16424 TRIGGER public orders t postgres\n;\tdepends on: 215\n\
        3215; 2606 16425 FK CONSTRAINT public orders unknown_fkey postgres\n;\tdepends on: 215 9999\n\
        3216; 0 0 MATERIALIZED VIEW DATA public v postgres\n;\tdepends on: 9998\n\
        3217; 0 0 INDEX ATTACH public orders_gin postgres\n;\tdepends on: 3207 215\n\
        3218; 2606 16426 FK CONSTRAINT public orders trigger_fkey postgres\n;\tdepends on: 215 3214\n";

    fn builds() -> (Builds, [TableName; 3]) {
        let tables =
            ["customers", "orders", "odd"].map(|name| TableName { schema: "public".to_owned(), name: name.to_owned() });
        let upon_rows: Vec<&str> =
            LIST.lines().filter(|line| line.starts_with('3') && !line.starts_with("3360")).collect();
        let lengths = tables.iter().cloned().zip([300, 900, 90]).collect();
        (Builds::new(LIST, &upon_rows.join("\n"), &lengths, &BTreeSet::new()), tables)
    }

    #[test]
    fn each_is_given_once_when_its_rows_and_what_it_needs_are_there() {
        let (mut builds, [customers, orders, _]) = builds();
        assert_eq!(builds.next(0), None);
        builds.loaded(&orders);
        assert_eq!((builds.next(0), builds.next(0)), (Some(3207), None));
        builds.built(3207);
        builds.loaded(&customers);
        assert_eq!((builds.next(0), builds.next(0)), (Some(3206), None), "a foreign key before the key it refers to");
        builds.built(3206);
        assert_eq!((builds.next(0), builds.next(0)), (Some(3212), None));
    }

    #[test]
    fn what_the_longest_chain_waits_for_is_most_urgent() {
        let (mut builds, tables) = builds();
        // The key and the foreign key upon it; the foreign key; the index of a table that is not
        // believed.
        assert_eq!(tables.each_ref().map(|table| builds.upon(table)), [101 + 801, 801, 0]);
        builds.loaded(&tables[0]);
        assert_eq!((builds.next(902), builds.next(901)), (None, Some(3206)));
    }

    #[test]
    fn what_locks_a_table_runs_alone_on_it() {
        let (mut builds, [customers, orders, _]) = builds();
        builds.loaded(&orders);
        builds.loaded(&customers);
        assert_eq!(builds.next(0), Some(3206));
        builds.built(3206);
        assert_eq!((builds.next(0), builds.next(0)), (Some(3212), None), "an index beside a constraint on its table");
        builds.built(3212);
        assert_eq!((builds.next(0), builds.next(0)), (Some(3207), None));
    }

    #[test]
    fn what_is_not_understood_or_needs_other_rows_waits_for_the_end() {
        let (mut builds, tables) = builds();
        tables.iter().for_each(|table| builds.loaded(table));
        while let Some(id) = builds.next(0) {
            builds.built(id);
        }
        // `odd` may be the line of `odd one`: neither is believed.
        let in_order = vec![3213, 3214, 3215, 3217, 3218];
        assert_eq!(builds.rest(), Some(Rest { side_by_side: vec![3208, 3209, 3216], in_order }));
        assert_eq!(Builds::new("", "", &BTreeMap::new(), &BTreeSet::new()).rest(), None);
    }
}
