//! age (age-encryption.org/v1), whole messages in memory. Every message has its own file key.

use std::io::{Cursor, Read, Write};

use age::stream::{StreamReader, StreamWriter};
use age::{DecryptError, Decryptor, Encryptor, Identity, Recipient};
use lifeboat_base::{Class, Context, Error, Result};

/// Why a read of [`decrypting`] fails.
pub(crate) const DAMAGED: &str = "the ciphertext is damaged or cut short";

/// Encrypts to every one of `recipients`.
///
/// # Errors
/// [`Class::Keys`]: no recipient, or one that cannot wrap (a plugin that is not installed).
pub fn encrypt<'a>(recipients: impl Iterator<Item = &'a dyn Recipient>, plaintext: &[u8]) -> Result<Vec<u8>> {
    let capacity = plaintext.len() + (plaintext.len() / (64 << 10) + 1) * 16 + 1024;
    let mut writer = encrypting(recipients, Vec::with_capacity(capacity))?;
    let sealed = writer.write_all(plaintext).and_then(|()| writer.finish());
    sealed.context(Class::Failed, || "age cannot encrypt")
}

/// Encrypts what is written, to every one of `recipients`, into `out`; it is whole after
/// [`finish`](StreamWriter::finish).
///
/// # Errors
/// As [`encrypt`]; or `out` takes nothing.
pub fn encrypting<'a, W: Write>(
    recipients: impl Iterator<Item = &'a dyn Recipient>,
    out: W,
) -> Result<StreamWriter<W>> {
    let encryptor = Encryptor::with_recipients(recipients).context(Class::Keys, || "age cannot encrypt")?;
    encryptor.wrap_output(out).context(Class::Failed, || "age cannot encrypt")
}

/// Decrypts with the first identity that fits.
///
/// # Errors
/// [`Class::Keys`] if none fits; [`Class::Integrity`] if the message is damaged or longer than
/// `limit` bytes.
pub fn decrypt<'a>(
    identities: impl Iterator<Item = &'a dyn Identity>,
    ciphertext: &[u8],
    limit: usize,
) -> Result<Vec<u8>> {
    let mut plaintext = Vec::with_capacity(ciphertext.len().min(limit));
    decrypting(identities, ciphertext)?
        .take(limit as u64 + 1)
        .read_to_end(&mut plaintext)
        .context(Class::Integrity, || DAMAGED)?;
    if plaintext.len() > limit {
        return Err(Error::integrity(format!("a message decrypts to more than {limit} bytes")));
    }
    Ok(plaintext)
}

/// Decrypts as it is read; a read fails where the ciphertext is damaged or cut short.
///
/// # Errors
/// As [`decrypt`].
pub fn decrypting<'a, 'c>(
    identities: impl Iterator<Item = &'a dyn Identity>,
    ciphertext: &'c [u8],
) -> Result<StreamReader<Cursor<&'c [u8]>>> {
    let opened = Decryptor::new_buffered(Cursor::new(ciphertext)).and_then(|decryptor| decryptor.decrypt(identities));
    opened.map_err(|error| match error {
        DecryptError::NoMatchingKeys | DecryptError::KeyDecryptionFailed => Error::keys("no identity at hand opens it"),
        other => Error::integrity("not a whole age file").because(other.to_string()),
    })
}
