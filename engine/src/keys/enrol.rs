//! Makes the keys of a machine before there is a vault, and describes the machine in a line for the
//! owner, who signs the first root from such lines.
//!
//! - A backup host chooses the id of the vault that it will make. `init` finds its keys and goes on
//!   with them.
//! - A drill host makes its identity where it stays, so no secret is ever carried.
//! - No machine gets the keys of both: a backup host that holds a drill identity reads its backups.
//! - What is there is kept: a second run prints the same line.

use std::path::Path;

use lifeboat_base::secret::SecretRef;
use lifeboat_base::{Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::line::{DrillHostLine, HostLine};
use lifeboat_format::root::Pattern;

use super::bundle::Bundle;
use super::local;
use super::sign::Signer;

/// Names of key files in a key directory.
const HOST_KEY_FILE: &str = "host.key";
const HOST_BUNDLE_FILE: &str = "host-keys";
const DRILL_FILES: [&str; 2] = ["drill-identity", "drill-signer"];

/// Makes a backup host's keys in `directory`, or takes those that are there.
///
/// # Errors
/// The directory holds a drill host's keys, or keys that cannot be read or written.
pub fn enrol_host(directory: &Path, name: &Name, datasets: Vec<Pattern>) -> Result<HostLine> {
    if let Some(file) = DRILL_FILES.into_iter().find(|file| directory.join(file).exists()) {
        return Err(apart(directory, file, "a backup host that holds it could read its own backups"));
    }
    let key_file = SecretRef::file(directory.join(HOST_KEY_FILE));
    let bundle_file = SecretRef::file(directory.join(HOST_BUNDLE_FILE));
    let (key, _) = local::host_key(&key_file, &bundle_file)?;
    let bundle = if bundle_file.path().exists() {
        Bundle::read(&bundle_file, &key)?
    } else {
        let vault = data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>());
        let bundle = Bundle::new(vault, &age::x25519::Identity::generate(), &Signer::generate()?)?;
        bundle.write(&bundle_file, &key)?;
        bundle
    };
    Ok(HostLine {
        vault: bundle.vault.clone(),
        name: name.clone(),
        signer: bundle.signer()?.public().to_string(),
        operations: bundle.operations()?.to_public().to_string(),
        datasets,
    })
}

/// Makes a drill host's keys in `directory`, or takes those that are there.
///
/// # Errors
/// The directory holds a backup host's keys, or files that are no keys, or one cannot be written.
pub fn enrol_drill_host(directory: &Path, name: &Name, datasets: Vec<Pattern>) -> Result<DrillHostLine> {
    if let Some(file) = [HOST_KEY_FILE, HOST_BUNDLE_FILE].into_iter().find(|file| directory.join(file).exists()) {
        return Err(apart(directory, file, "a drill host opens what the backup host must not be able to read"));
    }
    let made = local::drill_keys(directory, "lifeboat setup drill-host")?;
    Ok(DrillHostLine { name: name.clone(), recipient: made.recipient, signer: made.signer, datasets })
}

fn apart(directory: &Path, file: &str, why: &str) -> Error {
    Error::keys(format!("{} holds {file}: this machine has the other part already", directory.display()))
        .because(why)
        .hint("use another machine, or another directory with --config")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_set_up_again_describes_itself_in_the_same_words() -> Result<()> {
        let place = tempfile::tempdir().map_err(|error| Error::failed("no directory").because(error))?;
        let (host, drill) = (place.path().join("host"), place.path().join("drill"));
        let name: Name = "db1".parse()?;
        let first = enrol_host(&host, &name, vec![Pattern::all()])?;
        assert_eq!(enrol_host(&host, &name, vec![Pattern::all()])?, first);
        let first = enrol_drill_host(&drill, &name, vec![Pattern::all()])?;
        // It was killed between its two keys.
        std::fs::remove_file(drill.join("drill-signer")).map_err(|error| Error::failed("no file").because(error))?;
        let again = enrol_drill_host(&drill, &name, vec![Pattern::all()])?;
        assert_eq!((&again.recipient, again.signer == first.signer), (&first.recipient, false));
        assert!(enrol_host(&drill, &name, Vec::new()).is_err() && enrol_drill_host(&host, &name, Vec::new()).is_err());
        Ok(())
    }
}
