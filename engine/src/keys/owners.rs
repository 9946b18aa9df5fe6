//! The owners, as a configuration or a flag names them: by the key that signs roots, or by their
//! whole line, which also has the recipient of their master identity.

use lifeboat_base::{Error, Result};
use lifeboat_format::line::{self, OwnerLine};

use super::sign::SignerKey;

/// One owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerKey {
    /// The key that signs roots.
    pub signer: SignerKey,
    /// The whole line, if it was given.
    pub line: Option<OwnerLine>,
}

impl OwnerKey {
    /// Parses a minisign public key or an owner's line.
    ///
    /// # Errors
    /// [`Class::Configuration`](lifeboat_base::Class::Configuration) or
    /// [`Class::Usage`](lifeboat_base::Class::Usage): it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        if line::is_of::<OwnerLine>(text) {
            let line: OwnerLine = line::read(text)?;
            return Ok(Self { signer: SignerKey::parse(&line.signer)?, line: Some(line) });
        }
        Ok(Self { signer: SignerKey::parse(text)?, line: None })
    }
}

/// Whose signatures make a root believed.
#[derive(Debug, Clone)]
pub struct Owners {
    keys: Vec<OwnerKey>,
    /// So many of them must have signed it.
    threshold: usize,
}

impl Owners {
    /// Parses the owners; `None` if there are none.
    ///
    /// # Errors
    /// As [`OwnerKey::parse`], or `threshold` is not from 1 to the number of owners.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a String>, threshold: usize) -> Result<Option<Self>> {
        let keys: Vec<OwnerKey> = texts.into_iter().map(|text| OwnerKey::parse(text)).collect::<Result<_>>()?;
        if keys.is_empty() {
            return Ok(None);
        }
        if !(1..=keys.len()).contains(&threshold) {
            return Err(Error::configuration("the number of owners who must sign is not from 1 to all")
                .hint("correct owner_threshold"));
        }
        Ok(Some(Self { keys, threshold }))
    }

    /// Whether enough of the owners are among these signers.
    pub(crate) fn are_enough(&self, signers: &[SignerKey]) -> bool {
        self.keys.iter().filter(|owner| signers.contains(&owner.signer)).count() >= self.threshold
    }

    /// How many must sign.
    pub(crate) fn threshold(&self) -> usize {
        self.threshold
    }

    /// The lines of all owners.
    ///
    /// # Errors
    /// [`Class::Configuration`](lifeboat_base::Class::Configuration): only a key was given of one.
    pub fn lines(&self) -> Result<Vec<OwnerLine>> {
        let line = |owner: &OwnerKey| {
            owner.line.clone().ok_or_else(|| {
                Error::configuration(format!("of the owner {} only the signing key is known", owner.signer)).hint(
                    "until there is a root, give the whole line in [keys] owners that `lifeboat owner init` printed",
                )
            })
        };
        self.keys.iter().map(line).collect()
    }
}
