//! Reads identities from files: X25519 identities of age, ssh-ed25519 keys without a passphrase,
//! plugins.

use std::sync::Arc;

use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};

use super::SharedIdentity;
use super::ssh::SshIdentity;

/// Parses an age identity file or an OpenSSH private key. `shown` names the file in errors.
///
/// # Errors
/// [`Class::Keys`](lifeboat_base::Class::Keys) if there is no identity in it, or if a
/// passphrase protects it.
pub fn parse_identities(text: &Secret, shown: &str) -> Result<Vec<SharedIdentity>> {
    if text.expose().trim_ascii_start().starts_with(b"-----BEGIN") {
        return SshIdentity::parse(text, shown).map(|identity| vec![Arc::new(identity) as SharedIdentity]);
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
