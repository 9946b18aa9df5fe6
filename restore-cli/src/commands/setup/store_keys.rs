//! The keys of a bucket: asked for, or read from a file or the environment, never from argv. They
//! lie where the units find them, with mode 0600, only after the store has accepted them.

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};

use lifeboat_engine::base::Context;
use lifeboat_engine::base::secret;
use lifeboat_engine::config::{Secret, SecretRef};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::{Class, Error, Result};
use tempfile::NamedTempFile;

use super::ask;
use super::place::{Installation, Part};
use crate::session::Session;

/// What a flag writes for the usual chain of AWS, such as the role of an instance.
const CHAIN: &str = "chain";
/// No key of a store is longer.
const MAX_STORE_KEY_BYTES: usize = 8192;

/// `NAME=FILE`, or `NAME=chain`.
#[derive(Debug, Clone)]
pub(super) struct KeysFrom {
    name: Name,
    from: PathBuf,
}

impl KeysFrom {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, from) = text.split_once('=').ok_or("write NAME=FILE, or NAME=chain")?;
        let name = name.parse().map_err(|error: Error| error.chain_and_hint())?;
        Ok(Self { name, from: from.into() })
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }
}

/// The keys of one bucket, before the store was asked whether they are right.
pub(super) enum StoreKeys {
    /// AWS's usual chain finds them.
    Chain,
    /// They are where they belong.
    Kept(PathBuf),
    /// They are in a private file, which goes where they belong, or away.
    Staged(NamedTempFile),
}

impl StoreKeys {
    /// The keys of the replica `name`, from the first place that has them: a flag, the environment,
    /// where they belong, a person.
    ///
    /// # Errors
    /// None has them, or what it has are no keys.
    pub(super) async fn find(name: &Name, flags: &[KeysFrom], at: &Installation, session: &Session) -> Result<Self> {
        let flag = flags.iter().find(|flag| flag.name == *name);
        if let Some(flag) = flag {
            if flag.from == Path::new(CHAIN) {
                return Ok(Self::Chain);
            }
            return stage(at, secret::read_given(&flag.from)?.expose());
        }
        if let Some(text) = of_environment(name, session.variable)? {
            return stage(at, text.expose());
        }
        let place = at.credentials().join(name.as_str());
        if place.exists() {
            return Ok(Self::Kept(place));
        }
        let variable = variable_of(name, ACCESS);
        if !session.out.can_ask() {
            let form = keys_form(name, at.part);
            return Err(Error::keys(format!("the keys of the store of replica {name} are not given, and there is no terminal to ask on"))
                .hint(format!("pass --store-keys {form}, a file of mode 0600 with [default], aws_access_key_id and aws_secret_access_key; or set {variable} and {}; or write `{CHAIN}` for FILE for the role of an instance", variable_of(name, SECRET))));
        }
        let access = ask::line(session, &format!("Access key id of replica {name}: ")).await?;
        let key = ask::secret(session, &format!("Secret access key of replica {name} (not shown): ")).await?;
        stage(at, profile(name, access.as_bytes(), key.expose(), None)?.expose())
    }

    /// The file that holds them; `None` for the chain.
    pub(super) fn file(&self) -> Option<SecretRef> {
        match self {
            Self::Chain => None,
            Self::Kept(path) => Some(SecretRef::file(path)),
            Self::Staged(file) => Some(SecretRef::file(file.path())),
        }
    }

    /// Puts them where they belong, unless they are there already.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn put(self, name: &Name, at: &Installation) -> Result<()> {
        let Self::Staged(file) = self else { return Ok(()) };
        let place = at.credentials().join(name.as_str());
        let staged = secret::read_given(file.path())?;
        if secret::read_given(&place).is_ok_and(|there| there.expose() == staged.expose()) {
            return Ok(());
        }
        let written = file.persist(&place).map_err(|error| error.error).and_then(|file| file.sync_all());
        written.context(Class::Keys, || format!("cannot write {}", place.display()))
    }
}

