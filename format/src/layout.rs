//! The keys of all objects, relative to the vault's prefix: made from names and ids, and parsed
//! back.

use crate::id::{Name, PackId, SnapshotId};
use crate::log::{LogName, MAX_LOG_NUMBER};
use crate::record::RecordType;

/// What the vault is: its format, what it requires, its id.
pub const VAULT: &str = "vault.json";

/// All keyring objects lie below it.
pub const KEYRING: &str = "keyring/";

/// All host descriptions lie below it.
pub const HOSTS: &str = "hosts/";

/// All roots lie below it.
pub const ROOTS: &str = "root/";

/// All logs of principals lie below it.
pub const LOGS: &str = "log/";

/// All datasets lie below it.
pub const DATASETS: &str = "datasets/";

const SIGNATURE_SUFFIX: &str = ".minisig";
const PACK_SUFFIX: &str = ".zst.age";
const INDEX_SUFFIX: &str = ".zst.age";
const MANIFEST_SUFFIX: &str = ".json.zst.age";

/// The root of this version.
#[must_use]
pub fn root(version: u64) -> String {
    format!("{ROOTS}{version}.json")
}

/// The version of the root that a key names.
#[must_use]
pub fn parse_root(key: &str) -> Option<u64> {
    let version = key.strip_prefix(ROOTS)?.strip_suffix(".json")?.parse().ok()?;
    (root(version) == key).then_some(version)
}

/// An owner's signature of a root.
#[must_use]
pub fn root_signature(version: u64, owner: &Name) -> String {
    format!("{}.{owner}{SIGNATURE_SUFFIX}", root(version))
}

/// The version of the root and the owner of a signature that a key names.
#[must_use]
pub fn parse_root_signature(key: &str) -> Option<(u64, Name)> {
    let (version, owner) = key.strip_prefix(ROOTS)?.strip_suffix(SIGNATURE_SUFFIX)?.split_once(".json.")?;
    let (version, owner) = (version.parse().ok()?, owner.parse().ok()?);
    (root_signature(version, &owner) == key).then_some((version, owner))
}

/// The records of one log lie below it.
#[must_use]
pub fn log(log: &LogName) -> String {
    format!("{LOGS}{log}/")
}

/// The record of this number.
#[must_use]
pub fn log_record(of: &LogName, number: u64) -> String {
    format!("{}{number}.record", log(of))
}

/// The log and the number of the record that a key names.
#[must_use]
pub fn parse_log_record(key: &str) -> Option<(LogName, u64)> {
    let (of, record) = key.strip_prefix(LOGS)?.rsplit_once('/')?;
    let (of, number) = (of.parse().ok()?, record.strip_suffix(".record")?.parse().ok()?);
    ((1..=MAX_LOG_NUMBER).contains(&number) && log_record(&of, number) == key).then_some((of, number))
}

/// A host's public half.
#[must_use]
pub fn host(host: &Name) -> String {
    format!("{HOSTS}{host}.json")
}

/// The host whose public half a key names.
#[must_use]
pub fn parse_host(key: &str) -> Option<Name> {
    let name: Name = key.strip_prefix(HOSTS)?.strip_suffix(".json")?.parse().ok()?;
    (host(&name) == key).then_some(name)
}

/// A host's operations identity, wrapped to the masters.
#[must_use]
pub fn host_identity(host: &Name) -> String {
    format!("{KEYRING}hosts/{host}.age")
}

/// The host whose wrapped operations identity a key names.
#[must_use]
pub fn parse_host_identity(key: &str) -> Option<Name> {
    let name: Name = key.strip_prefix(KEYRING)?.strip_prefix("hosts/")?.strip_suffix(".age")?.parse().ok()?;
    (host_identity(&name) == key).then_some(name)
}

/// The dataset and the generation of a keyring object.
#[must_use]
pub fn parse_keyring(key: &str) -> Option<(Name, u32)> {
    let (name, _) = key.strip_prefix(KEYRING)?.strip_prefix("datasets/")?.split_once('/')?;
    let name: Name = name.parse().ok()?;
    let generation = parse_keyring_generation(&name, key)?;
    Some((name, generation))
}

/// A dataset's keyring objects lie below it.
#[must_use]
pub fn keyring(dataset: &Name) -> String {
    format!("{KEYRING}datasets/{dataset}/")
}

/// A dataset's identity and chunk-id key of one generation, wrapped.
#[must_use]
pub fn keyring_generation(dataset: &Name, generation: u32) -> String {
    format!("{}{generation}.age", keyring(dataset))
}

/// The generation that a keyring object is for.
#[must_use]
pub fn parse_keyring_generation(dataset: &Name, key: &str) -> Option<u32> {
    let generation = key.strip_prefix(&keyring(dataset))?.strip_suffix(".age")?.parse().ok()?;
    (keyring_generation(dataset, generation) == key).then_some(generation)
}

/// Everything of one dataset, keyring aside, lies below it.
#[must_use]
pub fn dataset(dataset: &Name) -> String {
    format!("{DATASETS}{dataset}/")
}

