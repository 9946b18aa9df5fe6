//! What serde lets pass and the format does not: objects written as arrays, fields that are missing
//! where they may only be null or the other way round, and numbers that are too large.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

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
