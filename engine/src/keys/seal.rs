//! Seals small local secrets under the host key with AES-256-GCM.
//!
//! A sealed blob is `LBSEAL1\n`, a random 96-bit nonce, ciphertext and tag. The blob's purpose is
//! its associated data, so a blob cannot be used for another purpose. With random nonces, one key
//! may seal 2³² blobs. A host seals less than a million a year under its own key. Where there are
//! many blobs, such as sketches of chunks, every file has a key of its own.

use aes_gcm::aead::{Aead, Generate, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};
use zeroize::Zeroizing;

const SEAL_MAGIC: &[u8; 8] = b"LBSEAL1\n";
const NONCE_BYTES: usize = 12;

/// The host key: 256 bits, wiped from memory on drop.
#[derive(Clone)]
pub struct HostKey(Zeroizing<[u8; 32]>);

impl HostKey {
    /// Makes a new key from random bits of the operating system.
    #[must_use]
    pub fn generate() -> Self {
        Self(Zeroizing::new(rand::random()))
    }

    /// Parses 64 hexadecimal digits. White space around them is allowed.
    ///
    /// # Errors
    /// [`Class::Keys`](lifeboat_base::Class::Keys) if the text is anything else.
    pub fn parse(text: &Secret) -> Result<Self> {
        let trimmed = text.expose().trim_ascii();
        let bytes = Zeroizing::new(data_encoding::HEXLOWER_PERMISSIVE.decode(trimmed).unwrap_or_default());
        let key = bytes.as_slice().try_into().map_err(|_| {
            Error::keys("the host key is not 64 hexadecimal digits").hint(
                "restore host.key; if it is lost, move it and host-keys away and run `lifeboat init --identity MASTER`",
            )
        })?;
        Ok(Self(Zeroizing::new(key)))
    }

    /// Writes the key as 64 hexadecimal digits and a newline.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}\n", data_encoding::HEXLOWER.encode(&*self.0)))
    }

    /// Seals `plaintext` for `purpose`.
    ///
    /// # Errors
    /// [`Class::Failed`](lifeboat_base::Class::Failed) if the plaintext is longer than 64 GiB.
    pub fn seal(&self, purpose: &str, plaintext: &[u8]) -> Result<Vec<u8>> {
        let nonce = Nonce::generate();
        let sealed = self
            .cipher()
            .encrypt(&nonce, Payload { msg: plaintext, aad: purpose.as_bytes() })
            .map_err(|_| Error::failed(format!("cannot seal {purpose}")))?;
        Ok([SEAL_MAGIC.as_slice(), nonce.as_slice(), &sealed].concat())
    }

    /// Opens what [`Self::seal`] sealed for `purpose`.
    ///
    /// # Errors
    /// [`Class::Keys`](lifeboat_base::Class::Keys) if it is damaged, or if it was sealed under
    /// another key or for another purpose.
    pub fn open(&self, purpose: &str, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        self.open_plain(purpose, blob).map(Zeroizing::new)
    }

    /// As [`Self::open`], of what is no secret: it is sealed so that nobody changes it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn open_plain(&self, purpose: &str, blob: &[u8]) -> Result<Vec<u8>> {
        let refused =
            || Error::keys(format!("cannot open {purpose}: it is damaged or was sealed under another host key"));
        let body = blob.strip_prefix(SEAL_MAGIC).ok_or_else(refused)?;
        let (nonce, sealed) = body.split_first_chunk::<NONCE_BYTES>().ok_or_else(refused)?;
        let plaintext = self
            .cipher()
            .decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: purpose.as_bytes() })
            .map_err(|_| refused())?;
        Ok(plaintext)
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&(*self.0).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_with_the_same_key_and_purpose_and_unchanged() -> Result<()> {
        let key = HostKey::generate();
        let blob = key.seal("host keys", b"secret")?;
        assert_eq!(key.open("host keys", &blob)?.as_slice(), b"secret");
        assert!(key.open("journal", &blob).is_err());
        assert!(HostKey::generate().open("host keys", &blob).is_err());
        for position in 0..blob.len() {
            let mut changed = blob.clone();
            changed[position] ^= 1;
            assert!(key.open("host keys", &changed).is_err(), "a flipped bit in byte {position} passed");
            assert!(key.open("host keys", &blob[..position]).is_err(), "cut at {position} passed");
        }
        assert_ne!(blob, key.seal("host keys", b"secret")?, "nonces repeat");
        Ok(())
    }

    #[test]
    fn key_text_round_trips() -> Result<()> {
        let key = HostKey::generate();
        let again = HostKey::parse(&Secret::new(key.to_text().as_bytes().to_vec()))?;
        assert_eq!(*key.0, *again.0);
        assert!(HostKey::parse(&Secret::new(b"abcd".to_vec())).is_err());
        Ok(())
    }
}
