//! Finds a whole copy of an object in another replica, or on this host. What nothing else proves is
//! compared with the other copies.
//!
//! Of a keyring object, nothing here can tell that one byte is wrong. One of good form is replaced
//! only if this host made it and another replica has it as this host does, or if several replicas
//! agree against it; and never if it was written after these copies: somebody may have changed who
//! can read, in this replica first. Where one copy stands against one, nothing is written. What is
//! no keyring object at all is replaced by any that is one. What cannot be read is left, as nobody
//! knows what it was.
//!
//! Beside a keyring object lies its signature. One that is damaged is replaced with one that
//! verifies: from another replica, or made anew, if this host holds the same object. With a root,
//! so is one that is missing, or by somebody who may not sign.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::TimeDelta;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::act;
use lifeboat_format::id::Name;
use lifeboat_format::layout;
use lifeboat_store::SharedReplica;

use super::folders::{Proof, proof};
use super::look::{Copy, Looked, Looker};
use crate::keys::sign::MAX_SIGNATURE_BYTES;

const BRANCHES: &str = "two hosts did not see each other: see \"Two hosts on one dataset\" in OPERATIONS.md";

/// What is to be written in place of an object, if anything.
pub(super) enum Judged {
    /// It is whole, or gone, or not ours.
    Good,
    /// It is damaged. With it comes what belongs there and who has it, or why nobody has.
    Damaged(Error, Result<(Copy, String)>),
}

