//! Vetoes: what is parsed for one place is refused for any other, and means the same when it is
//! written again.

use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::veto::{MAX_VETO_BYTES, Veto, split_veto};
use serde_json::Value;

/// Takes `data` for a veto as it is stored, of the place that it names itself.
pub fn drive(data: &[u8]) -> bool {
    let Some((line, signature)) = split_veto(data) else { return false };
    assert!(line.len() + signature.len() == data.len() && data.len() <= MAX_VETO_BYTES, "not all of it");
    let Ok(told) = serde_json::from_slice::<Value>(line) else { return false };
    let text = |field: &str| told[field].as_str().unwrap_or_default();
    let (vault, dataset, name) = (text("vault"), text("dataset").parse::<Name>(), text("principal").parse::<Name>());
    let (Ok(dataset), Ok(name), Ok(mark)) = (dataset, name, text("mark").parse::<SnapshotId>()) else { return false };
    let Ok(veto) = Veto::of_line(line, vault, &dataset, (&mark, &name), "the input") else { return false };

    let key = layout::veto(&dataset, &mark, &name);
    assert_eq!(layout::parse_veto(&dataset, &key), Some((mark.clone(), name.clone())), "no key names it");
    let refused =
        |vault: &str, dataset: &Name, name: &Name| Veto::of_line(line, vault, dataset, (&mark, name), "it").is_err();
    assert!(refused(&format!("{vault}0"), &dataset, &name), "taken for another vault's");
    let other = |own: &Name| if own.as_str() == "a" { "b" } else { "a" };
    assert!(other(&dataset).parse().is_ok_and(|other| refused(vault, &other, &name)), "taken for another dataset's");
    assert!(other(&name).parse().is_ok_and(|other| refused(vault, &dataset, &other)), "taken for somebody else's");
    if let Ok(written) = veto.to_line() {
        let again = Veto::of_line(&written, vault, &dataset, (&mark, &name), "the input").ok();
        assert_eq!(again, Some(veto), "written again it is another one");
    }
    true
}
