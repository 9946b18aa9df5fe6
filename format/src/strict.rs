//! What serde lets pass and the format does not: objects written as arrays, fields that are missing
//! where they may only be null or the other way round, numbers that are too large, and what takes
//! far more memory than its text: long lists of short things, and deep nesting.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// No JSON is nested deeper. Serde has the same limit for what it reads, and none for what it
/// overlooks.
const MAX_DEPTH: usize = 128;
/// No more is reserved for a list before its items are read.
const MAX_RESERVED_ITEMS: usize = 1024;
/// Once a list takes so many bytes, …
const LONG_LIST_BYTES: usize = 4 << 20;
/// … it gets room for so many: the system's allocator moves lists of this size without a copy, and
/// gives them back at once. Of pages that nobody touches, none is taken.
const ROOM_BYTES: usize = 40 << 20;

/// Whether JSON is nested deeper than any that is read. It need not be JSON at all.
pub(crate) fn is_too_deep(json: &[u8]) -> bool {
    Nesting::default().is_too_deep(json)
}

/// How deep JSON is nested that is read piece by piece.
#[derive(Default)]
pub(crate) struct Nesting {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Nesting {
    /// As [`is_too_deep`], of the next piece.
    pub(crate) fn is_too_deep(&mut self, piece: &[u8]) -> bool {
        let Self { mut depth, mut in_text, mut escaped } = *self;
        for byte in piece {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_text => escaped = true,
                b'"' => in_text = !in_text,
                _ if in_text => {}
                b'[' | b'{' => {
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return true;
                    }
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        *self = Self { depth, in_text, escaped };
        false
    }
}

/// For `#[serde(deserialize_with)]`: a list of at most `MAX` items. A longer one is refused before
/// more of it is read.
pub(crate) fn list<'de, const MAX: usize, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct Items<const MAX: usize, T>(PhantomData<T>);
    impl<'de, const MAX: usize, T: Deserialize<'de>> Visitor<'de> for Items<MAX, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX} items")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut found = Vec::with_capacity(items.size_hint().unwrap_or_default().min(MAX_RESERVED_ITEMS));
            while let Some(item) = items.next_element()? {
                if found.len() == MAX {
                    return Err(A::Error::custom(format!("a list has too many items: more than {MAX}")));
                }
                let item_bytes = size_of::<T>().max(1);
                if found.len() == found.capacity() && found.len() * item_bytes >= LONG_LIST_BYTES {
                    found.reserve((ROOM_BYTES / item_bytes).max(found.len()).min(MAX - found.len()));
                }
                found.push(item);
            }
            Ok(found)
        }
    }
    deserializer.deserialize_seq(Items::<MAX, T>(PhantomData))
}

/// As [`list`], of items that are all different.
pub(crate) fn set<'de, const MAX: usize, T: Deserialize<'de> + Eq + Hash + Copy, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let mut items = list::<MAX, T, D>(deserializer)?;
    items.shrink_to_fit();
    let different: HashSet<T> = items.iter().copied().collect();
    if different.len() == items.len() {
        Ok(items)
    } else {
        Err(D::Error::custom("a map or another list has an item twice"))
    }
}

/// For `#[serde(deserialize_with)]`: texts by name, at most `MAX`.
pub(crate) fn texts<'de, const MAX: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    struct Texts<const MAX: usize>;
    impl<'de, const MAX: usize> Visitor<'de> for Texts<MAX> {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an object of at most {MAX} texts")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
            let mut found = BTreeMap::new();
            while let Some((name, text)) = fields.next_entry()? {
                found.insert(name, text);
                if found.len() > MAX {
                    return Err(A::Error::custom(format!("an object has too many texts: more than {MAX}")));
                }
            }
            Ok(found)
        }
    }
    deserializer.deserialize_map(Texts::<MAX>)
}

/// A value that is written as a JSON object. Serde alone reads structures from arrays, too.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// For `#[serde(deserialize_with)]`: an object.
pub(crate) fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// For `#[serde(default, deserialize_with)]`: an object that may be missing, but never null.
pub(crate) fn some_object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    object(deserializer).map(Some)
}

/// For `#[serde(deserialize_with)]`: a number below 2⁶³.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(deserializer)?;
    let is_right = number < 1 << 63;
    if is_right { Ok(number) } else { Err(serde::de::Error::custom(format!("{number} is not below 2⁶³"))) }
}

/// For `#[serde(default, deserialize_with)]`: a number that may be missing, but never null.
pub(crate) fn some_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    number(deserializer).map(Some)
}

/// For `#[serde(deserialize_with)]`: an object or null, but never missing.
pub(crate) fn object_or_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(value)| value))
}

/// For `#[serde(deserialize_with)]`: a value or null, but never missing.
pub(crate) fn value_or_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Pair {
        one: u8,
        #[serde(deserialize_with = "value_or_null")]
        two: Option<u8>,
    }

    #[test]
    fn what_takes_much_memory_is_refused_just_outside_its_limit() {
        #[derive(Deserialize)]
        struct Bounded {
            #[serde(deserialize_with = "list::<3, u8, _>")]
            list: Vec<u8>,
            #[serde(deserialize_with = "set::<3, u8, _>")]
            set: Vec<u8>,
            #[serde(deserialize_with = "texts::<2, _>")]
            texts: BTreeMap<String, String>,
        }
        let read = |list: &str, set: &str, texts: &str| {
            let json = format!(r#"{{"list": {list}, "set": {set}, "texts": {texts}}}"#);
            serde_json::from_str::<Bounded>(&json).map(|read| (read.list.len(), read.set.len(), read.texts.len())).ok()
        };
        let (two, three) = (r#"{"a": "", "b": ""}"#, r#"{"a": "", "b": "", "c": ""}"#);
        assert_eq!(read("[1, 1, 1]", "[1, 2, 3]", two), Some((3, 3, 2)));
        assert_eq!(read("[1, 1, 1, 1]", "[1]", two), None);
        assert_eq!(read("[]", "[1, 2, 3, 4]", two), None);
        assert_eq!(read("[]", "[1, 1]", two), None);
        assert_eq!(read("[]", "[]", three), None);
        let nested = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
        assert!(!is_too_deep(&nested(MAX_DEPTH)) && is_too_deep(&nested(MAX_DEPTH + 1)));
        let text = [b"\"\\\"".to_vec(), b"[".repeat(MAX_DEPTH + 1), b"\"".to_vec()].concat();
        assert!(!is_too_deep(&text), "what stands in a text is not nested");
    }

    #[test]
    fn objects_are_objects_and_null_is_not_missing() {
        let read =
            |json: &str| serde_json::from_str::<Object<Pair>>(json).ok().map(|Object(pair)| (pair.one, pair.two));
        assert_eq!(read(r#"{"one": 1, "two": 2, "three": 3}"#), Some((1, Some(2))));
        assert_eq!(read(r#"{"one": 1, "two": null}"#), Some((1, None)));
        for bad in [r#"{"one": 1}"#, "[1, 2]", r#"{"one": 1, "one": 1, "two": 2}"#, "null"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
