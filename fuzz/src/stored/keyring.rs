//! A dataset's secrets: what is parsed for one place is refused for any other.

use lifeboat_format::id::Name;
use lifeboat_format::keyring::DatasetSecrets;

/// Takes `data` for the plaintext of a keyring object, of the place that it names itself.
pub fn drive(data: &[u8]) -> bool {
    let field = |name: &str| {
        let lines = std::str::from_utf8(data).ok()?.lines();
        let mut values = lines.filter_map(|line| line.strip_prefix("# ")?.strip_prefix(name)?.strip_prefix(": "));
        values.next()
    };
    let (vault, dataset) = (field("vault").unwrap_or_default(), field("dataset").unwrap_or_default());
    // Whoever reads a keyring knows the vault's id, a number.
    let vault = if vault.bytes().all(|byte| byte.is_ascii_hexdigit()) { vault } else { "0" };
    let generation = field("generation").and_then(|number| number.parse().ok()).unwrap_or_default();
    let Ok(dataset) = dataset.parse::<Name>() else { return false };
    let Ok(secrets) = DatasetSecrets::parse(data, vault, &dataset, generation) else { return false };

    let text = secrets.to_text();
    let parse = |vault: &str, dataset: &Name, generation| {
        DatasetSecrets::parse(text.as_bytes(), vault, dataset, generation).ok()
    };
    let again = parse(vault, &dataset, generation);
    assert!(
        again.is_some_and(|again| again.identity.trim_end() == secrets.identity.trim_end()
            && again.chunk_id_key.expose() == secrets.chunk_id_key.expose()),
        "written again it is something else"
    );
    let other = if dataset.as_str() == "a" { "b" } else { "a" };
    assert!(parse(&format!("{vault}0"), &dataset, generation).is_none(), "taken for another vault's");
    assert!(parse(vault, &dataset, generation.wrapping_add(1)).is_none(), "taken for another generation's");
    assert!(other.parse().is_ok_and(|other| parse(vault, &other, generation).is_none()), "taken for another dataset's");
    true
}
