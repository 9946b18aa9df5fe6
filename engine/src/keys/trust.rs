//! Whom to believe: who may sign what, and for which dataset.
//!
//! This is the one place that decides it. Everything that is signed goes through [`Trust`], and the
//! key of the object says what is claimed. Either the configuration lists signers, who may then
//! sign for every dataset, or the newest root says what each of its machines may sign, and until
//! when.
//!
//! **A signer that was revoked** counts only for snapshots, drill reports and keys, and only where
//! a store says that it has the signature from before or, of a snapshot, a witness that it saw it
//! (`trust/witnessed.rs`). So one store that lies about dates makes
//! those believe who read from it. Keys, and snapshots that a host is to copy, count only where two
//! stores say so. A mark, a prune record or a lease of his never counts.

mod floors;
mod logs;
mod vetoes;
mod witnessed;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::layout;
use lifeboat_format::root::{Pattern, Principal, Root};

pub(crate) use self::witnessed::SeenManifests;
use super::sign::{self, SignerKey};

/// Whom to believe. What it says changes when a newer root is found.
#[derive(Debug)]
pub struct Trust {
    rules: RwLock<Arc<Rules>>,
    witnessed: RwLock<Arc<SeenManifests>>,
}

#[derive(Debug, Clone, Default)]
struct Rules {
    /// `None`: the signers were listed.
    root: Option<Arc<Root>>,
    grants: Vec<Grant>,
    /// When the root was looked up.
    as_of: DateTime<Utc>,
}

/// What one signer may sign.
#[derive(Debug, Clone)]
struct Grant {
    signer: SignerKey,
    role: Role,
    datasets: Vec<Pattern>,
    /// It was revoked, as of this time.
    until: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// A backup host, with its name if a root tells it.
    Host(Option<Name>),
    DrillHost,
    /// Signs keyring objects, roots and vetoes.
    Owner,
    /// Signs what sweeps write.
    Warden,
    /// Did so once. What it signed removes nothing that is there.
    FormerWarden,
    /// Signs vetoes.
    Approver,
}

/// What the key of an object claims.
enum Claim {
    /// A snapshot, or what it needs.
    Snapshot(Name),
    /// A place in the order.
    Act(Name),
    /// What was removed.
    Removal(Name),
    /// That a mark is not to be carried out.
    Veto,
    /// What asks for deletions, or keeps others from work: a mark, a lease.
    Deletion(Name),
    Drill(Name),
    /// The keys of a dataset.
    DatasetKeys(Name),
    /// The keys of a host.
    HostKeys(Name),
}

/// Who signed an object.
#[derive(Debug)]
pub(crate) struct Signature {
    pub(crate) signer: SignerKey,
    /// It counts only if it was made before this time.
    pub(crate) before: Option<DateTime<Utc>>,
}

impl Trust {
    /// Trusts these backup hosts and drill hosts with every dataset.
    #[must_use]
    pub fn listed(signers: Vec<SignerKey>, drill_signers: Vec<SignerKey>) -> Arc<Self> {
        let everything = |role: Role| {
            move |signer| Grant { signer, role: role.clone(), datasets: vec![Pattern::all()], until: None }
        };
        let hosts = signers.into_iter().map(everything(Role::Host(None)));
        let grants = hosts.chain(drill_signers.into_iter().map(everything(Role::DrillHost))).collect();
        let rules = Rules { grants, ..Rules::default() };
        Arc::new(Self { rules: RwLock::new(Arc::new(rules)), witnessed: RwLock::default() })
    }

    /// Trusts whom `root` names, and besides these backup hosts with every dataset, at this time.
    ///
    /// # Errors
    /// [`Class::Integrity`]: a signer of the root is no minisign key.
    pub fn of_root(root: Arc<Root>, besides: Vec<SignerKey>, now: DateTime<Utc>) -> Result<Arc<Self>> {
        let trust = Self::listed(besides, Vec::new());
        trust.follow(root, now)?;
        Ok(trust)
    }

