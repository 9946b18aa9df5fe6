//! Times as objects hold them: RFC 3339 in UTC, with a `Z` at the end. For `#[serde(with)]`.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// Writes a time, with as many digits of its second as it has.
pub(crate) fn serialize<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// Reads a time. An offset other than `Z` is refused.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    let text = String::deserialize(deserializer)?;
    // Of what chrono reads, only one form is meant.
    let is_form = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        19 => byte == b'.' || byte == b'Z' && text.len() == 20,
        last if last + 1 == text.len() => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    let is_right = (20..=30).contains(&text.len()) && text.len() != 21 && text.bytes().enumerate().all(is_form);
    let time = Some(&text).filter(|_| is_right).and_then(|text| text.parse().ok());
    time.ok_or_else(|| D::Error::custom(format!("{text:?} is not a time in UTC that ends with Z")))
}

/// For `#[serde(default, skip_serializing_if, with)]`: a time that may be missing, but never null.
pub(crate) mod optional {
    use super::{DateTime, Deserializer, Serializer, Utc};

    pub(crate) fn serialize<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize, Deserialize)]
    struct Told(#[serde(with = "super")] DateTime<Utc>);

    #[test]
    fn only_utc_with_z_is_read() {
        for (text, good) in [
            ("2026-11-28T12:00:00Z", true),
            ("2026-11-28T12:00:00.123Z", true),
            ("2026-11-28T12:00:00+00:00", false),
            ("2026-11-28T12:00:00+02:00", false),
            ("2026-11-28T12:00:00", false),
            ("2026-11-28 12:00:00Z", false),
            ("2026-11-28t12:00:00z", false),
            (" 2026-11-28T12:00:00Z", false),
            ("2026-11-28T12:00:00.Z", false),
            ("2026-11-28T12:00:00.1234567891Z", false),
            ("yesterdayZ", false),
        ] {
            let read = serde_json::from_str::<Told>(&format!("\"{text}\""));
            let again = read.as_ref().ok().and_then(|told| serde_json::to_string(told).ok());
            assert_eq!(again, good.then(|| format!("\"{text}\"")), "{text}");
        }
    }
}
