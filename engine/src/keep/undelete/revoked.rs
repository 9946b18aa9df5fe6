//! Knows the signatures and acts of signers whom the root has revoked. Such a one is believed where
//! the store dates it before that. A copy of it is dated anew, so nobody believes it any more.

use std::collections::HashSet;

use data_encoding::BASE64;
use lifeboat_format::act;
use lifeboat_format::log::split_record;
use lifeboat_format::root::Root;

/// The number of a key, in public keys and signatures, comes after two bytes that name the method.
const KEY_NUMBER: std::ops::Range<usize> = 2..10;

/// The numbers of keys that were revoked.
pub(super) struct RevokedSigners(HashSet<Vec<u8>>);

impl RevokedSigners {
    pub(super) fn of(root: Option<&Root>) -> Self {
        let hosts = root.into_iter().flat_map(|root| root.hosts.iter().map(|host| (&host.signer, host.until)));
        let drills = root.into_iter().flat_map(|root| root.drill_hosts.iter().map(|host| (&host.signer, host.until)));
        let revoked = hosts.chain(drills).filter(|(_, until)| until.is_some());
        Self(revoked.filter_map(|(signer, _)| number(signer)).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them made this signature, this act or this record of a log.
    pub(super) fn made(&self, stored: &[u8]) -> bool {
        let of_act = act::split(stored).map(|(_, signature)| signature);
        let of_record = split_record(stored).map(|(_, signature)| signature);
        std::iter::once(stored).chain(of_act).chain(of_record).any(|signature| {
            let text = std::str::from_utf8(signature).ok();
            text.and_then(|text| number(text.lines().nth(1)?)).is_some_and(|number| self.0.contains(&number))
        })
    }
}

fn number(line: &str) -> Option<Vec<u8>> {
    BASE64.decode(line.trim().as_bytes()).ok()?.get(KEY_NUMBER).map(<[u8]>::to_vec)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::keys::sign::Signer;

    #[test]
    fn a_signature_and_an_act_of_a_revoked_key_are_known() {
        let (revoked, other) = (Signer::generate().unwrap(), Signer::generate().unwrap());
        let known = RevokedSigners(number(revoked.public().as_str()).into_iter().collect());
        assert!(known.made(revoked.sign(b"x", "comment").unwrap().as_bytes()));
        assert!(!known.made(other.sign(b"x", "comment").unwrap().as_bytes()));
        let act = |by: &Signer| format!("{{\"number\":1}}\n{}", by.sign(b"x", "comment").unwrap());
        assert!(known.made(act(&revoked).as_bytes()) && !known.made(act(&other).as_bytes()));
        assert!(!known.made(b"") && RevokedSigners::of(None).is_empty());
    }
}