    /// From now on trusts whom `root` names, instead of another root. Signers that were listed stay
    /// trusted.
    ///
    /// # Errors
    /// As [`Self::of_root`].
    pub(crate) fn follow(&self, root: Arc<Root>, now: DateTime<Utc>) -> Result<()> {
        let listed = |grant: &&Grant| grant.role == Role::Host(None);
        let mut grants: Vec<Grant> = self.rules().grants.iter().filter(listed).cloned().collect();
        let key = |signer: &str| {
            let damaged = || Error::integrity(format!("root {} has a damaged signer", root.version));
            SignerKey::parse(signer).map_err(|error| damaged().because(error))
        };
        let passed = |until: Option<DateTime<Utc>>| until.filter(|until| *until <= now);
        for host in root.hosts.iter().filter(|host| host.from <= now) {
            let role = Role::Host(Some(host.name.clone()));
            let (datasets, until) = (host.datasets.clone(), passed(host.until));
            grants.push(Grant { signer: key(&host.signer)?, role, datasets, until });
        }
        for host in root.drill_hosts.iter().filter(|host| host.from <= now) {
            let (datasets, until) = (host.datasets.clone(), passed(host.until));
            grants.push(Grant { signer: key(&host.signer)?, role: Role::DrillHost, datasets, until });
        }
        let owners = root.owners.iter().map(|owner| (owner, Role::Owner));
        let approvers = root.approvers.iter().map(|approver| (approver, Role::Approver));
        let warden = root.warden.iter().map(|warden| (warden, Role::Warden));
        let former = root.former_wardens.iter().map(|warden| (warden, Role::FormerWarden));
        for (who, role) in owners.chain(approvers).chain(warden).chain(former) {
            grants.push(Grant { signer: key(&who.signer)?, role, datasets: vec![Pattern::all()], until: None });
        }
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Rules { root: Some(root), grants, as_of: now });
        Ok(())
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The root that it goes by; `None` if the signers were listed.
    #[must_use]
    pub fn root(&self) -> Option<Arc<Root>> {
        self.rules().root.clone()
    }

    /// Whether there is nobody whose snapshots would be believed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.rules().grants.iter().any(|grant| matches!(grant.role, Role::Host(_)))
    }

    /// Whether there is a drill host whose reports would be believed.
    #[must_use]
    pub fn knows_drill_hosts(&self) -> bool {
        self.rules().grants.iter().any(|grant| grant.role == Role::DrillHost)
    }

    /// Changes whenever somebody is trusted with less or more.
    pub(crate) fn mark(&self) -> String {
        let mut lines: Vec<String> = self.rules().grants.iter().map(|grant| format!("{grant:?}\n")).collect();
        lines.sort_unstable();
        blake3::hash(lines.concat().as_bytes()).to_hex().to_string()
    }

    /// Who signed the object that is stored under `key`, if that signer may have.
    ///
    /// # Errors
    /// [`Class::Keys`] if nobody signed it who may. [`Class::Integrity`] if object, signature or
    /// comment were changed.
    pub(crate) fn judge(&self, vault: &str, key: &str, object: &[u8], signature: &[u8]) -> Result<Signature> {
        let (rules, comment) = (self.rules(), layout::trusted_comment(vault, key));
        let claim = Claim::of(key);
        let may = |grant: &&Grant| claim.as_ref().is_some_and(|claim| claim.may_be_made_by(grant));
        let trusted: Vec<SignerKey> = rules.grants.iter().filter(may).map(|grant| grant.signer.clone()).collect();
        let signer = sign::verify(&trusted, object, signature, &comment).map_err(|error| {
            if error.class() != Class::Keys || rules.root.is_none() {
                return error;
            }
            let all: Vec<SignerKey> = rules.grants.iter().map(|grant| grant.signer.clone()).collect();
            match sign::verify(&all, object, signature, &comment) {
                Ok(signer) => Error::keys(format!("{} may not sign it", rules.name_of(&signer)))
                    .hint("`lifeboat root show` tells who may sign what; if this is wrong, let an owner sign another root"),
                Err(error) if error.class() == Class::Keys => Error::keys("the key that signed it is not in the root")
                    .hint("`lifeboat root show` tells who may sign what; if the signer is yours, run `lifeboat root request add-host` on its host"),
                Err(error) => error,
            }
        })?;
        let of_signer = rules.grants.iter().filter(may).filter(|grant| grant.signer == signer);
        let before = of_signer.map(|grant| grant.until).reduce(|one, other| if one.is_none() { one } else { other });
        Ok(Signature { before: before.flatten(), signer })
    }

    /// As [`Self::judge`], where nothing tells the time: nobody who was revoked is believed.
    ///
    /// # Errors
    /// As [`Self::judge`].
    pub(crate) fn verify(&self, vault: &str, key: &str, object: &[u8], signature: &[u8]) -> Result<SignerKey> {
        let signature = self.judge(vault, key, object, signature)?;
        signature.before.map_or(Ok(signature.signer), |until| Err(revoked(until, "nothing tells that it is older")))
    }

    /// The warden of the root: who alone deletes.
    #[must_use]
    pub fn warden(&self) -> Option<Principal> {
        self.root().and_then(|root| root.warden.clone())
    }

    /// Since when prune records of backup hosts remove what a replica shows; `None` while there is
    /// a warden. Where there was one, they do since the newest root.
    #[must_use]
    pub(crate) fn hosts_remove_since(&self) -> Option<DateTime<Utc>> {
        match self.root() {
            Some(root) if root.warden.is_some() => None,
            Some(root) if !root.former_wardens.is_empty() => Some(root.time),
            _ => Some(DateTime::<Utc>::MIN_UTC),
        }
    }

    /// Whether this is the signer of the warden, or of a former one, who may sign sweeps alone.
    #[must_use]
    pub(crate) fn only_sweeps(&self, signer: &SignerKey) -> bool {
        let sweeps = |role: &Role| matches!(role, Role::Warden | Role::FormerWarden);
        self.rules().grants.iter().any(|grant| sweeps(&grant.role) && grant.signer == *signer)
    }

    /// Whether this is the signer of the warden.
    #[must_use]
    pub(crate) fn is_warden(&self, signer: &SignerKey) -> bool {
        self.rules().grants.iter().any(|grant| grant.role == Role::Warden && grant.signer == *signer)
    }

    /// Refuses to sign for a dataset what nobody would believe.
    ///
    /// # Errors
    /// [`Class::Keys`]: the root does not let this signer work on the dataset.
    pub fn check_may_sign(&self, signer: &SignerKey, dataset: &Name) -> Result<()> {
        let rules = self.rules();
        let claim = Claim::Deletion(dataset.clone());
        if rules.grants.iter().any(|grant| grant.signer == *signer && claim.may_be_made_by(grant)) {
            return Ok(());
        }
        let version = rules.root.as_ref().map_or(0, |root| root.version);
        Err(Error::keys(format!("root {version} does not let this host back up dataset {dataset}"))
            .hint("run `lifeboat root request add-host` here, let an owner sign what it prints, and install that"))
    }
}

