//! OpenSSH keys of the kind `ssh-ed25519` as age recipients and identities: the stanza
//! `ssh-ed25519` of age's specification.
//!
//! The crate `age` has it too, but only together with `ssh-rsa`, whose implementation leaks its key
//! by timing (RUSTSEC-2023-0071) without a fix. RSA keys are refused here.

use std::collections::HashSet;

use age::secrecy::ExposeSecret;
use age::{DecryptError, EncryptError};
use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza};
use age_core::primitives::{aead_decrypt, aead_encrypt, hkdf};
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::montgomery::MontgomeryPoint;
use data_encoding::{BASE64, BASE64_NOPAD};
use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

const SSH_ED25519: &str = "ssh-ed25519";
const SSH_LABEL: &[u8] = b"age-encryption.org/v1/ssh-ed25519";
const PRIVATE_KEY_MAGIC: &[u8] = b"openssh-key-v1\0";
const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
/// A wrapped file key: the key, and the tag of ChaCha20-Poly1305.
const WRAPPED_BYTES: usize = FILE_KEY_BYTES + 16;

/// Why RSA keys are refused, and the way out.
pub(crate) const NO_RSA: &str =
    "ssh-rsa keys are no longer supported, as their implementation leaks the key by timing (RUSTSEC-2023-0071)";
pub(crate) const NO_RSA_HINT: &str = "use an age or ssh-ed25519 key; where an ssh-rsa key is the only master, add another one with the version before this one, by `lifeboat init --identity KEY`";

/// Whether this is an ssh-rsa public key.
pub(crate) fn is_rsa(text: &str) -> bool {
    text.split_whitespace().next() == Some("ssh-rsa")
}

/// A public key, as in `authorized_keys`.
#[derive(Clone)]
pub(crate) struct SshRecipient {
    /// In the encoding of SSH.
    encoded: Vec<u8>,
    point: MontgomeryPoint,
}

impl SshRecipient {
    /// Parses `ssh-ed25519 BASE64`, with or without a comment.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        if words.next()? != SSH_ED25519 {
            return None;
        }
        Self::decode(&BASE64.decode(words.next()?.as_bytes()).ok()?)
    }

    fn decode(encoded: &[u8]) -> Option<Self> {
        let mut rest = encoded;
        let (kind, key) = (string(&mut rest)?, string(&mut rest)?);
        if kind != SSH_ED25519.as_bytes() || !rest.is_empty() {
            return None;
        }
        let point = CompressedEdwardsY::from_slice(key).ok()?.decompress().filter(|point| !point.is_small_order())?;
        Some(Self { encoded: encoded.to_vec(), point: point.to_montgomery() })
    }

    fn tag(&self) -> String {
        BASE64_NOPAD.encode(&Sha256::digest(&self.encoded)[..4])
    }

    /// The key that wraps a file key, from what both sides agree on.
    fn wrapping_key(&self, ephemeral: &MontgomeryPoint, shared: MontgomeryPoint) -> Zeroizing<[u8; 32]> {
        let tweak = hkdf(&self.encoded, SSH_LABEL, &[]);
        let shared = Zeroizing::new(shared.mul_clamped(tweak).to_bytes());
        let salt = [ephemeral.to_bytes(), self.point.to_bytes()].concat();
        Zeroizing::new(hkdf(&salt, SSH_LABEL, &*shared))
    }
}

impl age::Recipient for SshRecipient {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let secret = Zeroizing::new(rand::random::<[u8; 32]>());
        let ephemeral = MontgomeryPoint::mul_base_clamped(*secret);
        let key = self.wrapping_key(&ephemeral, self.point.mul_clamped(*secret));
        let stanza = Stanza {
            tag: SSH_ED25519.to_owned(),
            args: vec![self.tag(), BASE64_NOPAD.encode(&ephemeral.to_bytes())],
            body: aead_encrypt(&key, file_key.expose_secret()),
        };
        Ok((vec![stanza], HashSet::new()))
    }
}

/// A private key.
pub(super) struct SshIdentity {
    public: SshRecipient,
    scalar: Zeroizing<[u8; 32]>,
}

