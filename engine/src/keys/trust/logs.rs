//! Who may sign which log. Only a root tells it: the signer must be that of a principal of this
//! kind and name. A host that was given new keys goes on with the log of its name.

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::layout;
use lifeboat_format::log::{LogKind, LogName};
use lifeboat_format::root::Root;

use super::{Grant, Role, Signature, Trust};
use crate::keys::sign::{self, SignerKey};

impl Trust {
    /// The logs of all whom the root names; none without a root.
    #[must_use]
    pub fn logs(&self) -> Vec<LogName> {
        let root = self.root();
        let mut logs: Vec<LogName> = root.iter().flat_map(|root| principals(root)).map(|(log, _)| log).collect();
        logs.sort_unstable();
        logs.dedup();
        logs
    }

    /// The log of this kind that a signer writes, if the root lets it.
    #[must_use]
    pub fn log_of(&self, kind: LogKind, signer: &SignerKey) -> Option<LogName> {
        let rules = self.rules();
        let is_in_office = |grant: &Grant| grant.until.is_none() && grant.role != Role::FormerWarden;
        let may = |grant: &Grant| is_of_kind(&grant.role, kind) && grant.signer == *signer && is_in_office(grant);
        let root = rules.root.as_ref().filter(|_| rules.grants.iter().any(may))?;
        principals(root).find(|(log, key)| log.kind == kind && *key == signer.as_str()).map(|(log, _)| log)
    }

    /// Whether a record of a log, with this time and signer, is one that the root still lets count.
    #[must_use]
    pub(crate) fn lets_count(&self, log: &LogName, signer: &str, time: DateTime<Utc>) -> bool {
        let rules = self.rules();
        let is_named = |root: &Root| principals(root).any(|(of, key)| of == *log && key == signer);
        let may = |grant: &Grant| is_of_kind(&grant.role, log.kind) && grant.signer.as_str() == signer;
        rules.root.as_ref().is_some_and(|root| is_named(root))
            && rules.grants.iter().any(|grant| may(grant) && grant.until.is_none_or(|until| time < until))
    }

    /// Who signed record `number` of a log, if that signer may have.
    ///
    /// # Errors
    /// [`Class::Keys`] if nobody signed it who may. [`Class::Integrity`] if line, signature or
    /// comment were changed.
    pub(crate) fn judge_record(
        &self,
        vault: &str,
        log: &LogName,
        number: u64,
        (line, signature): (&[u8], &[u8]),
    ) -> Result<Signature> {
        let rules = self.rules();
        let Some(root) = &rules.root else {
            return Err(Error::keys("there is no root, so nobody writes logs"));
        };
        let named: Vec<&str> = principals(root).filter(|(of, _)| of == log).map(|(_, signer)| signer).collect();
        let may = |grant: &&Grant| is_of_kind(&grant.role, log.kind) && named.contains(&grant.signer.as_str());
        let grants: Vec<&Grant> = rules.grants.iter().filter(may).collect();
        let trusted: Vec<SignerKey> = grants.iter().map(|grant| grant.signer.clone()).collect();
        let comment = layout::trusted_comment(vault, &layout::log_record(log, number));
        let signer = sign::verify(&trusted, line, signature, &comment).map_err(|error| match error.class() {
            Class::Keys => Error::keys(format!("the root lets nobody with this key write log {log}"))
                .hint("`lifeboat root show` tells whose keys the root has"),
            _ => error,
        })?;
        let before = grants.iter().find(|grant| grant.signer == signer).and_then(|grant| grant.until);
        Ok(Signature { signer, before })
    }
}

fn is_of_kind(role: &Role, kind: LogKind) -> bool {
    match kind {
        LogKind::Hosts => matches!(role, Role::Host(Some(_))),
        LogKind::DrillHosts => matches!(role, Role::DrillHost),
        LogKind::Owners => matches!(role, Role::Owner),
        LogKind::Wardens => matches!(role, Role::Warden | Role::FormerWarden),
    }
}

/// Whose logs there may be, each with the signer.
fn principals(root: &Root) -> impl Iterator<Item = (LogName, &str)> {
    let log = |kind, name: &lifeboat_format::id::Name| LogName { kind, name: name.clone() };
    let hosts = root.hosts.iter().map(move |host| (log(LogKind::Hosts, &host.name), host.signer.as_str()));
    let drills = root.drill_hosts.iter().map(move |host| (log(LogKind::DrillHosts, &host.name), host.signer.as_str()));
    let owners = root.owners.iter().map(move |owner| (log(LogKind::Owners, &owner.name), owner.signer.as_str()));
    let wardens = root.warden.iter().chain(&root.former_wardens);
    let wardens = wardens.map(move |warden| (log(LogKind::Wardens, &warden.name), warden.signer.as_str()));
    hosts.chain(drills).chain(owners).chain(wardens)
}