impl Looker<'_> {
    /// Judges what was found under a key in `replica`.
    ///
    /// # Errors
    /// A replica fails on which the verdict depends.
    pub(super) async fn judge(&self, replica: &SharedReplica, key: &str, looked: Looked) -> Result<Judged> {
        let Some((proof, _)) = proof(&self.dataset.name, key) else { return Ok(Judged::Good) };
        match (looked, proof) {
            (Looked::Gone, _) => Ok(Judged::Good),
            (Looked::Whole(copy), Proof::Keyring(_) | Proof::Copies) => {
                let body = copy.into_iter().next().map(|(_, body)| body).unwrap_or_default();
                match self.compare(replica, key, proof, &body).await? {
                    Judged::Good if key.starts_with(layout::KEYRING) => {
                        self.judge_signature(replica, key, proof, &body).await
                    }
                    judged => self.with_signature(replica, key, proof, judged).await,
                }
            }
            (Looked::Whole(_), _) => Ok(Judged::Good),
            (Looked::Damaged(problem), Proof::Keyring(_) | Proof::Copies) => {
                let own = self.own(proof).map(|own| (own, "this host".to_owned()));
                let best = match own {
                    Some(own) if self.dataset.hosts.len() < 2 => Ok(own),
                    own => self.copies(replica.name(), key).await.most(key).or_else(|error| own.ok_or(error)),
                };
                let judged = Judged::Damaged(problem, best.map(|(body, of)| (vec![(key.to_owned(), body)], of)));
                self.with_signature(replica, key, proof, judged).await
            }
            (Looked::Unreadable(problem), Proof::Keyring(_) | Proof::Copies) => {
                let unknown = Error::integrity("nobody knows what it was: it may be newer than its other copies");
                let hint = "delete it in this replica, and run `lifeboat init` on the host that made it";
                Ok(Judged::Damaged(problem, Err(unknown.hint(hint))))
            }
            (Looked::Damaged(problem) | Looked::Unreadable(problem), _) => {
                let found = self.elsewhere(replica.name(), key, proof).await;
                Ok(Judged::Damaged(problem, found))
            }
            // If nobody has it of a trusted signer, it is somebody else's, and none of ours.
            (Looked::Strange(problem, strange), _) => match self.elsewhere(replica.name(), key, proof).await {
                // Another act of this number is another host's, however little it is trusted here.
                Ok((copy, _)) if matches!(proof, Proof::Act(_)) && !says_the_same(&strange, &copy) => {
                    let other = Error::integrity("another replica holds another act of this number").hint(BRANCHES);
                    Ok(Judged::Damaged(problem, Err(other)))
                }
                Ok(found) => Ok(Judged::Damaged(problem, Ok(found))),
                Err(_) => Ok(Judged::Good),
            },
        }
    }

    /// Judges the signature beside a keyring object that is whole.
    async fn judge_signature(&self, replica: &SharedReplica, key: &str, proof: Proof, body: &Bytes) -> Result<Judged> {
        let Some(error) = self.flaw_of_signature(replica, key, body).await? else { return Ok(Judged::Good) };
        let found = self.signature(replica.name(), key, proof, body).await;
        let is_damaged = error.class() == Class::Integrity;
        Ok(match found {
            Ok((signature, of)) if is_damaged || self.keys.trust.root().is_some() => {
                Judged::Damaged(error, Ok((vec![(layout::signature(key), signature)], of)))
            }
            Err(nobody) if is_damaged => Judged::Damaged(error, Err(nobody)),
            // It is somebody else's, or of a version that signed no keyring objects.
            _ => Judged::Good,
        })
    }

    /// With a keyring object that is put back comes its signature, if that is not there.
    async fn with_signature(&self, replica: &SharedReplica, key: &str, proof: Proof, judged: Judged) -> Result<Judged> {
        let Judged::Damaged(problem, Ok((mut copy, of))) = judged else { return Ok(judged) };
        if key.starts_with(layout::KEYRING)
            && let Some(body) = copy.first().map(|(_, body)| body.clone())
            && self.flaw_of_signature(replica, key, &body).await?.is_some()
            && let Ok((signature, _)) = self.signature(replica.name(), key, proof, &body).await
        {
            copy.push((layout::signature(key), signature));
        }
        Ok(Judged::Damaged(problem, Ok((copy, of))))
    }

    /// Why the signature in a replica does not count for this object. [`Class::Integrity`]: it is
    /// damaged. [`Class::Keys`]: nobody signed who may.
    async fn flaw_of_signature(&self, replica: &SharedReplica, key: &str, body: &Bytes) -> Result<Option<Error>> {
        let (at, name) = (layout::signature(key), replica.name());
        let signature = match replica.get(&at, MAX_SIGNATURE_BYTES as u64).await {
            Ok(signature) => signature,
            Err(error) => {
                return Ok(match self.unread(replica.as_ref(), error).await? {
                    Looked::Damaged(error) | Looked::Unreadable(error) => Some(error),
                    _ => Some(Error::keys(format!("replica {name}: {at} is missing"))),
                });
            }
        };
        let checked = self.keys.trust.verify(&self.keys.vault, key, body, &signature);
        Ok(checked.err().map(|error| error.within(format!("replica {name}: {at}"))))
    }

    /// A signature of a keyring object that counts, and whose it is.
    async fn signature(&self, replica: &Name, key: &str, proof: Proof, body: &Bytes) -> Result<(Bytes, String)> {
        let (at, mut errors) = (layout::signature(key), Vec::new());
        for other in self.replicas.iter().filter(|other| other.name() != replica) {
            match other.get(&at, MAX_SIGNATURE_BYTES as u64).await {
                Ok(text) => match self.keys.trust.verify(&self.keys.vault, key, body, &text) {
                    Ok(_) => return Ok((text, format!("replica {}", other.name()))),
                    Err(error) => errors.push(error.within(format!("replica {}", other.name()))),
                },
                Err(error) => errors.push(error.into()),
            }
        }
        let own_host = layout::parse_host_identity(key).filter(|host| host == self.host);
        let own = self.own(proof).or_else(|| own_host.map(|_| self.keys.wrapped_operations.clone()));
        if own.as_ref() != Some(body) {
            return Err(nobody(&errors));
        }
        let comment = layout::trusted_comment(&self.keys.vault, key);
        Ok((self.keys.signer.sign(body, &comment)?.into(), "this host".to_owned()))
    }

    /// What this host holds itself of a keyring object.
    fn own(&self, proof: Proof) -> Option<Bytes> {
        let Proof::Keyring(generation) = proof else { return None };
        let own = self.keys.datasets.get(&self.dataset.name).filter(|own| own.generation == generation);
        own.map(|own| own.wrapped.clone())
    }

    /// Compares an object of good form with its other copies.
    async fn compare(&self, replica: &SharedReplica, key: &str, proof: Proof, body: &Bytes) -> Result<Judged> {
        let own = self.own(proof);
        if own.as_ref() == Some(body) {
            return Ok(Judged::Good);
        }
        let copies = self.copies(replica.name(), key).await;
        // What another replica holds, too, was written so.
        if copies.bodies.contains_key(body) {
            return Ok(Judged::Good);
        }
        let is_newer = self.was_written_after(replica, key).await?;
        let best = match own {
            Some(own) if !is_newer && self.dataset.hosts.len() < 2 && copies.bodies.contains_key(&own) => {
                Ok((own, "this host".to_owned()))
            }
            _ if !is_newer && copies.bodies.values().any(|holders| holders.len() > 1) => copies.most(key),
            Some(_) => Err(differs(key)),
            // A host describes itself anew; what another host holds of itself is not known here.
            None if copies.bodies.is_empty() || proof == Proof::Copies => return Ok(Judged::Good),
            None => Err(differs(key)),
        };
        let problem = Error::integrity(format!("replica {}: {key} differs from its other copies", replica.name()));
        Ok(Judged::Damaged(problem, best.map(|(body, of)| (vec![(key.to_owned(), body)], of))))
    }

    /// Whether the object was written after every other copy of it, by the clocks of the replicas.
    /// What is damaged where it lies keeps its time.
    async fn was_written_after(&self, replica: &SharedReplica, key: &str) -> Result<bool> {
        let Some(own) = replica.head(key).await? else { return Ok(true) };
        let mut newest = None;
        for other in self.replicas.iter().filter(|other| other.name() != replica.name()) {
            newest = newest.max(other.head(key).await?.map(|copy| copy.modified));
        }
        let skew = TimeDelta::from_std(self.skew).unwrap_or(TimeDelta::MAX);
        Ok(newest.and_then(|newest| newest.checked_add_signed(skew)).is_none_or(|newest| own.modified > newest))
    }

    /// The first whole copy in another replica, and its name.
    async fn elsewhere(&self, replica: &Name, key: &str, proof: Proof) -> Result<(Copy, String)> {
        let (mut found, mut errors): (Option<(Copy, String)>, Vec<Error>) = (None, Vec::new());
        for other in self.replicas.iter().filter(|other| other.name() != replica) {
            match self.look(other, key).await {
                Ok(Looked::Whole(copy)) => match &found {
                    None => found = Some((copy, format!("replica {}", other.name()))),
                    Some((first, _)) if *first != copy => {
                        return Err(Error::integrity(format!("other replicas hold different objects under {key}"))
                            .hint(BRANCHES));
                    }
                    Some(_) => {}
                },
                Ok(Looked::Gone) => {}
                Ok(Looked::Damaged(error) | Looked::Unreadable(error) | Looked::Strange(error, _)) | Err(error) => {
                    errors.push(error);
                }
            }
            // Two hosts may have taken one number in different replicas. Nothing else can differ.
            if found.is_some() && !matches!(proof, Proof::Act(_)) {
                break;
            }
        }
        found.ok_or_else(|| nobody(&errors))
    }

    /// What other replicas hold, of good form.
    async fn copies(&self, replica: &Name, key: &str) -> Copies {
        let mut copies = Copies::default();
        for other in self.replicas.iter().filter(|other| other.name() != replica) {
            match self.look(other, key).await {
                Ok(Looked::Whole(copy)) => {
                    for (_, body) in copy {
                        copies.bodies.entry(body).or_default().push(format!("replica {}", other.name()));
                    }
                }
                Ok(Looked::Gone) => {}
                Ok(Looked::Damaged(error) | Looked::Unreadable(error) | Looked::Strange(error, _)) | Err(error) => {
                    copies.errors.push(error);
                }
            }
        }
        copies
    }
}

