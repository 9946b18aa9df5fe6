//! Lists of what snapshots need: what is parsed for one place is refused for any other, and means
//! the same when it is written again.

use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::needs::{MAX_NEEDS_BYTES, SnapshotNeeds, split_needs};
use serde_json::Value;

/// Takes `data` for a list as it is stored, of the place that it names itself.
pub fn drive(data: &[u8]) -> bool {
    let Some((line, signature)) = split_needs(data) else { return false };
    assert!(line.len() + signature.len() == data.len() && data.len() <= MAX_NEEDS_BYTES, "not all of it");
    let Ok(told) = serde_json::from_slice::<Value>(line) else { return false };
    let text = |field: &str| told[field].as_str().unwrap_or_default();
    let (vault, dataset, snapshot) = (text("vault"), text("dataset").parse::<Name>(), text("snapshot").parse());
    let (Ok(dataset), Ok(snapshot)) = (dataset, snapshot) else { return false };
    let Ok(needs) = SnapshotNeeds::of_line(line, vault, &dataset, &snapshot, "the input") else { return false };

    let key = layout::needs(&dataset, &snapshot);
    assert_eq!(layout::parse_needs(&dataset, &key).as_ref(), Some(&snapshot), "no key names it");
    assert_eq!(needs.packs.len(), needs.sizes.len(), "a size of no pack");
    assert!(needs.packs.is_sorted_by(|one, next| one < next), "not sorted, or one twice");
    let refused = |vault: &str, dataset: &Name, snapshot: &SnapshotId| {
        SnapshotNeeds::of_line(line, vault, dataset, snapshot, "it").is_err()
    };
    assert!(refused(&format!("{vault}0"), &dataset, &snapshot), "taken for another vault's");
    let other = if dataset.as_str() == "a" { "b" } else { "a" };
    assert!(other.parse().is_ok_and(|other| refused(vault, &other, &snapshot)), "taken for another dataset's");
    let mark = if text("snapshot").ends_with('0') { "1" } else { "0" };
    let other = text("snapshot").get(..text("snapshot").len() - 1).map(|most| format!("{most}{mark}").parse());
    assert!(matches!(other, Some(Ok(other)) if refused(vault, &dataset, &other)), "taken for another snapshot's");
    if let Ok(written) = needs.to_line() {
        let again = SnapshotNeeds::of_line(&written, vault, &dataset, &snapshot, "the input").ok();
        assert_eq!(again, Some(needs), "written again it is another one");
    }
    true
}
