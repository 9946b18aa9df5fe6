//! Parses the five fields of Unix cron and translates them into the seven of the `cron` crate.
//!
//! That crate expects seconds first, counts Sunday as 1, and fires only if both day fields match.
//! So days of the week are passed to it as names. Where either day field is enough, it gets two
//! expressions.

use lifeboat_base::{Error, Result};

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The five fields, each as the values that it allows.
pub(crate) struct Fields {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

struct Field {
    /// Whether it begins with `*`. Such a day field counts as unrestricted, even if it is `*/n`.
    star: bool,
    values: Vec<u32>,
}

impl Fields {
    pub(crate) fn parse(expression: &str) -> Result<Self> {
        let expanded = match expression.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other => other,
        };
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(Error::configuration(format!(
                "`{expression}` has {} fields, but a schedule has five fields",
                fields.len()
            ))
            .hint("write minute, hour, day of month, month, day of week, such as \"15 2 * * *\" for daily at 02:15"));
        };
        let mut weekday = Field::parse("day of week", weekday, 0, 7, &DAYS, 0)?;
        // 7 is Sunday, too.
        weekday.values.iter_mut().for_each(|day| *day %= 7);
        weekday.values.sort_unstable();
        weekday.values.dedup();
        Ok(Self {
            minute: Field::parse("minute", minute, 0, 59, &[], 0)?,
            hour: Field::parse("hour", hour, 0, 23, &[], 0)?,
            day: Field::parse("day of month", day, 1, 31, &[], 0)?,
            month: Field::parse("month", month, 1, 12, &MONTHS, 1)?,
            weekday,
        })
    }

    /// Whether the schedule fires in every hour of a day.
    pub(crate) fn every_hour(&self) -> bool {
        self.hour.values.len() == 24
    }

    /// The expressions for the `cron` crate. If there are two, the schedule fires when either does.
    pub(crate) fn quartz(&self) -> Vec<String> {
        let (minute, hour, month) = (self.minute.list(), self.hour.list(), self.month.list());
        let names: Vec<&str> = self.weekday.values.iter().map(|day| DAYS[*day as usize]).collect();
        let (day, weekday) = (self.day.list(), names.join(","));
        let whole = |day: &str, weekday: &str| format!("0 {minute} {hour} {day} {month} {weekday} *");
        if self.day.star || self.weekday.star {
            vec![whole(&day, &weekday)]
        } else {
            vec![whole(&day, "*"), whole("*", &weekday)]
        }
    }
}

impl Field {
    /// Parses `*`, `5`, `1-5`, `*/15`, `10-50/20`, names, and lists of these.
    fn parse(what: &str, text: &str, first: u32, last: u32, names: &[&str], names_from: u32) -> Result<Self> {
        let refused = || {
            Error::configuration(format!("`{text}` is not usable as {what}")).hint(format!(
                "use {first} to {last}, *, ranges such as {first}-{last}, steps such as */2, or lists of these"
            ))
        };
        let number = |text: &str| -> Result<u32> {
            let named = names.iter().position(|name| name.eq_ignore_ascii_case(text)).map(|at| at as u32 + names_from);
            let value = named.or_else(|| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten());
            value.filter(|value| (first..=last).contains(value)).ok_or_else(refused)
        };
        let mut values = Vec::new();
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, step.parse::<u32>().ok().filter(|step| *step > 0).ok_or_else(refused)?),
                None => (part, 1),
            };
            let (from, to) = match range.split_once('-') {
                _ if range == "*" => (first, last),
                Some((from, to)) => (number(from)?, number(to)?),
                None if part.contains('/') => (number(range)?, last),
                None => (number(range)?, number(range)?),
            };
            if from > to {
                return Err(refused());
            }
            values.extend((from..=to).step_by(step as usize));
        }
        values.sort_unstable();
        values.dedup();
        Ok(Self { star: text.starts_with('*'), values })
    }

    fn list(&self) -> String {
        let values: Vec<String> = self.values.iter().map(u32::to_string).collect();
        values.join(",")
    }
}
