//! The text of a configuration that setup writes. It carries a checksum of itself: what nobody has
//! changed since may be written again, anything else is never replaced.

use lifeboat_engine::base::Context;
use lifeboat_engine::format::id::{Digest, Name};
use lifeboat_engine::format::root::Root;
use lifeboat_engine::state::replace_file;
use lifeboat_engine::{Class, Error, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use toml::{Table, Value};

use super::place::{Installation, Part};
use super::replica_place::{PlaceKind, ReplicaPlace};
use super::sources::ChosenSource;

const MADE_BY: &str = "# Made by `lifeboat setup`, checksum ";
const CHANGE_IT: &str = "\n# Change it as you like: setup never replaces a file that was changed. `lifeboat.toml.example`\n# explains every key.\n";

/// What a configuration is made of.
pub(super) struct ConfigText<'a> {
    pub(super) at: &'a Installation,
    pub(super) host: &'a Name,
    pub(super) vault_prefix: &'a str,
    pub(super) root: &'a Root,
    /// Each with whether its endpoint takes paths, and whether it has a file of keys.
    pub(super) replicas: Vec<(&'a ReplicaPlace, bool, bool)>,
    pub(super) sources: &'a [ChosenSource],
}

impl ConfigText<'_> {
    /// The text.
    pub(super) fn write(&self) -> String {
        let mut body = String::from(CHANGE_IT);
        let mut top = vec![("host", text(self.host.as_str()))];
        if !self.vault_prefix.is_empty() {
            top.push(("vault_prefix", text(self.vault_prefix)));
        }
        let path = |path: &Path| text(&path.display().to_string());
        if self.at.user.is_none() || self.at.part == Part::Drill {
            top.push(("state_directory", path(&self.at.state)));
        }
        if self.at.user.is_none() {
            top.push(("control_socket", path(&self.at.state.join("control.sock"))));
        }
        push(&mut body, top);
        let mut keys = Vec::new();
        if self.at.user.is_none() {
            keys.push(("directory", path(&self.at.keys)));
        }
        let owners: Vec<Value> = self.root.owners.iter().map(|owner| text(&owner.signer)).collect();
        keys.push(("owners", owners.into()));
        if self.root.threshold > 1 {
            keys.push(("owner_threshold", Value::Integer(self.root.threshold as i64)));
        }
        body.push_str("\n[keys]\n# Whoever the newest root that these owners signed names is believed.\n");
        push(&mut body, keys);
        for (place, path_style, has_keys) in &self.replicas {
            body.push_str("\n[[replica]]\n");
            push(&mut body, replica(place, *path_style, *has_keys));
        }
        for source in self.sources {
            self.dataset(&mut body, source);
        }
        format!("{MADE_BY}{}{body}", Digest::of(body.as_bytes()))
    }

    fn dataset(&self, body: &mut String, source: &ChosenSource) {
        let home = self.replicas.first().map(|(place, ..)| place.region.clone()).unwrap_or_default();
        body.push_str("\n[[dataset]]\n");
        let name = text(source.name.as_str());
        push(body, vec![("name", name), ("home_region", text(&home)), ("schedule", text("@hourly"))]);
        body.push_str("\n[dataset.source]\n");
        push(body, vec![("kind", text(source.found.kind))]);
        push(body, source.found.settings.iter().map(|(key, value)| (key.as_str(), value.clone())));
        body.push_str("\n[dataset.retention]\nhourly = 48\ndaily = 14\nmonthly = 12\n");
        body.push_str("\n[dataset.objectives]\nrpo = \"2h\"\nrto = \"1h\"\n");
    }
}

fn replica(place: &ReplicaPlace, path_style: bool, has_keys: bool) -> Vec<(&'static str, Value)> {
    let kind = if matches!(place.kind, PlaceKind::Directory(_)) { "directory" } else { "s3" };
    let mut keys = vec![("name", text(place.name.as_str())), ("kind", text(kind)), ("region", text(&place.region))];
    match &place.kind {
        PlaceKind::Directory(path) => keys.push(("path", text(path))),
        PlaceKind::Bucket { bucket, endpoint, ca_file, .. } => {
            keys.push(("bucket", text(bucket)));
            keys.extend(endpoint.iter().map(|endpoint| ("endpoint", text(endpoint))));
            keys.extend(path_style.then_some(("path_style", Value::Boolean(true))));
            keys.extend(ca_file.iter().map(|ca_file| ("ca_file", text(ca_file))));
            keys.extend(has_keys.then(|| ("credentials", text(&format!("credential:{}", place.name)))));
        }
    }
    keys
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

/// Keys and values, which can be no tables.
fn push<'k>(body: &mut String, keys: impl IntoIterator<Item = (&'k str, Value)>) {
    for (key, value) in keys {
        body.push_str(&format!("{key} = {value}\n"));
    }
}

