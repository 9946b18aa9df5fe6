//! Kinds of values that occur in several sections of the configuration.

use lifeboat_base::hours::{Days, Hours, parse_time_of_day};
use lifeboat_base::settings::{SettingsReader, Text};
use lifeboat_format::id::Name;

use super::defaults;

/// Parses a name. If it is wrong, there is a finding.
pub(super) fn name(v: &mut SettingsReader<'_>, text: &Text) -> Option<Name> {
    let name = text.get_ref().parse::<Name>();
    if let Err(error) = &name {
        v.findings.add(text.span(), error.message(), error.hint_text().unwrap_or_default());
    }
    name.ok()
}

/// Parses a time zone. If it is wrong, there is a finding, and UTC takes its place.
pub(super) fn time_zone(v: &mut SettingsReader<'_>, name: Option<&Text>) -> chrono_tz::Tz {
    let Some(name) = name else { return defaults::TIME_ZONE };
    name.get_ref().parse().unwrap_or_else(|_| {
        let problem = format!("`{}` is not a time zone", name.get_ref());
        v.findings.add(name.span(), problem, "use an IANA name such as Europe/Berlin");
        defaults::TIME_ZONE
    })
}

/// Parses the hours of a window. For each value that cannot be used there is a finding.
pub(super) fn hours(v: &mut SettingsReader<'_>, days: Option<&Text>, from: &Text, to: &Text) -> Option<Hours> {
    let days = match days {
        None => Some(defaults::ALL_DAYS),
        Some(text) => {
            let days = Days::parse(text.get_ref());
            if days.is_none() {
                let problem = format!("`{}` is not a list of days", text.get_ref());
                v.findings.add(
                    text.span(),
                    problem,
                    "use mon, tue, wed, thu, fri, sat, sun and ranges, such as \"mon-fri\"",
                );
            }
            days
        }
    };
    let (first, last) = (time_of_day(v, from), time_of_day(v, to));
    let hours = Hours { days: days?, from: first?, to: last? };
    if from.get_ref() == "24:00" {
        v.findings.add(from.span(), "a window cannot begin at 24:00", "use \"00:00\" and name the next day");
    }
    if hours.from == hours.to {
        let remedy = "use from = \"00:00\", to = \"24:00\" for a whole day";
        v.findings.add(to.span(), "this window ends when it begins", remedy);
    }
    Some(hours)
}

fn time_of_day(v: &mut SettingsReader<'_>, text: &Text) -> Option<u32> {
    let time = parse_time_of_day(text.get_ref());
    if time.is_none() {
        let problem = format!("`{}` is not a time of day", text.get_ref());
        v.findings.add(text.span(), problem, "use hours and minutes, \"00:00\" to \"24:00\"");
    }
    time
}
