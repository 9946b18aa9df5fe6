//! Validates the bandwidth keys of one `[[replica]]`.

use lifeboat_base::settings::{SettingsReader, Text};
use lifeboat_store::bandwidth::{Bandwidth, Days, Window, parse_rate, parse_time_of_day};

use super::defaults;
use super::fields::time_zone;
use super::raw::{RawBandwidthWindow, RawReplica};

/// Each value that cannot be used becomes a finding, and its default or nothing takes its place.
pub(crate) fn validate(v: &mut SettingsReader<'_>, raw: &RawReplica) -> Bandwidth {
    let rate = v.unit(raw.bandwidth.as_ref(), parse_rate).unwrap_or(defaults::BANDWIDTH);
    let windows = raw.bandwidth_windows.iter().filter_map(|raw| window(v, raw)).collect();
    Bandwidth::new(rate, windows, time_zone(v, raw.time_zone.as_ref()))
}

fn window(v: &mut SettingsReader<'_>, raw: &RawBandwidthWindow) -> Option<Window> {
    let days = match &raw.days {
        None => Some(defaults::BANDWIDTH_DAYS),
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
    let (from, to) = (time_of_day(v, &raw.from), time_of_day(v, &raw.to));
    let rate = v.unit(Some(&raw.rate), parse_rate);
    let window = Window { days: days?, from: from?, to: to?, rate: rate? };
    if raw.from.get_ref() == "24:00" {
        v.findings.add(raw.from.span(), "a window cannot begin at 24:00", "use \"00:00\" and name the next day");
    }
    if window.from == window.to {
        let remedy = "use from = \"00:00\", to = \"24:00\" for a whole day";
        v.findings.add(raw.to.span(), "this window ends when it begins", remedy);
    }
    Some(window)
}

fn time_of_day(v: &mut SettingsReader<'_>, text: &Text) -> Option<u32> {
    let time = parse_time_of_day(text.get_ref());
    if time.is_none() {
        let problem = format!("`{}` is not a time of day", text.get_ref());
        v.findings.add(text.span(), problem, "use hours and minutes, \"00:00\" to \"24:00\"");
    }
    time
}