/// The error of a signature by a signer that was revoked.
pub(crate) fn revoked(until: DateTime<Utc>, why: &str) -> Error {
    Error::keys(format!("the root revoked the key that signed it, as of {}", until.format("%Y-%m-%dT%H:%M:%SZ")))
        .because(why)
        .hint("restore an older snapshot; whoever knows better passes the signer with --trusted-signer")
}

impl Claim {
    fn of(key: &str) -> Option<Self> {
        if let Some((dataset, _)) = layout::parse_keyring(key) {
            return Some(Self::DatasetKeys(dataset));
        }
        if let Some(host) = layout::parse_host_identity(key) {
            return Some(Self::HostKeys(host));
        }
        let (name, rest) = key.strip_prefix(layout::DATASETS)?.split_once('/')?;
        let dataset: Name = name.parse().ok()?;
        Some(match rest.split_once('/').map_or(rest, |(folder, _)| folder) {
            "drills" => Self::Drill(dataset),
            "snapshots" | "index" | "needs" => Self::Snapshot(dataset),
            "order" => Self::Act(dataset),
            "prunes" => Self::Removal(dataset),
            "vetoes" => Self::Veto,
            _ => Self::Deletion(dataset),
        })
    }

    /// Whether a signer may claim this, leaving aside when.
    fn may_be_made_by(&self, grant: &Grant) -> bool {
        let covers = |dataset: &Name| grant.datasets.iter().any(|pattern| pattern.covers(dataset));
        let is_now = grant.until.is_none();
        match (self, &grant.role) {
            (Self::Snapshot(dataset) | Self::Act(dataset), Role::Host(_))
            | (Self::Drill(dataset), Role::DrillHost)
            | (Self::DatasetKeys(dataset), Role::Host(_)) => covers(dataset),
            (Self::Deletion(dataset) | Self::Removal(dataset), Role::Host(_)) => is_now && covers(dataset),
            (Self::Act(_) | Self::Removal(_), Role::Warden | Role::FormerWarden)
            | (Self::Veto, Role::Owner | Role::Approver) => true,
            (Self::HostKeys(host), Role::Host(name)) => name.as_ref().is_none_or(|name| name == host),
            (Self::DatasetKeys(_) | Self::HostKeys(_), Role::Owner) => true,
            _ => false,
        }
    }
}

impl Rules {
    fn name_of(&self, signer: &SignerKey) -> NamedSigner<'_> {
        NamedSigner(self.grants.iter().find(|grant| grant.signer == *signer))
    }
}

/// Somebody, for people to read.
struct NamedSigner<'a>(Option<&'a Grant>);

impl fmt::Display for NamedSigner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.map(|grant| (&grant.role, grant.until)) {
            Some((Role::Host(Some(name)), Some(_))) => write!(f, "host {name}, whose key was revoked,"),
            Some((Role::Host(Some(name)), None)) => write!(f, "host {name}"),
            Some((Role::DrillHost, _)) => write!(f, "a drill host"),
            Some((Role::Owner, _)) => write!(f, "an owner"),
            Some((Role::Warden, _)) => write!(f, "the warden"),
            Some((Role::FormerWarden, _)) => write!(f, "a former warden"),
            Some((Role::Approver, _)) => write!(f, "an approver"),
            _ => write!(f, "a signer"),
        }
    }
}
