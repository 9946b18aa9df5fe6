//! Kinds of values that occur in several sections of the configuration.

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
