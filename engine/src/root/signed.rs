//! A root with its signatures.

use std::collections::BTreeMap;

use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::layout;
use lifeboat_format::line::RequestLine;
use lifeboat_format::root::{self, Principal, Root};

use crate::keys::sign::{self, SignerKey};

/// A root with the signatures that were checked.
#[derive(Debug, Clone)]
pub struct SignedRoot {
    /// What it says.
    pub root: Root,
    /// Its text, as it is signed.
    pub text: String,
    /// The good signatures of owners, by name.
    signatures: BTreeMap<Name, String>,
    /// Who made these.
    signers: Vec<SignerKey>,
}

impl SignedRoot {
    /// Reads a root, and keeps those signatures by owners whom it or `before` names.
    ///
    /// # Errors
    /// [`Class::Integrity`]: the root is damaged, or a signature by one of them does not match.
    pub fn read(
        text: String,
        signatures: &BTreeMap<String, String>,
        before: Option<&Root>,
        what: &str,
    ) -> Result<Self> {
        let root = Root::parse(text.as_bytes(), what)?;
        let mut read = Self { root, text, signatures: BTreeMap::new(), signers: Vec::new() };
        let comment = layout::trusted_comment(&read.root.vault, &layout::root(read.root.version));
        let owners: Vec<Principal> =
            read.root.owners.iter().chain(before.into_iter().flat_map(|before| &before.owners)).cloned().collect();
        for (name, signature) in signatures {
            let Ok(name) = name.parse::<Name>() else { continue };
            let keys = owners.iter().filter(|owner| owner.name == name);
            let keys: Vec<SignerKey> = keys.map(|owner| SignerKey::parse(&owner.signer)).collect::<Result<_>>()?;
            match sign::verify(&keys, read.text.as_bytes(), signature.as_bytes(), &comment) {
                Ok(signer) => {
                    read.signatures.insert(name, signature.clone());
                    read.signers.push(signer);
                }
                // Whoever is no owner says nothing.
                Err(error) if error.class() == Class::Keys => {}
                Err(error) => return Err(error.within(format!("{what}: the signature of {name}"))),
            }
        }
        Ok(read)
    }

    /// Adds the signatures of another copy of the same root.
    pub(super) fn merge(&mut self, other: Self) {
        self.signers.extend(other.signers);
        self.signers.sort_unstable();
        self.signers.dedup();
        self.signatures.extend(other.signatures);
    }

    /// The hash of its text.
    #[must_use]
    pub fn hash(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }

    /// Its eight words.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        root::fingerprint(self.text.as_bytes())
    }

    /// Who signed it.
    #[must_use]
    pub fn signers(&self) -> &[SignerKey] {
        &self.signers
    }

    /// It with its signatures, to be carried in a line.
    #[must_use]
    pub fn carried(&self) -> RequestLine {
        let signatures = self.signatures.iter().map(|(name, signature)| (name.to_string(), signature.clone()));
        RequestLine { root: self.text.clone(), signatures: signatures.collect() }
    }

    /// Its signatures, by the names of owners.
    pub(super) fn signatures(&self) -> &BTreeMap<Name, String> {
        &self.signatures
    }

    /// Why it does not count beside `before`, the root before it, if there is one.
    #[must_use]
    pub fn flaw(&self, before: Option<&Self>) -> Option<String> {
        let lacks = |root: &Root, whose: &str| {
            let found = root.owners.iter().filter(|owner| self.signers.iter().any(|key| key.as_str() == owner.signer));
            let lacking = root.threshold.saturating_sub(found.count());
            (lacking > 0).then(|| format!("{lacking} more of {whose} must sign it"))
        };
        match before {
            None => lacks(&self.root, "its owners"),
            Some(before) => {
                let chain = self.root.breaks_chain(&before.root, before.hash()).map(str::to_owned);
                chain
                    .or_else(|| lacks(&self.root, "its owners"))
                    .or_else(|| lacks(&before.root, &format!("the owners of root {}", before.root.version)))
            }
        }
    }

    /// Whether it is valid in the place of `known`, which follows `before`: an owner's key was used
    /// twice. Where nobody has `before` any more, the owners of `known` tell.
    #[must_use]
    pub(super) fn is_rival_of(&self, known: &Self, before: Option<&Self>) -> bool {
        let owners =
            known.root.owners.iter().filter(|owner| self.signers.iter().any(|key| key.as_str() == owner.signer));
        let is_another = self.root.version == known.root.version && self.text != known.text;
        let is_by_them = || self.flaw(None).is_none() && owners.count() >= known.root.threshold;
        is_another && before.map_or_else(is_by_them, |_| self.flaw(before).is_none())
    }

    /// Refuses a root that does not count.
    ///
    /// # Errors
    /// [`Class::Keys`]: its [`flaw`](Self::flaw).
    pub(super) fn check(&self, before: Option<&Self>) -> Result<()> {
        self.flaw(before)
            .map_or(Ok(()), |flaw| Err(Error::keys(format!("root {} does not count", self.root.version)).because(flaw)))
    }
}
