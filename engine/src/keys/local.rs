//! Key files that a machine makes for itself: a backup host's, and a drill host's.
//!
//! **It never overwrites a key.** What is there is used, so whatever makes keys can be cut short
//! and run again. A file is whole or not there.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use lifeboat_base::secret::{Secret, SecretRef};
use lifeboat_base::{Class, Context, Error, Result};
use zeroize::Zeroizing;

use super::seal::HostKey;
use super::sign::Signer;

/// The drill host's age identity, in its key directory.
const DRILL_IDENTITY_FILE: &str = "drill-identity";
/// The key that signs its reports.
const DRILL_SIGNER_FILE: &str = "drill-signer";

/// A drill host's keys.
pub(super) struct DrillKeys {
    pub(super) recipient: String,
    pub(super) signer: String,
    /// The files, and which were made now.
    pub(super) files: [(PathBuf, bool); 2],
}

/// The host key in this file, which is made where there is none, and whether it was made.
///
/// # Errors
/// There is a bundle that it was to open, and no key; or it cannot be read or written.
pub(super) fn host_key(place: &SecretRef, bundle: &SecretRef) -> Result<(HostKey, bool)> {
    if place.path().exists() {
        return Ok((HostKey::parse(&place.read()?)?, false));
    }
    if bundle.path().exists() {
        return Err(Error::keys(format!(
            "{} exists but {} is missing",
            bundle.path().display(),
            place.path().display()
        ))
        .hint("restore host.key; if it is lost, move host-keys away and run `lifeboat init --identity MASTER`"));
    }
    let key = HostKey::generate();
    write_new(place.path(), key.to_text().as_bytes())?;
    Ok((key, true))
}

/// The drill host's keys in `folder`, made where they are missing. `again` is the command to run
/// again.
///
/// # Errors
/// A file is there and is no key, or one cannot be written.
pub(super) fn drill_keys(folder: &Path, again: &str) -> Result<DrillKeys> {
    let (identity_file, signer_file) = (folder.join(DRILL_IDENTITY_FILE), folder.join(DRILL_SIGNER_FILE));
    let away = format!("move {} away, and run `{again}` again", folder.display());
    // A run that was cut short has made them, or this host lost its other keys: they are as good.
    let found = |file: &Path| {
        let named = |error: Error| {
            error.within(format!("the key {} is there already, and cannot be used", file.display())).hint(away.clone())
        };
        SecretRef::file(file).read_if_any().map_err(named)
    };
    let unusable =
        |file: &Path| Error::keys(format!("{} is there already, and is no key", file.display())).hint(away.clone());
    let identity = found(&identity_file)?.map(|text| parse_identity(&text).ok_or_else(|| unusable(&identity_file)));
    let signer =
        found(&signer_file)?.map(|text| Signer::parse(&text).map_err(|error| unusable(&signer_file).because(error)));
    let (identity, signer) = (identity.transpose()?, signer.transpose()?);
    let created = [identity.is_none(), signer.is_none()];
    let identity = identity.unwrap_or_else(age::x25519::Identity::generate);
    let signer = signer.map_or_else(Signer::generate, Ok)?;
    let text = Zeroizing::new(format!("# lifeboat drill identity\n{}\n", identity.to_string().expose_secret()));
    if created[0] {
        write_new(&identity_file, text.as_bytes())?;
    }
    if created[1] {
        write_new(&signer_file, signer.to_text()?.as_bytes())?;
    }
    Ok(DrillKeys {
        recipient: identity.to_public().to_string(),
        signer: signer.public().to_string(),
        files: [(identity_file, created[0]), (signer_file, created[1])],
    })
}

/// The X25519 identity in a file of keys.
pub(crate) fn parse_identity(text: &Secret) -> Option<age::x25519::Identity> {
    let text = std::str::from_utf8(text.expose()).ok()?;
    text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?.parse().ok()
}

/// Writes a file of mode 0600 that is not there yet. Who is cut short leaves no half of a key where
/// the key belongs.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut file = tempfile::Builder::new().prefix(".unfinished-").tempfile_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path)?;
        File::open(folder)?.sync_all()
    };
    write().context(Class::Keys, || format!("cannot write the key file {}", path.display()))
}
