//! The keyring: a dataset's secrets, wrapped for those who may restore. See "Keyring" in
//! `FORMAT.md`.
//!
//! The plaintext of a keyring object is an age identity file, so that stock `age` can read it.
//! Comments say what it is for; the last line is the identity.

use std::fmt::Write as _;

use lifeboat_base::{Error, Result};
use zeroize::Zeroizing;

use crate::chunk_id::ChunkIdKey;
use crate::id::Name;

/// No keyring object is longer, as an age file.
pub const MAX_KEYRING_OBJECT_BYTES: usize = 1 << 20;
const FIRST_LINE: &str = "# lifeboat dataset key";

/// The secrets of one generation of a dataset.
pub struct DatasetSecrets {
    /// The vault they belong to.
    pub vault: String,
    /// The dataset they belong to.
    pub dataset: Name,
    /// Their generation.
    pub generation: u32,
    /// The only identity that opens the packs: `AGE-SECRET-KEY-1…`.
    pub identity: Zeroizing<String>,
    /// Names chunks.
    pub chunk_id_key: ChunkIdKey,
}

/// Refuses a keyring object that is too long to be one.
///
/// # Errors
/// [`Class::Integrity`](lifeboat_base::Class::Integrity): it is.
pub fn check_size(wrapped: &[u8], key: &str) -> Result<()> {
    if wrapped.len() <= MAX_KEYRING_OBJECT_BYTES {
        return Ok(());
    }
    Err(Error::integrity(format!("{key} is longer than a keyring object can be")))
}

impl DatasetSecrets {
    /// The secrets as an age identity file.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let hex = Zeroizing::new(data_encoding::HEXLOWER.encode(self.chunk_id_key.expose()));
        let mut text = Zeroizing::new(String::with_capacity(512));
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "{FIRST_LINE}\n# vault: {}\n# dataset: {}\n# generation: {}\n# chunk-id-key: {}\n{}",
            self.vault, self.dataset, self.generation, *hex, *self.identity
        );
        text
    }

    /// Parses an identity file and checks that it is for this vault, dataset and generation.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): the text is damaged, or for something
    /// else.
    pub fn parse(text: &[u8], vault: &str, dataset: &Name, generation: u32) -> Result<Self> {
        let refused =
            |problem: &str| Error::integrity(format!("the keyring object of {dataset}/{generation} {problem}"));
        let text = std::str::from_utf8(text).map_err(|_| refused("is not text"))?;
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(refused("is none of a dataset"));
        }
        let field = |name: &str| {
            let mut told =
                lines.clone().filter_map(|line| line.strip_prefix("# ")?.strip_prefix(name)?.strip_prefix(": "));
            told.next().filter(|_| told.next().is_none())
        };
        if (field("vault"), field("dataset")) != (Some(vault), Some(dataset.as_str()))
            || field("generation") != Some(generation.to_string().as_str())
            || generation == 0
        {
            return Err(refused("belongs to another vault, dataset or generation"));
        }
        let key = field("chunk-id-key").and_then(|hex| data_encoding::HEXLOWER.decode(hex.as_bytes()).ok());
        let key = Zeroizing::new(key.ok_or_else(|| refused("has no chunk-id key"))?);
        let mut identities = lines.clone().filter(|line| !line.starts_with('#') && !line.is_empty());
        let identity =
            identities.next().filter(|line| line.starts_with("AGE-SECRET-KEY-") && identities.next().is_none());
        Ok(Self {
            vault: vault.to_owned(),
            dataset: dataset.clone(),
            generation,
            identity: Zeroizing::new(identity.ok_or_else(|| refused("has no identity"))?.to_owned()),
            chunk_id_key: ChunkIdKey::new(&key)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_no_longer_than_format_md_says() {
        let check = |length: usize| check_size(&vec![0; length], "keyring/x").is_ok();
        assert!(check(1 << 20) && !check((1 << 20) + 1));
    }

    #[test]
    fn text_round_trips_and_is_refused_elsewhere() -> Result<()> {
        let shop: Name = "shop".parse()?;
        let secrets = DatasetSecrets {
            vault: "v".to_owned(),
            dataset: shop.clone(),
            generation: 2,
            identity: Zeroizing::new("AGE-SECRET-KEY-1TEST".to_owned()),
            chunk_id_key: ChunkIdKey::new(&[5; 32])?,
        };
        let text = secrets.to_text();
        let again = DatasetSecrets::parse(text.as_bytes(), "v", &shop, 2)?;
        assert_eq!(again.identity, secrets.identity);
        assert_eq!(again.chunk_id_key.expose(), secrets.chunk_id_key.expose());
        assert!(DatasetSecrets::parse(text.as_bytes(), "w", &shop, 2).is_err());
        assert!(DatasetSecrets::parse(text.as_bytes(), "v", &"other".parse()?, 2).is_err());
        assert!(DatasetSecrets::parse(text.as_bytes(), "v", &shop, 1).is_err());
        Ok(())
    }
}
