//! What a new root changes: made from a wish, told in words, and refused where it would lock
//! everybody out.

use std::collections::BTreeSet;

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::line::OwnerLine;
use lifeboat_format::requirements::Requirements;
use lifeboat_format::root::{BackupHost, DrillHost, Floors, Pattern, Principal, Root};

use super::signed::SignedRoot;

/// A machine is trusted from so long before the request on, because clocks differ.
pub(super) const EARLIER: TimeDelta = TimeDelta::minutes(10);

/// A backup host, as it describes itself.
#[derive(Debug, Clone)]
pub struct GrantedMachine {
    /// Its name.
    pub name: Name,
    /// Its minisign public key.
    pub signer: String,
    /// The recipient that opens what it reads.
    pub operations: String,
    /// The datasets that it backs up.
    pub datasets: Vec<Pattern>,
}

/// A drill host.
#[derive(Debug, Clone)]
pub struct NewDrillHost {
    /// Its name.
    pub name: Name,
    /// Its age recipient.
    pub recipient: String,
    /// Its minisign public key.
    pub signer: String,
    /// The datasets that it may open and drill.
    pub datasets: Vec<Pattern>,
}

/// What is to be different in the next root.
#[derive(Debug, Clone)]
pub enum Change {
    /// A backup host is trusted. If it was already, then with these datasets from now on.
    AddHost(GrantedMachine),
    /// A backup host is trusted only until a time.
    RemoveHost {
        /// Its name.
        name: Name,
        /// Its signer, if several hosts have had this name.
        signer: Option<String>,
        /// The time.
        until: DateTime<Utc>,
    },
    /// A drill host is trusted. If it was already, then with these datasets from now on.
    AddDrillHost(NewDrillHost),
    /// As `RemoveHost`.
    RemoveDrillHost {
        /// Its name.
        name: Name,
        /// Its signer, if several hosts have had this name.
        signer: Option<String>,
        /// The time.
        until: DateTime<Utc>,
    },
    /// Somebody owns the vault, too. The recipient of the line becomes a master.
    AddOwner(OwnerLine),
    /// Somebody owns it no more. The master stays.
    RemoveOwner(Name),
    /// Somebody deletes, apart from the backup hosts, instead of whoever did before.
    SetWarden(Principal),
    /// Backup hosts delete again.
    RemoveWarden,
    /// Somebody may veto deletions, too.
    AddApprover(Principal),
    /// Somebody may veto deletions no more, and the vetoes count no more.
    RemoveApprover(Name),
    /// Anything else. What is `None` or empty stays.
    Set {
        /// So many owners must sign.
        threshold: Option<usize>,
        /// What no configuration goes below.
        floors: Floors,
        /// Recipients that open the keyring, too.
        add_masters: Vec<String>,
        /// Recipients that do so no more.
        remove_masters: Vec<String>,
        /// Drill hosts that are witnesses, too.
        add_witnesses: Vec<Name>,
        /// Drill hosts that are witnesses no more.
        remove_witnesses: Vec<Name>,
    },
}

/// Root 1 of a vault.
///
/// # Errors
/// It breaks a rule.
pub fn first_root(
    vault: &str,
    (owners, threshold): (&[OwnerLine], usize),
    masters: Vec<String>,
    (hosts, drill_hosts): (Vec<GrantedMachine>, Vec<NewDrillHost>),
    floors: Floors,
    (from, now): (DateTime<Utc>, DateTime<Utc>),
) -> Result<Root> {
    let (from, now) = (from.trunc_subsecs(0), now.trunc_subsecs(0));
    let mut all: Vec<String> = owners.iter().map(|owner| owner.recipient.clone()).chain(masters).collect();
    let mut seen = BTreeSet::new();
    all.retain(|master| seen.insert(master.clone()));
    // A name stands there once, though several machines may have it.
    let witnesses: BTreeSet<Name> = drill_hosts.iter().map(|host| host.name.clone()).collect();
    let root = Root {
        requires: Requirements::default(),
        vault: vault.to_owned(),
        version: 1,
        time: now,
        previous: None,
        threshold,
        owners: owners.iter().map(owner).collect(),
        masters: all,
        hosts: hosts.into_iter().map(|host| backup_host(host, from)).collect(),
        drill_hosts: drill_hosts.into_iter().map(|host| drill_host(host, from)).collect(),
        witnesses: witnesses.into_iter().collect(),
        warden: None,
        former_wardens: Vec::new(),
        approvers: Vec::new(),
        floors,
    };
    root.to_json().map(|_| root)
}

fn owner(line: &OwnerLine) -> Principal {
    Principal { name: line.name.clone(), signer: line.signer.clone() }
}

fn backup_host(host: GrantedMachine, from: DateTime<Utc>) -> BackupHost {
    let GrantedMachine { name, signer, operations, datasets } = host;
    BackupHost { name, signer, operations, datasets, from, until: None }
}

fn drill_host(host: NewDrillHost, from: DateTime<Utc>) -> DrillHost {
    let NewDrillHost { name, recipient, signer, datasets } = host;
    DrillHost { name, recipient, signer, datasets, from, until: None }
}

