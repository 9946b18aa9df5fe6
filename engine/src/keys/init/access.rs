//! Who may open what, as the configuration says, or else the root; and what of a host is not in the
//! root yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::layout;
use lifeboat_format::line::{self, RequestLine};
use lifeboat_format::root::{self, Floors, Pattern, Root};
use lifeboat_store::{SharedReplica, without_name};

use super::remote::Remote;
use crate::catalog::verdict::combine;
use crate::config::Config;
use crate::keys::bundle::Bundle;
use crate::keys::owners::Owners;
use crate::keys::trust::Trust;
use crate::root::{
    Change, FoundRoot, GrantedMachine, NewDrillHost, SignedRoot, apply, find, first_root, pinned, revoked_for_good,
};
use crate::state::StateDirectory;

/// The drill host whose keys `init` makes.
const FIRST_DRILL_HOST: &str = "drill";

/// Who may open what.
pub(super) struct Access {
    /// Recipients that open everything.
    pub(super) masters: Vec<String>,
    /// Drill recipients of the configuration.
    drill_recipients: Vec<String>,
    owners: Option<Owners>,
    root: Option<SignedRoot>,
    /// Whom the root trusts. `None`: there is no root.
    pub(super) trust: Option<Arc<Trust>>,
    /// What was left aside in the look for the root, for people to read.
    pub(super) notes: Vec<String>,
}

impl Access {
    /// Looks for the root, if there are owners.
    ///
    /// # Errors
    /// There is no master, or two roots are valid.
    pub(super) async fn find(config: &Config, replicas: &[SharedReplica], now: DateTime<Utc>) -> Result<Self> {
        let keys = &config.keys;
        let owners = Owners::parse(&keys.owners, keys.owner_threshold)?;
        let mut notes = Vec::new();
        let root = match &owners {
            None => None,
            Some(owners) => {
                let state = config.state_directory.exists().then(|| StateDirectory::open(&config.state_directory));
                let known = state.transpose()?.map(|state| pinned(&state)).transpose()?.unwrap_or_default();
                let FoundRoot { newest, junk, lacking, unanswered, .. } = find(replicas, Some(owners), &known).await?;
                // Whoever hides the root, or a newer one, could else have his own keys adopted.
                if known.is_empty() && !unanswered.is_empty() {
                    let errors: Vec<Error> = unanswered.into_values().collect();
                    return Err(combine("nobody can tell which root is the newest".to_owned(), &errors)
                        .hint("run `lifeboat init` again when every replica answers, or leave a lost one out of the configuration"));
                }
                notes = junk;
                for replica in lacking {
                    notes.push(format!(
                        "replica {replica} does not show the newest root: it was emptied or rolled back, or is new"
                    ));
                }
                for (replica, error) in unanswered {
                    notes.push(format!(
                        "nobody can tell whether replica {replica} shows a newer root: {}",
                        without_name(&replica, &error.chain())
                    ));
                }
                newest
            }
        };
        let masters = match (&owners, &root) {
            (None, _) => keys.master_recipients.clone(),
            (Some(_), Some(root)) => root.root.masters.clone(),
            (Some(owners), None) => owners.lines()?.into_iter().map(|line| line.recipient).collect(),
        };
        if masters.is_empty() {
            return Err(Error::configuration("[keys] names neither owners nor master_recipients, so nobody could restore")
                .hint("run `lifeboat owner init --directory owner` on another machine, keep that folder there, and put the line that it prints into owners"));
        }
        let trust =
            root.as_ref().map(|root| Trust::of_root(Arc::new(root.root.clone()), Vec::new(), now)).transpose()?;
        Ok(Self { masters, drill_recipients: keys.drill_recipients.clone(), owners, root, trust, notes })
    }

    /// The recipients that the root names of hosts of this name.
    pub(super) fn operations_of(&self, host: &Name) -> impl Iterator<Item = &String> {
        let hosts = self.root().into_iter().flat_map(|root| &root.hosts);
        hosts.filter(move |known| known.name == *host).map(|known| &known.operations)
    }

    fn root(&self) -> Option<&Root> {
        self.root.as_ref().map(|root| &root.root)
    }

    /// Refuses another vault than that of the root.
    pub(super) fn check_vault(&self, vault: &str) -> Result<()> {
        match self.root() {
            Some(root) if root.vault != vault => Err(Error::configuration(format!(
                "the replicas hold vault {vault}, and the root is of vault {}",
                root.vault
            ))
            .hint("correct vault_prefix, or the buckets or paths of the replicas")),
            _ => Ok(()),
        }
    }

