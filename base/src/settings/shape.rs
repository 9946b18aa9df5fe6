//! Reads a table of settings into a type, and finds everything that does not fit, not only what
//! comes first: each such key is taken out, and the rest is read again.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::findings::{Findings, explain};

/// No more keys of one table are told.
const MAX_TOLD_KEYS: usize = 100;

/// What became of reading a table.
pub enum Shape<T> {
    /// It fits.
    Whole(T),
    /// Without the keys that are told, it fits.
    Rest(T),
    /// It does not, and what is told says why.
    Lacking,
}

/// Reads `table`, which stands at `place`, as a `T` that denies unknown keys. What does not fit is
/// in the findings.
pub fn read<T: DeserializeOwned>(mut table: DeTable<'_>, place: Range<usize>, findings: &mut Findings<'_>) -> Shape<T> {
    let (mut taken, mut lacks) = (BTreeSet::new(), false);
    for _ in 0..MAX_TOLD_KEYS {
        let value = Spanned::new(place.clone(), DeValue::Table(table.clone()));
        let error = match T::deserialize(ValueDeserializer::from(value)) {
            Ok(_) if lacks => return Shape::Lacking,
            Ok(read) if taken.is_empty() => return Shape::Whole(read),
            Ok(read) => return Shape::Rest(read),
            Err(error) => error,
        };
        let missing = error.message().strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        // What was taken out is missing then, and was told.
        if missing.is_none_or(|missing| !taken.contains(missing)) {
            findings.add(error.span().unwrap_or(place.clone()), explain(error.message()), "");
        }
        lacks |= missing.is_some();
        match error.span().and_then(|at| take(&mut table, &at)) {
            Some(name) => drop(taken.insert(name)),
            None => return Shape::Lacking,
        }
    }
    Shape::Lacking
}

/// Takes out the key, or the element of a list, that stands at this place or has its value there.
/// Gives the key's name.
fn take(table: &mut DeTable<'_>, at: &Range<usize>) -> Option<String> {
    let stands = |(key, value): &(&Spanned<_>, &Spanned<DeValue<'_>>)| key.span() == *at || value.span() == *at;
    let found = table.iter().find(stands).map(|(key, _)| key.get_ref().to_string());
    if let Some(name) = found {
        // An array of tables has the place of its first table.
        let list = table.get_mut(name.as_str()).map(Spanned::get_mut).filter(|value| value.is_array());
        if list.and_then(|list| take_from(list, at)).is_none() {
            table.remove(name.as_str());
        }
        return Some(name);
    }
    let names: Vec<String> = table.iter().map(|(key, _)| key.get_ref().to_string()).collect();
    names.into_iter().find_map(|name| {
        let value = table.get_mut(name.as_str())?;
        take_from(value.get_mut(), at).map(|inner| inner.unwrap_or(name))
    })
}

/// As [`take`]; `Some(None)` if what was taken out is an element of a list.
fn take_from(value: &mut DeValue<'_>, at: &Range<usize>) -> Option<Option<String>> {
    match value {
        DeValue::Table(table) => take(table, at).map(Some),
        DeValue::Array(list) => {
            if list.iter().any(|element| element.span() == *at) {
                *list = list.iter().filter(|element| element.span() != *at).cloned().collect();
                return Some(None);
            }
            list.iter_mut().find_map(|element| take_from(element.get_mut(), at))
        }
        _ => None,
    }
}
