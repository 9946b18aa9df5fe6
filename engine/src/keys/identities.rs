//! Reads identities from files: X25519 identities of age, ssh keys without a passphrase, plugins.

use std::sync::Arc;

use lifeboat_base::secret::Secret;
use lifeboat_base::{Class, Context, Error, Result};

use super::SharedIdentity;

/// Parses an age identity file or an OpenSSH private key. `shown` names the file in errors.
///
/// # Errors
/// [`Class::Keys`] if there is no identity in it, or if a passphrase protects it.
pub fn parse_identities(text: &Secret, shown: &str) -> Result<Vec<SharedIdentity>> {
    if text.expose().trim_ascii_start().starts_with(b"-----BEGIN") {
        return parse_ssh(text, shown).map(|identity| vec![identity]);
    }
    let identities = age::IdentityFile::from_buffer(text.expose())
        .map_err(|error| error.to_string())
        .and_then(|file| file.into_identities().map_err(|error| error.to_string()));
    match identities {
        Ok(identities) if !identities.is_empty() => Ok(identities.into_iter().map(Arc::from).collect()),
        Ok(_) => Err(Error::keys(format!("{shown} holds no age identity"))),
        // The cause is left out, because it may quote a line that is secret.
        Err(_) => Err(Error::keys(format!("{shown} is not an age identity file"))),
    }
    .map_err(|error| {
        error.hint("use a file with a line that begins with AGE-SECRET-KEY-1 or AGE-PLUGIN-; if age encrypted the file, decrypt it first")
    })
}

fn parse_ssh(text: &Secret, shown: &str) -> Result<SharedIdentity> {
    let identity = age::ssh::Identity::from_buffer(text.expose(), Some(shown.to_owned()))
        .context(Class::Keys, || format!("{shown} is not an OpenSSH private key"))?;
    match identity {
        age::ssh::Identity::Unencrypted(_) => Ok(Arc::new(identity)),
        age::ssh::Identity::Encrypted(_) => Err(Error::keys(format!("{shown} is protected by a passphrase"))
            .hint("copy it to a tmpfs, remove the passphrase of the copy with `ssh-keygen -p`, and delete the copy afterwards")),
        age::ssh::Identity::Unsupported(_) => {
            Err(Error::keys(format!("{shown} is a kind of ssh key that age does not support"))
                .hint("use an ssh-ed25519 or ssh-rsa key, or an age identity"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use age::secrecy::ExposeSecret;

    #[test]
    fn errors_do_not_quote_what_may_be_secret() {
        let secret = age::x25519::Identity::generate().to_string().expose_secret().to_owned();
        let broken = format!("{}X\n", &secret[..40]);
        let error = parse_identities(&Secret::new(broken.clone().into_bytes()), "key.txt").err();
        let shown = format!("{error:?}");
        assert!(shown.contains("key.txt") && !shown.contains(&broken[20..38]), "{shown}");
        assert!(parse_identities(&Secret::new(Vec::new()), "key.txt").is_err());
        assert!(parse_identities(&Secret::new(secret.into_bytes()), "key.txt").is_ok());
    }
}
