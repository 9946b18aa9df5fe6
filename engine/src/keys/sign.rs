//! Minisign signatures (Ed25519, prehashed). The stock `minisign -V` accepts them.
//!
//! The trusted comment is signed, too. It names the object, so a signature cannot be moved to
//! another one.

use std::fmt;
use std::io::Cursor;

use data_encoding::BASE64;
use lifeboat_base::secret::Secret;
use lifeboat_base::{Class, Context, Error, Result};
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox, SignatureBox};
use zeroize::Zeroizing;

/// No signature file is longer.
pub(crate) const MAX_SIGNATURE_BYTES: usize = 4096;
/// Bytes of an Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;
/// The bytes of a secret key that tell how it was made from a password; zero: it has none.
const KDF: std::ops::Range<usize> = 2..4;
/// Bytes of the checksum at the end of a secret key.
const CHECKSUM_BYTES: usize = 32;

/// A minisign public key, written as its base64 line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignerKey(String);

impl SignerKey {
    /// Parses the base64 line (not the comment line).
    ///
    /// # Errors
    /// [`Class::Configuration`] if it is not a minisign public key.
    pub fn parse(text: &str) -> Result<Self> {
        let key = PublicKey::from_base64(text.trim()).map_err(|cause| {
            Error::configuration("this is not a minisign public key")
                .because(cause)
                .hint("use the line that begins with RW, as `lifeboat init` prints it")
        })?;
        Ok(Self(key.to_base64()))
    }

    /// The key as its base64 line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A minisign signing key.
pub struct Signer {
    secret: SecretKey,
    public: SignerKey,
}

impl Signer {
    /// Makes a new key from random bits of the operating system.
    ///
    /// # Errors
    /// [`Class::Keys`] if the key cannot be made.
    pub fn generate() -> Result<Self> {
        let pair =
            KeyPair::generate_unencrypted_keypair().context(Class::Keys, || "cannot make a minisign signing key")?;
        Ok(Self { public: SignerKey(pair.pk.to_base64()), secret: pair.sk })
    }

    /// Parses a minisign secret key file without a password.
    ///
    /// # Errors
    /// [`Class::Keys`] if the text is anything else.
    pub fn parse(text: &Secret) -> Result<Self> {
        let read = || -> Result<SecretKey, Box<dyn std::error::Error + Send + Sync>> {
            let text = Zeroizing::new(std::str::from_utf8(text.expose())?.to_owned());
            match without_checksum(&text) {
                Some(bytes) => Ok(SecretKey::from_bytes(&bytes)?),
                None => Ok(SecretKeyBox::from_string(&text)?.into_unencrypted_secret_key()?),
            }
        };
        let secret = read().map_err(|_| Error::keys("this is not a minisign secret key, or it has a password"))?;
        let public = PublicKey::from_secret_key(&secret).context(Class::Keys, || "the signing key is damaged")?;
        let signer = Self { public: SignerKey(public.to_base64()), secret };
        // Not every key has a checksum. The key's number is not covered: a key with a wrong one
        // signs what nobody trusts.
        let signature = signer.sign(b"", "")?;
        verify(std::slice::from_ref(&signer.public), b"", signature.as_bytes(), "")
            .context(Class::Keys, || "the signing key is damaged")?;
        Ok(signer)
    }

    /// The key as the text of a minisign secret key file without a password.
    ///
    /// # Errors
    /// [`Class::Keys`] if minisign cannot write the key. No such case is known.
    pub fn to_text(&self) -> Result<Zeroizing<String>> {
        let text = self
            .secret
            .to_box(Some("lifeboat signing key"))
            .context(Class::Keys, || "cannot serialise the signing key")?;
        Ok(Zeroizing::new(text.into_string()))
    }

    /// The public half of the key.
    #[must_use]
    pub fn public(&self) -> SignerKey {
        self.public.clone()
    }