    /// Refuses keys of others while there is no root that could tell who signs keys. Whoever hides
    /// the root, or comes before it, can put keys of his own there.
    ///
    /// # Errors
    /// [`Class::Keys`](lifeboat_base::Class::Keys): a replica holds a keyring object that this
    /// host did not make.
    pub(super) fn check_keys(&self, host: &Name, remote: &Remote<'_>, bundle: Option<&Bundle>) -> Result<()> {
        if let (Some(root), Some(bundle)) = (self.root(), bundle) {
            let own = bundle.signer()?.public().to_string();
            if root.hosts.iter().any(|known| known.signer == own && known.until.is_some()) {
                return Err(revoked_for_good(host));
            }
        }
        if self.owners.is_none() || self.root.is_some() {
            return Ok(());
        }
        let mut own = BTreeMap::new();
        if let Some(bundle) = bundle {
            own.insert(layout::host_identity(host), bundle.wrapped_operations()?);
            for (dataset, keys) in &bundle.datasets {
                own.insert(layout::keyring_generation(dataset, keys.generation), keys.wrapped(dataset)?);
            }
        }
        let Some((replica, key)) = remote.foreign_key(&own) else { return Ok(()) };
        Err(Error::keys(format!("replica {replica} holds {key}, which this host did not make, and no replica shows a root"))
            .because("without a root, nobody can tell whose keys these are, so they are not adopted")
            .hint("if another host of a new vault made it, install the root, then run `lifeboat init` here; if there was a root, find out who removed it, and put it back with `lifeboat root install`; for a vault from before there were roots, leave [keys] owners out and run `lifeboat root adopt`"))
    }

    /// Refuses floors that no root 1 would say.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_base::Class::Usage).
    pub(super) fn check_floors(&self, floors: &Floors) -> Result<()> {
        let why = match &self.owners {
            _ if *floors == Floors::default() => return Ok(()),
            None => "the configuration names no owners, so there is no root that would say them",
            Some(_) if self.root.is_some() => "the vault has a root already",
            Some(_) => return Ok(()),
        };
        Err(Error::usage("init sets the least retention and the least delay in root 1 alone")
            .because(why)
            .hint("leave them out; `lifeboat root request set` takes them once there is a root"))
    }

    /// The masters, sorted.
    pub(super) fn sorted_masters(&self) -> Vec<String> {
        self.masters.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether somebody has said who drills.
    pub(super) fn names_drill_hosts(&self) -> bool {
        !self.drill_recipients.is_empty() || self.root().is_some()
    }

    /// Everybody who may open a dataset, sorted. The drill recipient that `init` made counts only
    /// until somebody has said who drills.
    pub(super) fn granted(&self, dataset: &Name, bundle: &Bundle) -> Vec<String> {
        let mut all: BTreeSet<String> = self.masters.iter().chain(&self.drill_recipients).cloned().collect();
        match self.root() {
            Some(root) => {
                let covers = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.covers(dataset));
                let granted = root.drill_hosts.iter().filter(|host| host.until.is_none() && covers(&host.datasets));
                all.extend(granted.map(|host| host.recipient.clone()));
            }
            None if self.drill_recipients.is_empty() => all.extend(bundle.drill_recipient.clone()),
            None => {}
        }
        all.into_iter().collect()
    }

    /// The line of a root that lets this host work on all its datasets, and its eight words; `None`
    /// if there are no owners, or the root does so already.
    ///
    /// # Errors
    /// The root would be too long.
    pub(super) fn request(
        &self,
        config: &Config,
        bundle: &Bundle,
        floors: &Floors,
        (created, now): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Option<(String, String)>> {
        let Some(owners) = &self.owners else { return Ok(None) };
        let signer = bundle.signer()?.public().to_string();
        let known = self.root().and_then(|root| root.hosts.iter().find(|host| host.signer == signer));
        let mut datasets =
            known.filter(|host| host.until.is_none()).map(|host| host.datasets.clone()).unwrap_or_default();
        let lacking: Vec<&Name> = config.datasets.iter().map(|dataset| &dataset.name).collect();
        let lacking = lacking.into_iter().filter(|name| !datasets.iter().any(|pattern| pattern.covers(name)));
        let lacking: Vec<Pattern> = lacking.map(Pattern::of).collect();
        if lacking.is_empty() {
            return Ok(None);
        }
        datasets.extend(lacking);
        let host = GrantedMachine {
            name: config.host.clone(),
            signer,
            operations: bundle.operations()?.to_public().to_string(),
            datasets: datasets.clone(),
        };
        let root = match &self.root {
            Some(root) => apply(root, Change::AddHost(host), now)?,
            None => {
                let drill = bundle.drill_recipient.clone().zip(bundle.drill_signer.clone());
                let drill = drill.map(|(recipient, signer)| {
                    Ok::<_, Error>(NewDrillHost { name: FIRST_DRILL_HOST.parse()?, recipient, signer, datasets })
                });
                let drill = drill.transpose()?.into_iter().collect();
                let from = created.min(now - TimeDelta::minutes(10));
                let owners = (&owners.lines()?[..], owners.threshold());
                first_root(&bundle.vault, owners, Vec::new(), (vec![host], drill), floors.clone(), (from, now))?
            }
        };
        let text = root.to_json()?;
        let words = root::fingerprint(&text);
        let root = String::from_utf8(text).map_err(|error| Error::failed("a root is not text").because(error))?;
        Ok(Some((line::write(&RequestLine { root, signatures: Default::default() })?, words)))
    }
}