/// What may be lost of a configuration that setup wrote and nobody changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lose {
    Nothing,
    /// Datasets, replicas and where they are: whoever runs the set-up said so.
    Places,
}

/// What a configuration is beside the one that is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It says the same.
    Same,
    /// It says something else, or nothing was there. What it lets go, for people.
    New(Vec<String>),
}

impl Change {
    /// What to tell whoever is asked to agree.
    pub(super) fn warning(&self) -> Option<String> {
        match self {
            Self::New(lost) if !lost.is_empty() => {
                Some(format!("the configuration that is there is replaced by one that has: {}", lost.join(", ")))
            }
            Self::Same | Self::New(_) => None,
        }
    }
}

impl Lose {
    /// As the flag `--replace` says.
    pub(super) fn of_flag(replace: bool) -> Self {
        if replace { Self::Places } else { Self::Nothing }
    }
}

/// Refuses to replace a file that somebody changed, and one that says more than `lose` allows to
/// lose.
///
/// # Errors
/// [`Class::Configuration`]: it was changed, says more, or setup did not write it.
pub(super) fn check_place(path: &Path, text: &str, lose: Lose) -> Result<Change> {
    let there = match std::fs::read_to_string(path) {
        Ok(there) => there,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Change::New(Vec::new())),
        Err(error) => return Err(Error::configuration(format!("cannot read {}", path.display())).because(error)),
    };
    if there == text {
        return Ok(Change::Same);
    }
    if is_unchanged(&there) {
        return let_go(path, &there, text, lose).map(Change::New);
    }
    Err(Error::configuration(format!("{} is there, and setup did not write what it says now", path.display()))
        .because("a configuration that somebody wrote is never replaced")
        .hint("to begin anew, move it away and run this again; to keep it, go on with `lifeboat init` and `lifeboat check`"))
}

/// What a new configuration lets go of the old one, which is not backed up any more. Refuses to let
/// go more than `lose` allows. No flag changes who is believed, and by how many owners: a thief of
/// one owner's key could sign a root that asks for fewer. Nor does one change where the vault is: a
/// forgotten prefix would begin a new one, without a word.
fn let_go(path: &Path, old: &str, new: &str, lose: Lose) -> Result<Vec<String>> {
    let parsed = |text: &str| text.parse::<Table>().context(Class::Configuration, || "a configuration is no TOML");
    let (old, new) = (parsed(old)?, parsed(new)?);
    let refused = |lost: &[String]| {
        Error::configuration(format!("{} says more than this set-up", path.display()))
            .because(format!("it would have: {}", lost.join(", ")))
    };
    if old.get("keys") != new.get("keys") {
        return Err(refused(&["another [keys]: other owners, or another number of them who must sign".to_owned()])
            .hint("pass the root that your owners signed; if they changed, change [keys] by hand: from then on the file is yours, and setup leaves it alone"));
    }
    let elsewhere =
        ["host", "vault_prefix", "state_directory"].into_iter().filter(|key| old.get(*key) != new.get(*key));
    let elsewhere: Vec<String> = elsewhere.map(|key| format!("another {key}")).collect();
    if !elsewhere.is_empty() {
        return Err(refused(&elsewhere)
            .hint("pass the same flags as before, such as --vault-prefix; to begin anew, move the file away first"));
    }
    let mut lost = Vec::new();
    for (list, keys) in [("replica", &PLACE_KEYS[..]), ("dataset", &SOURCE_KEYS[..])] {
        let (was, is) = (named(&old, list), named(&new, list));
        for (name, old) in &was {
            match is.iter().find(|(other, _)| other == name) {
                None => lost.push(format!("no {list} {name}")),
                Some((_, new)) if keys.iter().any(|key| old.get(*key) != new.get(*key)) => {
                    lost.push(format!("{list} {name} elsewhere"));
                }
                Some(_) => {}
            }
        }
    }
    if lost.is_empty() || lose == Lose::Places {
        return Ok(lost);
    }
    Err(refused(&lost)
        .hint("name everything again that is to stay, beside what is new; to let the rest go, add --replace"))
}

