//! Validates the bandwidth keys of one `[[replica]]`.

use lifeboat_base::settings::SettingsReader;
use lifeboat_store::bandwidth::{Bandwidth, Window, parse_rate};

use super::defaults;
use super::fields::{hours, time_zone};
use super::raw::{RawBandwidthWindow, RawReplica};

/// Each value that cannot be used becomes a finding, and its default or nothing takes its place.
pub(crate) fn validate(v: &mut SettingsReader<'_>, raw: &RawReplica) -> Bandwidth {
    let rate = v.unit(raw.bandwidth.as_ref(), parse_rate).unwrap_or(defaults::BANDWIDTH);
    let windows = raw.bandwidth_windows.iter().filter_map(|raw| window(v, raw)).collect();
    Bandwidth::new(rate, windows, time_zone(v, raw.time_zone.as_ref()))
}

fn window(v: &mut SettingsReader<'_>, raw: &RawBandwidthWindow) -> Option<Window> {
    let hours = hours(v, raw.days.as_ref(), &raw.from, &raw.to);
    let rate = v.unit(Some(&raw.rate), parse_rate);
    Some(Window { hours: hours?, rate: rate? })
}