/// What a flag writes behind `--store-keys` for the replica `name`. A drill host has one.
pub(super) fn keys_form(name: impl Display, part: Part) -> String {
    match part {
        Part::Backup => format!("{name}=FILE"),
        Part::Drill => "FILE".to_owned(),
    }
}

const ACCESS: &str = "ACCESS_KEY_ID";
const SECRET: &str = "SECRET_ACCESS_KEY";
const TOKEN: &str = "SESSION_TOKEN";

/// `LIFEBOAT_NEAR_ACCESS_KEY_ID` for the replica `near`.
fn variable_of(name: &Name, what: &str) -> String {
    let name: String =
        name.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("LIFEBOAT_{name}_{what}")
}

fn of_environment(name: &Name, variable: fn(&str) -> Option<std::ffi::OsString>) -> Result<Option<Secret>> {
    let value = |what| {
        let text = variable(&variable_of(name, what)).map(std::os::unix::ffi::OsStringExt::into_vec);
        text.filter(|text| !text.is_empty()).map(Secret::new)
    };
    match (value(ACCESS), value(SECRET)) {
        (None, None) => Ok(None),
        (Some(access), Some(key)) => profile(name, access.expose(), key.expose(), value(TOKEN).as_ref()).map(Some),
        (access, _) => {
            let lacking = variable_of(name, if access.is_some() { SECRET } else { ACCESS });
            Err(Error::keys(format!("{lacking} is not set, and its other half is")).hint("set both, or none"))
        }
    }
}

/// The text of a file in the format of AWS's shared credentials.
fn profile(name: &Name, access: &[u8], key: &[u8], token: Option<&Secret>) -> Result<Secret> {
    let is_bad = |value: &[u8]| {
        value.is_empty() || value.len() > MAX_STORE_KEY_BYTES || value.iter().any(|byte| !(0x21..0x7f).contains(byte))
    };
    if is_bad(access) || is_bad(key) || token.is_some_and(|token| is_bad(token.expose())) {
        return Err(Error::keys(format!("these are no keys of a store for replica {name}"))
            .because("a key is empty, too long, or has blanks or strange characters")
            .hint("copy the keys again, from the console of the store"));
    }
    let mut text = Vec::with_capacity(3 * MAX_STORE_KEY_BYTES);
    for (line, value) in [
        ("[default]\naws_access_key_id = ", access),
        ("\naws_secret_access_key = ", key),
        ("\naws_session_token = ", token.map(Secret::expose).unwrap_or_default()),
        ("\n", b""),
    ] {
        if !value.is_empty() || line == "\n" {
            text.extend_from_slice(line.as_bytes());
            text.extend_from_slice(value);
        }
    }
    Ok(Secret::new(text))
}

/// A private file in the key directory; what is not put in place goes with the program, or is
/// overlooked by everybody.
pub(super) fn stage(at: &Installation, text: &[u8]) -> Result<StoreKeys> {
    at.make_folders()?;
    let failed = || format!("cannot write into {}", at.keys.display());
    let mut file =
        tempfile::Builder::new().prefix(".unfinished-").tempfile_in(&at.keys).context(Class::Keys, failed)?;
    file.write_all(text).and_then(|()| file.as_file().sync_all()).context(Class::Keys, failed)?;
    Ok(StoreKeys::Staged(file))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_leave_their_line() {
        let name: Name = "far-2".parse().unwrap();
        assert_eq!(variable_of(&name, ACCESS), "LIFEBOAT_FAR_2_ACCESS_KEY_ID");
        let text = profile(&name, b"AKIA", b"a/b+c=", None).unwrap();
        assert_eq!(text.expose(), b"[default]\naws_access_key_id = AKIA\naws_secret_access_key = a/b+c=\n");
        for bad in [&b""[..], b"a b", b"a\nrole_arn = x", b"\xff", &[b'a'; MAX_STORE_KEY_BYTES + 1]] {
            assert!(profile(&name, b"AKIA", bad, None).is_err() && profile(&name, bad, b"k", None).is_err());
        }
    }
}
