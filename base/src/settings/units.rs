//! Durations and sizes as operators write them: `90s`, `15m`, `24h`, `30d`; `512KiB`,
//! `192MiB`, `2GiB`.

use std::time::Duration;

/// A hundred years: any longer, and there may be no such time.
const MAX_DURATION_SECONDS: u64 = 36_525 * 86_400;

/// Parses one number and one unit: s, m, h, d or w.
///
/// # Errors
/// What is wrong with the text, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(format!("`{text}` is not a duration: write a number and s, m, h, d or w, such as \"15m\"")),
    };
    let total = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    let total = total.ok_or_else(|| format!("`{text}` is not a duration such as \"15m\""))?;
    if total > MAX_DURATION_SECONDS {
        return Err(format!("`{text}` is longer than a hundred years"));
    }
    Ok(Duration::from_secs(total))
}

/// Parses one number and one unit: B, KiB, MiB or GiB.
///
/// # Errors
/// What is wrong with the text, in words.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let bytes = match unit {
        "B" => 1_u64,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("`{text}` is not a size: write a number and B, KiB, MiB or GiB, such as \"192MiB\"")),
    };
    let total = number.parse::<u64>().ok().and_then(|number| number.checked_mul(bytes));
    total.ok_or_else(|| format!("`{text}` is not a size such as \"192MiB\""))
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_operators_write_and_nothing_vague() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(duration("36525d"), Ok(Duration::from_secs(MAX_DURATION_SECONDS)));
        assert_eq!(size("192MiB"), Ok(192 << 20));
        assert_eq!(size("1 GiB"), Ok(1 << 30));
        for bad in
            ["", "5", "m", "-5m", "1.5h", "5 minutes", "36526d", "99999999999999999999d", "18446744073709551615w"]
        {
            assert!(duration(bad).is_err(), "{bad} passed");
        }
        for bad in ["", "5", "MB", "5MB", "5mib", "18446744073709551615GiB"] {
            assert!(size(bad).is_err(), "{bad} passed");
        }
    }
}