/// The root after `before`.
///
/// # Errors
/// There is nothing to change, or the result breaks a rule. Or a machine asks to be believed again
/// with a key that was revoked: then all that its thief has signed since would count again.
pub fn apply(before: &SignedRoot, change: Change, now: DateTime<Utc>) -> Result<Root> {
    let (now, mut root) = (now.trunc_subsecs(0), before.root.clone());
    (root.version, root.previous, root.time) = (root.version + 1, Some(before.hash()), now);
    let from = now - EARLIER;
    match change {
        Change::AddHost(host) => match root.hosts.iter_mut().find(|known| known.signer == host.signer) {
            Some(known) if known.until.is_some() => return Err(revoked_for_good(&known.name)),
            Some(known) => known.datasets = host.datasets,
            None => root.hosts.push(backup_host(host, from)),
        },
        Change::AddDrillHost(host) => match root.drill_hosts.iter_mut().find(|known| known.signer == host.signer) {
            Some(known) if known.until.is_some() => return Err(revoked_for_good(&known.name)),
            Some(known) => known.datasets = host.datasets,
            None => {
                if !root.witnesses.contains(&host.name) {
                    root.witnesses.push(host.name.clone());
                }
                root.drill_hosts.push(drill_host(host, from));
            }
        },
        Change::RemoveHost { name, signer, until } => {
            let hosts = root.hosts.iter_mut().map(|host| (&host.name, &host.signer, &mut host.until));
            revoke(hosts, &name, signer.as_deref(), until)?;
        }
        Change::RemoveDrillHost { name, signer, until } => {
            let hosts = root.drill_hosts.iter_mut().map(|host| (&host.name, &host.signer, &mut host.until));
            revoke(hosts, &name, signer.as_deref(), until)?;
        }
        Change::AddOwner(line) => {
            root.owners.push(owner(&line));
            if !root.masters.contains(&line.recipient) {
                root.masters.push(line.recipient);
            }
        }
        Change::RemoveOwner(name) => {
            let count = root.owners.len();
            root.owners.retain(|owner| owner.name != name);
            if root.owners.len() == count {
                return Err(unknown("owner", &name));
            }
        }
        Change::SetWarden(warden) => {
            root.former_wardens.retain(|former| former.signer != warden.signer);
            let before = root.warden.replace(warden).filter(|before| root.warden.as_ref() != Some(before));
            root.former_wardens.extend(before);
        }
        Change::RemoveWarden => root.former_wardens.extend(root.warden.take()),
        Change::AddApprover(approver) => {
            if root.approvers.iter().chain(&root.owners).any(|known| known.name == approver.name) {
                return Err(Error::usage(format!("somebody who may veto is called {} already", approver.name))
                    .hint("give everybody who may veto a name of their own"));
            }
            root.approvers.push(approver);
        }
        Change::RemoveApprover(name) => {
            let count = root.approvers.len();
            root.approvers.retain(|approver| approver.name != name);
            if root.approvers.len() == count {
                return Err(unknown("approver", &name));
            }
        }
        Change::Set { threshold, floors, add_masters, remove_masters, add_witnesses, remove_witnesses } => {
            root.threshold = threshold.unwrap_or(root.threshold);
            root.floors.retention = floors.retention.or(root.floors.retention);
            root.floors.delay = floors.delay.or(root.floors.delay);
            root.masters.extend(add_masters);
            root.masters.retain(|master| !remove_masters.contains(master));
            for name in add_witnesses {
                if root.drill_hosts.iter().all(|host| host.name != name) {
                    return Err(unknown("drill host", &name));
                }
                if !root.witnesses.contains(&name) {
                    root.witnesses.push(name);
                }
            }
            root.witnesses.retain(|name| !remove_witnesses.contains(name));
        }
    }
    if differences(Some(&before.root), &root).is_empty() {
        return Err(Error::usage("the root says that already").hint("`lifeboat root show` tells what it says"));
    }
    if let Some(why) = locks_out(Some(&before.root), &root, None) {
        return Err(Error::usage("this would lock everybody out").because(why).hint(KEEP_ONE));
    }
    root.to_json().map(|_| root)
}

fn revoke<'a>(
    hosts: impl Iterator<Item = (&'a Name, &'a String, &'a mut Option<DateTime<Utc>>)>,
    name: &Name,
    signer: Option<&str>,
    time: DateTime<Utc>,
) -> Result<()> {
    let named = hosts.filter(|(known, key, until)| {
        *known == name && signer.map_or(until.is_none(), |signer| signer == key.as_str())
    });
    let mut named: Vec<_> = named.collect();
    match &mut named[..] {
        [] => Err(unknown("machine", name)),
        [(_, _, until)] => {
            **until = Some(time.trunc_subsecs(0));
            Ok(())
        }
        _ => Err(Error::usage(format!("the root has several signers of a machine {name}"))
            .hint("say which one with --signer; `lifeboat root show` lists them")),
    }
}

