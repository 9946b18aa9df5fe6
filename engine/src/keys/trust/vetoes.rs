//! Who may veto deletions: the owners and the approvers of the root.

use std::collections::BTreeSet;

use lifeboat_base::Result;
use lifeboat_format::id::Name;
use lifeboat_format::layout;
use lifeboat_format::root::Principal;

use super::Trust;
use crate::keys::sign::{self, SignerKey};

impl Trust {
    /// The names of all who may veto; nobody without a root.
    pub(crate) fn who_may_veto(&self) -> BTreeSet<Name> {
        self.vetoers().into_iter().map(|who| who.name).collect()
    }

    /// Checks that somebody of this name who may veto signed a line for this key.
    ///
    /// # Errors
    /// [`Class::Keys`](lifeboat_base::Class::Keys) or
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity), as of every signature.
    pub(crate) fn judge_veto(
        &self,
        vault: &str,
        key: &str,
        (line, signature): (&[u8], &[u8]),
        name: &Name,
    ) -> Result<SignerKey> {
        let keys = self.vetoers().into_iter().filter(|who| who.name == *name);
        let keys = keys.map(|who| SignerKey::parse(&who.signer)).collect::<Result<Vec<_>>>()?;
        sign::verify(&keys, line, signature, &layout::trusted_comment(vault, key))
    }

    /// As [`Self::verify`], of an object that is one line with its signature behind it.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub(crate) fn verify_line(&self, vault: &str, key: &str, stored: &[u8]) -> Result<SignerKey> {
        let end = stored.iter().position(|byte| *byte == b'\n').map_or(stored.len(), |end| end + 1);
        let (line, signature) = stored.split_at(end);
        self.verify(vault, key, line, signature)
    }

    fn vetoers(&self) -> Vec<Principal> {
        let root = self.root();
        root.iter().flat_map(|root| root.owners.iter().chain(&root.approvers)).cloned().collect()
    }
}