/// Whether two copies of an act differ in nothing but the signature.
fn says_the_same(one: &Copy, other: &Copy) -> bool {
    let line = |copy: &Copy| copy.first().and_then(|(_, body)| act::split(body).map(|(line, _)| line.to_vec()));
    line(one).is_some_and(|one| line(other) == Some(one))
}

fn nobody(errors: &[Error]) -> Error {
    let error = Error::integrity("no other replica returns it whole");
    let reasons: Vec<String> = errors.iter().map(Error::chain).collect();
    if reasons.is_empty() { error } else { error.because(reasons.join("; ")) }
}

/// Copies of an object in other replicas.
#[derive(Default)]
struct Copies {
    bodies: BTreeMap<Bytes, Vec<String>>,
    errors: Vec<Error>,
}

impl Copies {
    /// The only copy, or the one that more replicas hold than any other.
    fn most(&self, key: &str) -> Result<(Bytes, String)> {
        let mut found: Vec<_> = self.bodies.iter().collect();
        found.sort_by_key(|(_, holders)| std::cmp::Reverse(holders.len()));
        match found[..] {
            [] => Err(nobody(&self.errors)),
            [(_, one), (_, other), ..] if one.len() == other.len() => Err(differs(key)),
            [(body, holders), ..] => Ok((body.clone(), holders.join(" and "))),
        }
    }
}

fn differs(key: &str) -> Error {
    Error::integrity(format!("its copies differ, and nothing here tells which {key} is right")).hint(
        "find out with `lifeboat restore --replica` which one opens the backups, and run `lifeboat init` on the host that made it",
    )
}