    /// Signs `data`. Returns the content of its `.minisig` file.
    ///
    /// # Errors
    /// [`Class::Keys`] if minisign cannot sign.
    pub fn sign(&self, data: &[u8], trusted_comment: &str) -> Result<String> {
        let signature = minisign::sign(None, &self.secret, data, Some(trusted_comment), Some("signature by lifeboat"))
            .context(Class::Keys, || "cannot make a minisign signature")?;
        Ok(signature.into_string())
    }
}

/// The key in a secret key file, if it has neither a password nor a checksum: `minisign -G -W` of
/// version 0.11 writes no checksum, and the crate refuses its keys.
fn without_checksum(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = Zeroizing::new(BASE64.decode(text.lines().nth(1)?.trim().as_bytes()).ok()?);
    let (head, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    let has_neither = head.get(KDF)? == [0; 2] && checksum.iter().all(|byte| *byte == 0);
    has_neither.then_some(bytes)
}

/// Checks that one of `trusted` signed `data` with exactly this trusted comment. Returns its key.
///
/// # Errors
/// [`Class::Keys`] if none of `trusted` signed it. [`Class::Integrity`] if data, signature or
/// comment were changed.
pub fn verify(trusted: &[SignerKey], data: &[u8], signature: &[u8], trusted_comment: &str) -> Result<SignerKey> {
    if signature.len() > MAX_SIGNATURE_BYTES {
        return Err(Error::integrity("the signature is damaged").because("it is too long"));
    }
    let text = std::str::from_utf8(signature).context(Class::Integrity, || "the signature is not text")?;
    let signature = SignatureBox::from_string(text).context(Class::Integrity, || "the signature is damaged")?;
    // The crate takes it for granted that the last line, by which the comment is signed, is whole.
    let of_comment = text.lines().nth(3).and_then(|line| BASE64.decode(line.trim().as_bytes()).ok());
    if of_comment.is_none_or(|bytes| bytes.len() != SIGNATURE_BYTES) {
        return Err(Error::integrity("the signature is damaged"));
    }
    for candidate in trusted {
        let key = PublicKey::from_base64(&candidate.0)
            .context(Class::Keys, || "the public key of a trusted signer is damaged")?;
        if key.keynum() != signature.keynum() {
            continue;
        }
        minisign::verify(&key, &signature, Cursor::new(data), true, false, false)
            .context(Class::Integrity, || "the signature does not match the object")?;
        let comment = signature.trusted_comment().context(Class::Integrity, || "the signature is damaged")?;
        if comment != trusted_comment {
            return Err(Error::integrity(format!("the signature belongs to `{comment}`, not to `{trusted_comment}`")));
        }
        return Ok(candidate.clone());
    }
    Err(Error::keys("the key that signed it is not trusted")
        .hint("if the signer is yours, add its public key, which `lifeboat init` prints on the backup host, to [keys] trusted_signers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_trusted_signer_data_and_comment() -> Result<()> {
        let (mine, stranger) = (Signer::generate()?, Signer::generate()?);
        let signature = mine.sign(b"data", "lifeboat snapshot a")?;
        let trusted = [stranger.public(), mine.public()];
        assert_eq!(verify(&trusted, b"data", signature.as_bytes(), "lifeboat snapshot a")?, mine.public());
        assert_eq!(
            verify(&trusted[..1], b"data", signature.as_bytes(), "lifeboat snapshot a").map_err(|e| e.class()),
            Err(Class::Keys)
        );
        for (data, comment) in [(&b"dat"[..], "lifeboat snapshot a"), (b"data", "lifeboat snapshot b")] {
            let refused = verify(&trusted, data, signature.as_bytes(), comment).map_err(|e| e.class());
            assert_eq!(refused, Err(Class::Integrity));
        }
        Ok(())
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused() -> Result<()> {
        let signer = Signer::generate()?;
        let signature = signer.sign(b"data", "lifeboat snapshot a")?.into_bytes();
        let untrusted_line = signature.iter().position(|b| *b == b'\n').unwrap_or_default();
        for position in untrusted_line + 1..signature.len() - 1 {
            let mut changed = signature.clone();
            changed[position] ^= 1;
            assert!(
                verify(&[signer.public()], b"data", &changed, "lifeboat snapshot a").is_err(),
                "flipped bit in byte {position} passed"
            );
        }
        Ok(())
    }

    #[test]
    fn is_no_longer_than_format_md_says() -> Result<()> {
        let signer = Signer::generate()?;
        let signature = |length: usize| {
            let comment = "x".repeat(length);
            let signed = signer.sign(b"data", &comment)?;
            Ok::<_, Error>((signed.len(), verify(&[signer.public()], b"data", signed.as_bytes(), &comment).is_ok()))
        };
        let others = signature(1000)?.0 - 1000;
        assert_eq!(signature(4096 - others)?, (4096, true));
        assert_eq!(signature(4097 - others)?, (4097, false));
        Ok(())
    }

    #[test]
    fn cut_short_anywhere_it_is_refused() -> Result<()> {
        let signer = Signer::generate()?;
        let signature = signer.sign(b"data", "lifeboat snapshot a")?;
        let verify = |signature: &str| verify(&[signer.public()], b"data", signature.as_bytes(), "lifeboat snapshot a");
        let text = signature.trim_end();
        assert!(verify(text).is_ok());
        for length in 0..text.len() {
            let refused = verify(&text[..length]).map_err(|error| error.class());
            assert_eq!(refused, Err(Class::Integrity), "cut at {length}");
        }
        // Fewer bytes than a signature has, and yet whole base64.
        for line in ["", "AAAA", "AAAAAAAA"] {
            let cut = format!("{}\n{line}\n", text.rsplit_once('\n').map_or("", |(before, _)| before));
            assert!(verify(&cut).is_err(), "`{line}` passed");
        }
        Ok(())
    }

    #[test]
    fn key_text_round_trips() -> Result<()> {
        let signer = Signer::generate()?;
        let again = Signer::parse(&Secret::new(signer.to_text()?.as_bytes().to_vec()))?;
        assert_eq!(signer.public(), again.public());
        assert!(Signer::parse(&Secret::new(b"nonsense".to_vec())).is_err());
        Ok(())
    }

    #[test]
    fn a_key_without_a_checksum_is_taken_if_it_is_whole() -> Result<()> {
        let signer = Signer::generate()?;
        let text = signer.to_text()?;
        let (comment, line) = text.trim().split_once('\n').ok_or_else(|| Error::keys("one line"))?;
        let mut bytes = BASE64.decode(line.as_bytes()).context(Class::Keys, || "no base64")?;
        let checksum = bytes.len() - CHECKSUM_BYTES;
        bytes[checksum..].fill(0);
        let parse =
            |bytes: &[u8]| Signer::parse(&Secret::new(format!("{comment}\n{}\n", BASE64.encode(bytes)).into_bytes()));
        assert_eq!(parse(&bytes)?.public(), signer.public());
        // The seed and the public key are the 64 bytes before the checksum.
        for at in [checksum - 64, checksum - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(parse(&damaged).is_err(), "byte {at}");
        }
        Ok(())
    }
}
