//! Keys of objects: whoever lists a bucket believes only a key that would be written so.

use lifeboat_format::id::Name;
use lifeboat_format::layout;

/// Takes `data` for the key of an object, of the dataset that it names or of `shop`.
pub fn drive(data: &[u8]) -> bool {
    let Ok(key) = std::str::from_utf8(data) else { return false };
    let named = key.split('/').find_map(|part| part.parse::<Name>().ok().filter(|_| !is_folder(part)));
    let Some(dataset) = named.or_else(|| "shop".parse().ok()) else { return false };
    let (drills, prunes, marks) = (layout::drills(&dataset), layout::prunes(&dataset), layout::marks(&dataset));
    let known = [
        layout::parse_manifest(&dataset, key).map(|id| layout::manifest(&dataset, &id)),
        layout::parse_index(&dataset, key).map(|id| layout::index(&dataset, &id)),
        layout::parse_pack(&dataset, key).map(|id| layout::pack(&dataset, &id)),
        layout::parse_keyring_generation(&dataset, key).map(|number| layout::keyring_generation(&dataset, number)),
        layout::parse_json(&drills, key).map(|id| layout::drill(&dataset, &id)),
        layout::parse_json(&prunes, key).map(|id| layout::prune(&dataset, &id)),
        layout::parse_json(&marks, key).map(|id| layout::mark(&dataset, &id)),
        layout::parse_needs(&dataset, key).map(|id| layout::needs(&dataset, &id)),
        layout::parse_veto(&dataset, key).map(|(mark, name)| layout::veto(&dataset, &mark, &name)),
        layout::parse_act(&dataset, key).map(|number| layout::act(&dataset, number)),
        layout::parse_log_record(key).map(|(log, number)| layout::log_record(&log, number)),
    ];
    let known: Vec<String> = known.into_iter().flatten().collect();
    assert!(known.len() <= 1, "{key} is of several kinds: {known:?}");
    for written in &known {
        assert_eq!(written, key, "two keys for one object");
        assert!(!layout::is_signature(key) && layout::is_signature(&layout::signature(key)));
        assert!(layout::trusted_comment("v", key).ends_with(key));
    }
    !known.is_empty()
}

/// Whether it stands before a dataset in keys.
fn is_folder(part: &str) -> bool {
    [layout::DATASETS, layout::KEYRING, layout::LOGS].iter().any(|folder| folder.trim_end_matches('/') == part)
}