impl SshIdentity {
    /// Parses the file that `ssh-keygen` writes. `shown` names it in errors.
    ///
    /// # Errors
    /// [`Class::Keys`](lifeboat_base::Class::Keys): it is damaged, of another kind, or protected by
    /// a passphrase.
    pub(super) fn parse(text: &Secret, shown: &str) -> Result<Self> {
        let damaged = || Error::keys(format!("{shown} is not an OpenSSH private key"));
        let text = std::str::from_utf8(text.expose()).map_err(|_| damaged())?.trim();
        if text.starts_with("-----BEGIN RSA PRIVATE KEY-----") {
            return Err(Error::keys(format!("{shown}: {NO_RSA}")).hint(NO_RSA_HINT));
        }
        let body = text.strip_prefix(BEGIN).and_then(|text| text.strip_suffix(END)).ok_or_else(damaged)?;
        let packed: Zeroizing<Vec<u8>> =
            Zeroizing::new(body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect());
        let decoded = Zeroizing::new(BASE64.decode(&packed).map_err(|_| damaged())?);
        let mut rest = decoded.strip_prefix(PRIVATE_KEY_MAGIC).ok_or_else(damaged)?;
        let (cipher, _, _) = (string(&mut rest), string(&mut rest), string(&mut rest));
        if cipher.ok_or_else(damaged)? != b"none" {
            return Err(Error::keys(format!("{shown} is protected by a passphrase"))
                .hint("copy it to a tmpfs, remove the passphrase of the copy with `ssh-keygen -p`, and delete the copy afterwards"));
        }
        if number(&mut rest) != Some(1) {
            return Err(damaged());
        }
        let (public, mut private) = string(&mut rest).zip(string(&mut rest)).ok_or_else(damaged)?;
        let checks = (number(&mut private), number(&mut private));
        let kind = string(&mut private).filter(|_| checks.0 == checks.1).ok_or_else(damaged)?;
        match kind {
            b"ssh-ed25519" => {}
            b"ssh-rsa" => return Err(Error::keys(format!("{shown}: {NO_RSA}")).hint(NO_RSA_HINT)),
            _ => {
                return Err(Error::keys(format!("{shown} is a kind of ssh key that age does not support"))
                    .hint("use an ssh-ed25519 key or an age identity"));
            }
        }
        let (_, pair) = string(&mut private).zip(string(&mut private)).ok_or_else(damaged)?;
        // The seed, and the public key behind it.
        let (seed, _) = pair.split_first_chunk::<32>().filter(|(_, public)| public.len() == 32).ok_or_else(damaged)?;
        let mut scalar = Zeroizing::new([0; 32]);
        let hash = Zeroizing::new(<[u8; 64]>::from(Sha512::digest(seed)));
        scalar.copy_from_slice(&hash[..32]);
        let public = SshRecipient::decode(public).ok_or_else(damaged)?;
        if MontgomeryPoint::mul_base_clamped(*scalar) != public.point {
            return Err(damaged());
        }
        Ok(Self { public, scalar })
    }
}

impl age::Identity for SshIdentity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        let [tag, ephemeral] = stanza.args.as_slice() else { return None };
        if stanza.tag != SSH_ED25519 || *tag != self.public.tag() {
            return None;
        }
        let ephemeral: [u8; 32] = BASE64_NOPAD.decode(ephemeral.as_bytes()).ok()?.try_into().ok()?;
        let ephemeral = MontgomeryPoint(ephemeral);
        let shared = ephemeral.mul_clamped(*self.scalar);
        if stanza.body.len() != WRAPPED_BYTES || shared.to_bytes() == [0; 32] {
            return Some(Err(DecryptError::InvalidHeader));
        }
        let key = self.public.wrapping_key(&ephemeral, shared);
        let opened = aead_decrypt(&key, FILE_KEY_BYTES, &stanza.body).map(Zeroizing::new);
        Some(match opened {
            Ok(opened) => Ok(FileKey::init_with_mut(|file_key| file_key.copy_from_slice(&opened))),
            Err(_) => Err(DecryptError::DecryptionFailed),
        })
    }
}

/// Takes a 32-bit number from the front.
fn number(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_be_bytes(*number))
}

/// Takes a string of SSH from the front: its length, then its bytes.
fn string<'t>(rest: &mut &'t [u8]) -> Option<&'t [u8]> {
    let length = number(rest)? as usize;
    let (string, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a key that `ssh-keygen` made.
    const PUBLIC: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFUv1KJJB5tQKDVAKA467+pBj51qDcRe1lMAP1cFvAAs somebody@somewhere";

    #[test]
    fn public_keys_are_parsed_whole_or_not_at_all() {
        assert!(SshRecipient::parse(PUBLIC).is_some());
        let short = PUBLIC.replacen("AAAAI", "AAAAH", 1);
        let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7";
        // The neutral point: with it, everybody would know the shared secret.
        let neutral = [&[0, 0, 0, 11][..], b"ssh-ed25519", &[0, 0, 0, 32, 1], &[0; 31]].concat();
        let neutral = format!("ssh-ed25519 {}", BASE64.encode(&neutral));
        for bad in [&short, rsa, "ssh-ed25519", "", &neutral, &PUBLIC[..40]] {
            assert!(SshRecipient::parse(bad).is_none(), "{bad}");
        }
        assert!(is_rsa(rsa) && !is_rsa(PUBLIC));
    }
}