/// A dataset's packs lie below it.
#[must_use]
pub fn packs(dataset: &Name) -> String {
    format!("{DATASETS}{dataset}/packs/")
}

/// A pack.
#[must_use]
pub fn pack(dataset: &Name, id: &PackId) -> String {
    let id = id.to_string();
    format!("{}{}/{id}{PACK_SUFFIX}", packs(dataset), &id[..2])
}

/// The pack that a key names.
#[must_use]
pub fn parse_pack(dataset: &Name, key: &str) -> Option<PackId> {
    let id: PackId = key.strip_suffix(PACK_SUFFIX)?.rsplit('/').next()?.parse().ok()?;
    (pack(dataset, &id) == key).then_some(id)
}

/// Index segments lie below it.
#[must_use]
pub fn indexes(dataset: &Name) -> String {
    format!("{DATASETS}{dataset}/index/")
}

/// The index segment of the packs that a snapshot added.
#[must_use]
pub fn index(dataset: &Name, snapshot: &SnapshotId) -> String {
    format!("{}{snapshot}{INDEX_SUFFIX}", indexes(dataset))
}

/// The snapshot whose index segment a key names.
#[must_use]
pub fn parse_index(dataset: &Name, key: &str) -> Option<SnapshotId> {
    key.strip_prefix(&indexes(dataset))?.strip_suffix(INDEX_SUFFIX)?.parse().ok()
}

/// Manifests lie below it.
#[must_use]
pub fn snapshots(dataset: &Name) -> String {
    format!("{DATASETS}{dataset}/snapshots/")
}

/// A manifest.
#[must_use]
pub fn manifest(dataset: &Name, snapshot: &SnapshotId) -> String {
    format!("{}{snapshot}{MANIFEST_SUFFIX}", snapshots(dataset))
}

/// The snapshot whose manifest a key names.
#[must_use]
pub fn parse_manifest(dataset: &Name, key: &str) -> Option<SnapshotId> {
    key.strip_prefix(&snapshots(dataset))?.strip_suffix(MANIFEST_SUFFIX)?.parse().ok()
}

/// Lists of what snapshots need lie below it.
#[must_use]
pub fn all_needs(dataset: &Name) -> String {
    format!("{DATASETS}{dataset}/needs/")
}

/// What a snapshot needs.
#[must_use]
pub fn needs(dataset: &Name, snapshot: &SnapshotId) -> String {
    format!("{}{snapshot}.needs", all_needs(dataset))
}

/// The snapshot whose needs a key names.
#[must_use]
pub fn parse_needs(dataset: &Name, key: &str) -> Option<SnapshotId> {
    key.strip_prefix(&all_needs(dataset))?.strip_suffix(".needs")?.parse().ok()
}

/// Drill reports lie below it.
#[must_use]
pub fn drills(dataset: &Name) -> String {
    format!("{DATASETS}{dataset}/drills/")
}

/// A drill report.
#[must_use]
pub fn drill(dataset: &Name, drill: &SnapshotId) -> String {
    format!("{}{drill}.json", drills(dataset))
}

/// Prune records lie below it.
#[must_use]
pub fn prunes(dataset: &Name) -> String {
    format!("{DATASETS}{dataset}/prunes/")
}

/// A prune record.
#[must_use]
pub fn prune(dataset: &Name, id: &SnapshotId) -> String {
    format!("{}{id}.json", prunes(dataset))
}

/// Marks lie below it.
#[must_use]
pub fn marks(dataset: &Name) -> String {
    format!("{DATASETS}{dataset}/marks/")
}

/// A mark.
#[must_use]
pub fn mark(dataset: &Name, id: &SnapshotId) -> String {
    format!("{}{id}.json", marks(dataset))
}

/// Vetoes lie below it.
#[must_use]
pub fn vetoes(dataset: &Name) -> String {
    format!("{DATASETS}{dataset}/vetoes/")
}

/// Somebody's veto of a mark.
#[must_use]
pub fn veto(dataset: &Name, mark: &SnapshotId, name: &Name) -> String {
    format!("{}{mark}.{name}.veto", vetoes(dataset))
}

/// The mark, and whose veto a key names.
#[must_use]
pub fn parse_veto(dataset: &Name, key: &str) -> Option<(SnapshotId, Name)> {
    let (mark, name) = key.strip_prefix(&vetoes(dataset))?.strip_suffix(".veto")?.split_once('.')?;
    let (mark, name) = (mark.parse().ok()?, name.parse().ok()?);
    (veto(dataset, &mark, &name) == key).then_some((mark, name))
}

/// Acts lie below it.
#[must_use]
pub fn order(dataset: &Name) -> String {
    format!("{DATASETS}{dataset}/order/")
}

/// The act of this number.
#[must_use]
pub fn act(dataset: &Name, number: u64) -> String {
    format!("{}{number}.act", order(dataset))
}

