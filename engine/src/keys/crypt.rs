//! Encrypts and decrypts age messages (age-encryption.org/v1) that are in memory. Each message has
//! its own file key.

use std::io::{Cursor, Read, Write};

use age::stream::{StreamReader, StreamWriter};
use age::{DecryptError, Decryptor, Encryptor, Identity, Recipient};
use lifeboat_base::buffers::roomy;
use lifeboat_base::{Class, Context, Error, Result};

/// The message of the error with which a read of [`decrypting`] fails.
pub(crate) const DAMAGED: &str = "the ciphertext is damaged or cut short";

/// Encrypts `plaintext` to all of `recipients`.
///
/// # Errors
/// [`Class::Keys`] if there is no recipient, or if one cannot wrap the file key: for example, its
/// plugin fails.
pub fn encrypt<'a>(recipients: impl Iterator<Item = &'a dyn Recipient>, plaintext: &[u8]) -> Result<Vec<u8>> {
    let capacity = plaintext.len() + (plaintext.len() / (64 << 10) + 1) * 16 + 1024;
    let mut writer = encrypting(recipients, Vec::with_capacity(capacity))?;
    let sealed = writer.write_all(plaintext).and_then(|()| writer.finish());
    sealed.context(Class::Failed, || "age cannot encrypt")
}

/// Encrypts what is written to all of `recipients`, and writes it to `out`. The message is complete
/// only after [`finish`](StreamWriter::finish).
///
/// # Errors
/// The errors of [`encrypt`]. [`Class::Failed`] if writing to `out` fails.
pub fn encrypting<'a, W: Write>(
    recipients: impl Iterator<Item = &'a dyn Recipient>,
    out: W,
) -> Result<StreamWriter<W>> {
    let encryptor = Encryptor::with_recipients(recipients).context(Class::Keys, || "age cannot encrypt")?;
    encryptor.wrap_output(out).context(Class::Failed, || "age cannot encrypt")
}

/// No header of an age file that this program reads is longer. It holds a few lines for each
/// recipient.
const MAX_HEADER_BYTES: usize = 1 << 20;
/// Begins the last line of a header.
const END_OF_HEADER: &[u8] = b"\n---";

/// Refuses what does not begin like an age file. It is not decrypted.
///
/// # Errors
/// [`Class::Integrity`]: it does not.
pub(crate) fn check_is_age_file(ciphertext: &[u8]) -> Result<()> {
    decryptor(ciphertext).map(drop)
}

fn decryptor(ciphertext: &[u8]) -> Result<Decryptor<Cursor<&[u8]>>> {
    let refused = || Error::integrity("this is not a complete age file");
    let begin = &ciphertext[..ciphertext.len().min(MAX_HEADER_BYTES)];
    if !begin.windows(END_OF_HEADER.len()).any(|window| window == END_OF_HEADER) {
        return Err(refused().because("its header has no end"));
    }
    Decryptor::new_buffered(Cursor::new(ciphertext)).map_err(|error| refused().because(error.to_string()))
}

/// Decrypts with the first identity that fits.
///
/// # Errors
/// [`Class::Keys`] if no identity fits. [`Class::Integrity`] if the message is damaged or longer
/// than `limit` bytes.
pub fn decrypt<'a>(
    identities: impl Iterator<Item = &'a dyn Identity>,
    ciphertext: &[u8],
    limit: usize,
) -> Result<Vec<u8>> {
    let mut plaintext = Vec::with_capacity(roomy(ciphertext.len()).min(limit));
    decrypting(identities, ciphertext)?
        .take(limit as u64 + 1)
        .read_to_end(&mut plaintext)
        .context(Class::Integrity, || DAMAGED)?;
    if plaintext.len() > limit {
        return Err(Error::integrity(format!("the decrypted message is longer than {limit} bytes")));
    }
    Ok(plaintext)
}

/// Decrypts while it is read. A read fails where the ciphertext is damaged or cut short.
///
/// # Errors
/// [`Class::Keys`] if no identity fits. [`Class::Integrity`] if the age header is damaged.
pub fn decrypting<'a, 'c>(
    identities: impl Iterator<Item = &'a dyn Identity>,
    ciphertext: &'c [u8],
) -> Result<StreamReader<Cursor<&'c [u8]>>> {
    decryptor(ciphertext)?.decrypt(identities).map_err(|error| match error {
        DecryptError::NoMatchingKeys | DecryptError::KeyDecryptionFailed => {
            Error::keys("none of the given identities can decrypt it")
        }
        other => Error::integrity("this is not a complete age file").because(other.to_string()),
    })
}