/// Whether the configuration that is there names this directory as a replica's.
pub(super) fn names_directory(config: &Path, directory: &str) -> bool {
    let there = std::fs::read_to_string(config).ok().and_then(|text| text.parse::<Table>().ok());
    let replicas = there.as_ref().and_then(|table| table.get("replica")?.as_array());
    replicas.into_iter().flatten().any(|replica| replica.get("path").and_then(Value::as_str) == Some(directory))
}

/// What says where a replica is, …
const PLACE_KEYS: [&str; 5] = ["kind", "region", "bucket", "endpoint", "path"];
/// … and what a dataset captures.
const SOURCE_KEYS: [&str; 1] = ["source"];

/// The tables of a list, by their names.
fn named<'t>(config: &'t Table, list: &str) -> Vec<(&'t str, &'t Value)> {
    let tables = config.get(list).and_then(Value::as_array).into_iter().flatten();
    tables.filter_map(|table| Some((table.get("name")?.as_str()?, table))).collect()
}

fn is_unchanged(text: &str) -> bool {
    let told = text.strip_prefix(MADE_BY).and_then(|rest| rest.split_once('\n'));
    told.is_some_and(|(checksum, body)| Digest::of(format!("\n{body}").as_bytes()).to_string() == checksum)
}

/// Writes it, for everybody to read, unless it is there: it holds no secret.
///
/// # Errors
/// The disk fails.
pub(super) fn put(path: &Path, text: &str) -> Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    replace_file(path, text.as_bytes())?;
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(path, readable)
        .context(Class::Storage, || format!("cannot change the mode of {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn made(body: &str) -> String {
        format!("{MADE_BY}{}{body}", Digest::of(body.as_bytes()))
    }

    #[test]
    fn only_what_setup_wrote_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("lifeboat.toml");
        let check = |text: &str| check_place(&file, text, Lose::Nothing);
        let (old, new) = (made("\nhost = \"a\"\n"), made("\nhost = \"b\"\n"));
        let nothing = || Change::New(Vec::new());
        assert_eq!(check(&new).unwrap(), nothing());
        put(&file, &old).unwrap();
        assert_eq!(check(&old).unwrap(), Change::Same);
        for lose in [Lose::Nothing, Lose::Places] {
            let refused = check_place(&file, &new, lose).unwrap_err();
            assert!(refused.chain().contains("another host"), "{refused}");
        }
        let more = made("\nhost = \"a\"\n[[dataset]]\nname = \"x\"\n[dataset.source]\npath = \"/x\"\n");
        assert_eq!(check(&more).unwrap(), nothing());
        put(&file, &more).unwrap();
        let moved = made("\nhost = \"a\"\n[[dataset]]\nname = \"x\"\n[dataset.source]\npath = \"/y\"\n");
        for (other, lost) in [(&old, "no dataset x"), (&moved, "dataset x elsewhere")] {
            let refused = check(other).unwrap_err();
            assert!(refused.chain_and_hint().contains(lost), "{refused}");
            assert!(refused.hint_text().unwrap().contains("--replace"), "{refused}");
            assert_eq!(check_place(&file, other, Lose::Places).unwrap(), Change::New(vec![lost.to_owned()]));
        }
        for not_ours in [old.replace("\"a\"", "\"c\""), "host = \"a\"\n".to_owned()] {
            std::fs::write(&file, not_ours).unwrap();
            assert!(check(&new).is_err() && check_place(&file, &new, Lose::Places).is_err());
        }
    }

    #[test]
    fn no_flag_changes_who_is_believed() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("lifeboat.toml");
        let keys = |keys: &str| made(&format!("\nhost = \"a\"\n[keys]\n{keys}\n"));
        put(&file, &keys("owners = [\"a\", \"b\"]\nowner_threshold = 2")).unwrap();
        for changed in [
            "owners = [\"a\", \"b\"]",
            "owners = [\"a\", \"b\"]\nowner_threshold = 1",
            "owners = [\"a\", \"thief\"]\nowner_threshold = 2",
            "owners = [\"a\", \"b\"]\nowner_threshold = 2\ndirectory = \"/tmp\"",
        ] {
            for lose in [Lose::Nothing, Lose::Places] {
                let refused = check_place(&file, &keys(changed), lose).unwrap_err().chain();
                assert!(refused.contains("other owners"), "{changed}: {refused}");
            }
        }
        let more = keys("owners = [\"a\", \"b\"]\nowner_threshold = 2\n[retention]\ndaily = 1");
        assert!(check_place(&file, &more, Lose::Places).is_ok());
    }
}
