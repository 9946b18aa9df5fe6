//! Acts: what is parsed for one place is refused for any other, and means the same when it is
//! written again.

use lifeboat_format::act::{self, Act, MAX_ACT_BYTES};
use lifeboat_format::id::Name;
use lifeboat_format::layout;
use serde_json::Value;

/// Takes `data` for an act as it is stored, of the place that it names itself.
pub fn drive(data: &[u8]) -> bool {
    let Some((line, signature)) = act::split(data) else { return false };
    assert!(line.len() + signature.len() == data.len() && data.len() <= MAX_ACT_BYTES, "not all of it");
    assert!(line.ends_with(b"\n") && line.iter().filter(|byte| **byte == b'\n').count() == 1, "not one line");
    let Ok(told) = serde_json::from_slice::<Value>(line) else { return false };
    let (Some(vault), Some(dataset), Some(number)) =
        (told["vault"].as_str(), told["dataset"].as_str(), told["number"].as_u64())
    else {
        return false;
    };
    let Ok(dataset) = dataset.parse::<Name>() else { return false };
    let Ok(act) = Act::of_line(line, vault, &dataset, number, "the input") else { return false };

    assert_eq!(layout::parse_act(&dataset, &layout::act(&dataset, number)), Some(number), "no key names it");
    let object = act.object();
    assert!(object.starts_with(&layout::dataset(&dataset)) && object.contains(&act.id.to_string()), "{object}");
    let refused = |vault: &str, dataset: &Name, number| Act::of_line(line, vault, dataset, number, "it").is_err();
    assert!(refused(&format!("{vault}0"), &dataset, number), "taken for another vault's");
    assert!(refused(vault, &dataset, number + 1), "taken for another number");
    let other = if dataset.as_str() == "a" { "b" } else { "a" };
    assert!(other.parse().is_ok_and(|other| refused(vault, &other, number)), "taken for another dataset's");
    // Writers leave half of the room to the signature.
    if let Ok(written) = act.to_line() {
        let again = Act::of_line(&written, vault, &dataset, number, "the input").ok();
        assert_eq!(again, Some(act), "written again it is another one");
    }
    true
}