/// The error of a machine that asks to be believed with a key that was revoked.
pub(crate) fn revoked_for_good(host: &Name) -> Error {
    Error::keys(format!("the root has revoked this key of host {host}")).hint(
        "give the machine new keys: move its old ones away, run `lifeboat init --identity MASTER` on a backup host, or make a new signer on a drill host",
    )
}

fn unknown(what: &str, name: &Name) -> Error {
    Error::usage(format!("the root has no {what} {name}")).hint("`lifeboat root show` lists all that it names")
}

/// What to do where [`locks_out`] refuses.
pub(super) const KEEP_ONE: &str = "keep one that was there: add the new one first, and remove the old one with a later root, when `lifeboat init --identity MASTER` has run on every host";

/// Why nobody could open the keyring after this root. `own` is the recipient of the owner who is to
/// sign it. Whether enough owners could sign the next one is a rule of every root.
pub(super) fn locks_out(before: Option<&Root>, after: &Root, own: Option<&str>) -> Option<&'static str> {
    let Some(before) = before else {
        let is_left_out = own.is_some_and(|own| after.masters.iter().all(|master| master != own));
        return (after.version == 1 && is_left_out).then_some("your own master identity opens nothing of it");
    };
    // The keyring is wrapped to the old ones until a host has wrapped it anew.
    (!after.masters.iter().any(|master| before.masters.contains(master)))
        .then_some("none of the masters stays, and the keyring is encrypted to them")
}

/// What is different, in words; `before` is `None` for whoever has seen no root of the vault.
#[must_use]
pub fn differences(before: Option<&Root>, after: &Root) -> Vec<String> {
    let (mut told, old) = (Vec::new(), |list: fn(&Root) -> Vec<String>| before.map(list).unwrap_or_default());
    let mut compare = |list: fn(&Root) -> Vec<String>, gone: &str, new: &str| {
        let (was, is) = (old(list), list(after));
        told.extend(was.iter().filter(|item| !is.contains(item)).map(|item| format!("{gone} {item}")));
        told.extend(is.iter().filter(|item| !was.contains(item)).map(|item| format!("{new} {item}")));
    };
    compare(|root| root.owners.iter().map(principal).collect(), "no more signs roots: owner", "signs roots: owner");
    compare(|root| root.masters.clone(), "opens everything no more: master", "opens everything: master");
    compare(|root| root.hosts.iter().map(host_words).collect(), "before: host", "now: host");
    compare(|root| root.drill_hosts.iter().map(drill_words).collect(), "before: drill host", "now: drill host");
    compare(|root| root.witnesses.iter().map(Name::to_string).collect(), "no more a witness:", "a witness:");
    compare(
        |root| root.warden.iter().map(principal).collect(),
        "deletes no more: warden",
        "deletes, and no backup host does: warden",
    );
    compare(
        |root| root.former_wardens.iter().map(principal).collect(),
        "explains no more what is gone: former warden",
        "explains what is gone, and deletes no more: former warden",
    );
    compare(|root| root.approvers.iter().map(principal).collect(), "may veto no more:", "may veto deletions:");
    let floors = |root: &Root| {
        let Floors { retention, delay } = &root.floors;
        let retention = retention.map(|seconds| format!("every snapshot is kept for {}", length(seconds)));
        let delay = delay.map(|seconds| format!("{} between mark and deletion", length(seconds)));
        retention.into_iter().chain(delay).collect()
    };
    compare(floors, "no more at least:", "at least:");
    compare(|root| root.requires.0.clone(), "needs no more of programs:", "needs of programs:");
    if before.is_none_or(|before| before.threshold != after.threshold) {
        told.push(format!("so many owners must sign a root: {} of {}", after.threshold, after.owners.len()));
    }
    told
}

fn length(seconds: u64) -> String {
    match (seconds / 86_400, seconds % 86_400) {
        (1, 0) => "1 day".to_owned(),
        (days, 0) if days > 0 => format!("{days} days"),
        _ => format!("{seconds} s"),
    }
}

fn principal(who: &Principal) -> String {
    format!("{} ({})", who.name, who.signer)
}

fn host_words(host: &BackupHost) -> String {
    let BackupHost { name, signer, operations, .. } = host;
    let datasets = patterns(&host.datasets);
    let what = format!("{name} backs up {datasets} (signer {signer}, operations {operations})");
    format!("{what}{}", times(host.from, host.until))
}

fn drill_words(host: &DrillHost) -> String {
    let what = format!(
        "{} opens and drills {} (signer {}, recipient {})",
        host.name,
        patterns(&host.datasets),
        host.signer,
        host.recipient
    );
    format!("{what}{}", times(host.from, host.until))
}

fn patterns(patterns: &[Pattern]) -> String {
    patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(", ")
}

fn times(from: DateTime<Utc>, until: Option<DateTime<Utc>>) -> String {
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let until = until.map(|until| format!(", until {}", text(until))).unwrap_or_default();
    format!(", from {}{until}", text(from))
}