/// The number of the act that a key names.
#[must_use]
pub fn parse_act(dataset: &Name, key: &str) -> Option<u64> {
    let number = key.strip_prefix(&order(dataset))?.strip_suffix(".act")?.parse().ok()?;
    (act(dataset, number) == key).then_some(number)
}

/// The lease of the host that works on a dataset.
#[must_use]
pub fn lease(dataset: &Name) -> String {
    format!("{DATASETS}{dataset}/lease")
}

/// A record of this type.
#[must_use]
pub fn record(dataset: &Name, of: RecordType, id: &SnapshotId) -> String {
    match of {
        RecordType::Prune => prune(dataset, id),
        RecordType::Mark => mark(dataset, id),
        RecordType::Drill => drill(dataset, id),
    }
}

/// The id in the key of a `.json` object below `folder`.
#[must_use]
pub fn parse_json(folder: &str, key: &str) -> Option<SnapshotId> {
    key.strip_prefix(folder)?.strip_suffix(".json")?.parse().ok()
}

/// The signature beside an object.
#[must_use]
pub fn signature(key: &str) -> String {
    format!("{key}{SIGNATURE_SUFFIX}")
}

/// The key of the object that the signature of this key signs; `None` if it is no signature.
#[must_use]
pub fn signed_object(key: &str) -> Option<&str> {
    key.strip_suffix(SIGNATURE_SUFFIX)
}

/// Whether a key is that of a signature.
#[must_use]
pub fn is_signature(key: &str) -> bool {
    key.ends_with(SIGNATURE_SUFFIX)
}

/// The trusted comment of a signature, which says what it is for: vault id and key.
#[must_use]
pub fn trusted_comment(vault: &str, key: &str) -> String {
    format!("lifeboat {vault} {key}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_base::Result;

    #[test]
    fn keys_parse_back_and_strangers_do_not() -> Result<()> {
        let shop: Name = "shop".parse()?;
        let id: SnapshotId = "20261123T183244123Z-9f2c81aa".parse()?;
        let pack_id = PackId::of(b"x");
        assert_eq!(parse_pack(&shop, &pack(&shop, &pack_id)), Some(pack_id));
        assert_eq!(parse_manifest(&shop, &manifest(&shop, &id)), Some(id.clone()));
        assert_eq!(parse_index(&shop, &index(&shop, &id)), Some(id.clone()));
        assert_eq!(parse_json(&drills(&shop), &drill(&shop, &id)), Some(id.clone()));
        assert_eq!(parse_act(&shop, &act(&shop, 7)), Some(7));
        assert_eq!(parse_needs(&shop, &needs(&shop, &id)), Some(id.clone()));
        assert_eq!(parse_veto(&shop, &veto(&shop, &id, &shop)), Some((id.clone(), shop.clone())));
        assert_eq!(parse_veto(&shop, &veto(&shop, &id, &shop).replace("shop.veto", "Shop.veto")), None);
        assert_eq!(parse_act(&shop, "datasets/shop/order/07.act"), None);
        assert_eq!(parse_json(&marks(&shop), &mark(&shop, &id)), Some(id.clone()));
        assert_eq!(parse_keyring_generation(&shop, &keyring_generation(&shop, 7)), Some(7));
        for other_form in ["+7", "007"] {
            assert_eq!(parse_keyring_generation(&shop, &format!("{}{other_form}.age", keyring(&shop))), None);
        }
        assert_eq!(parse_keyring(&keyring_generation(&shop, 7)), Some((shop.clone(), 7)));
        assert_eq!(parse_root(&root(7)), Some(7));
        assert_eq!((parse_root("root/07.json"), parse_root(&root_signature(7, &shop))), (None, None));
        assert_eq!(parse_root_signature(&root_signature(7, &shop)), Some((7, shop.clone())));
        assert_eq!(parse_root_signature("root/07.json.shop.minisig"), None);
        let own: LogName = "drill-hosts/shop".parse()?;
        assert_eq!(parse_log_record(&log_record(&own, 7)), Some((own, 7)));
        for other in ["log/drill-hosts/shop/07.record", "log/drill-hosts/shop/0.record", "log/kings/shop/7.record"] {
            assert_eq!(parse_log_record(other), None, "{other}");
        }
        assert_eq!(parse_host(&host(&shop)), Some(shop.clone()));
        assert_eq!(parse_host_identity(&host_identity(&shop)), Some(shop.clone()));
        for stranger in
            ["hosts/host.key", "hosts/a/b.json", "hosts/.json", "keyring/hosts/x", "keyring/datasets/x/y.age"]
        {
            let found = (parse_host(stranger), parse_host_identity(stranger), parse_keyring(stranger));
            assert_eq!(found, (None, None, None), "{stranger}");
        }
        assert_eq!(parse_manifest(&shop, &signature(&manifest(&shop, &id))), None);
        assert_eq!(parse_pack(&shop, &pack(&shop, &pack_id).replace("/packs/", "/packs/x")), None);
        assert_eq!(parse_pack(&"other".parse()?, &pack(&shop, &pack_id)), None);
        Ok(())
    }
}
