//! age (age-encryption.org/v1), whole messages in memory. Every message has its own file key.

use std::io::{Read, Write};

use age::{DecryptError, Decryptor, Encryptor, Identity, Recipient};

use crate::error::{Class, Context, Error, Result};

/// Encrypts to every one of `recipients`.
///
/// # Errors
/// [`Class::Keys`]: no recipient, or one that cannot wrap (a plugin that is not installed).
pub fn encrypt<'a>(recipients: impl Iterator<Item = &'a dyn Recipient>, plaintext: &[u8]) -> Result<Vec<u8>> {
    let encryptor = Encryptor::with_recipients(recipients).context(Class::Keys, || "age cannot encrypt")?;
    let sealed = || -> std::io::Result<Vec<u8>> {
        let capacity = plaintext.len() + (plaintext.len() / (64 << 10) + 1) * 16 + 1024;
        let mut writer = encryptor.wrap_output(Vec::with_capacity(capacity))?;
        writer.write_all(plaintext)?;
        writer.finish()
    };
    sealed().context(Class::Failed, || "age cannot encrypt")
}

/// Decrypts with the first identity that fits.
///
/// # Errors
/// [`Class::Keys`] if none fits; [`Class::Integrity`] if the message is damaged or longer than `limit` bytes.
pub fn decrypt<'a>(
    identities: impl Iterator<Item = &'a dyn Identity>,
    ciphertext: &[u8],
    limit: usize,
) -> Result<Vec<u8>> {
    let opened = Decryptor::new_buffered(ciphertext).and_then(|decryptor| decryptor.decrypt(identities));
    let reader = opened.map_err(|error| match error {
        DecryptError::NoMatchingKeys | DecryptError::KeyDecryptionFailed => Error::keys("no identity at hand opens it"),
        other => Error::integrity("not a whole age file").because(other.to_string()),
    })?;
    let mut plaintext = Vec::with_capacity(ciphertext.len().min(limit));
    reader
        .take(limit as u64 + 1)
        .read_to_end(&mut plaintext)
        .context(Class::Integrity, || "the ciphertext is damaged or cut short")?;
    if plaintext.len() > limit {
        return Err(Error::integrity(format!("a message decrypts to more than {limit} bytes")));
    }
    Ok(plaintext)
}
