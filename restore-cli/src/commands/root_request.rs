//! `root request` and `root adopt`: print the next root as a line, which changes nothing until an
//! owner has signed it and it is installed.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::config::Config;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::info::{HostInfo, MAX_VAULT_INFO_BYTES};
use lifeboat_engine::format::layout;
use lifeboat_engine::format::line::{self, OwnerLine, RequestLine};
use lifeboat_engine::format::root::{self as format_root, Floors, Pattern, Principal, Root};
use lifeboat_engine::keep::warden_leaves::check_nothing_waits_for_it;
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::keys::trust::Trust;
use lifeboat_engine::root::{self, Change, GrantedMachine, NewDrillHost};
use lifeboat_engine::store::SharedReplica;
use lifeboat_engine::{Error, Result};

use super::root_found::{found, no_root, vault_of};
use crate::access;
use crate::flags::parse_time;
use crate::lines::{self, OneLine};
use crate::session::Session;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    change: Requested,
}

#[derive(Debug, clap::Subcommand)]
enum Requested {
    /// Trust this backup host; run it there
    AddHost {
        /// Datasets that it backs up: names in which one * stands for any characters; those of its
        /// configuration if left out; may be repeated
        #[arg(long = "dataset", value_name = "PATTERN")]
        datasets: Vec<Pattern>,
    },
    /// Trust a backup host no more
    RemoveHost(Removed),
    /// Trust a drill host, also as a witness
    AddDrillHost {
        /// Its name
        name: Name,
        /// Its age recipient
        #[arg(long, value_name = "RECIPIENT")]
        recipient: String,
        /// Its minisign public key
        #[arg(long, value_name = "KEY")]
        signer: String,
        /// Datasets that it may open and drill; all if left out; may be repeated
        #[arg(long = "dataset", value_name = "PATTERN")]
        datasets: Vec<Pattern>,
    },
    /// Trust a drill host no more
    RemoveDrillHost(Removed),
    /// Let somebody sign roots, too, and open everything
    AddOwner {
        /// The line that `lifeboat owner init` printed; `-` reads standard input, @FILE a file
        #[arg(value_name = "LINE")]
        line: String,
    },
    /// Let an owner sign roots no more; the master identity stays until `set --remove-master`
    RemoveOwner {
        /// The owner's name
        name: Name,
    },
    /// Let a warden alone delete and extend locks; backup hosts only mark from then on
    SetWarden {
        /// Its name, which is `host` in its configuration
        name: Name,
        /// Its minisign public key, as `lifeboatd warden --make-signer` prints it
        #[arg(long, value_name = "KEY")]
        signer: String,
    },
    /// Let backup hosts delete again
    RemoveWarden,
    /// Let somebody veto deletions
    AddApprover {
        /// The line that `lifeboat owner init` printed there; only its name and signing key count.
        /// `-` reads standard input, @FILE a file
        #[arg(value_name = "LINE")]
        line: String,
    },
    /// Let somebody veto deletions no more; what that person has vetoed may go then
    RemoveApprover {
        /// The approver's name
        name: Name,
    },
    /// Change what is said once for the whole vault
    Set {
        /// So many owners must sign a root
        #[arg(long, value_name = "N")]
        threshold: Option<usize>,
        #[command(flatten)]
        floors: FloorFlags,
        /// Recipient that opens everything, too; may be repeated
        #[arg(long, value_name = "RECIPIENT")]
        add_master: Vec<String>,
        /// Recipient that opens everything no more; may be repeated
        #[arg(long, value_name = "RECIPIENT")]
        remove_master: Vec<String>,
        /// Drill host that is a witness, too; may be repeated
        #[arg(long, value_name = "NAME")]
        add_witness: Vec<Name>,
        /// Drill host that is a witness no more; may be repeated
        #[arg(long, value_name = "NAME")]
        remove_witness: Vec<Name>,
    },
}

/// What no configuration goes below.
#[derive(Debug, clap::Args)]
pub(super) struct FloorFlags {
    /// Keep every snapshot for at least so many days, whatever a configuration says
    #[arg(long, value_name = "DAYS")]
    least_retention: Option<u64>,
    /// Wait at least so many days between a mark and its deletion
    #[arg(long, value_name = "DAYS")]
    least_delay: Option<u64>,
}

impl FloorFlags {
    pub(super) fn floors(&self) -> Floors {
        let seconds = |days: Option<u64>| days.map(|days| days.saturating_mul(86_400));
        Floors { retention: seconds(self.least_retention), delay: seconds(self.least_delay) }
    }
}

#[derive(Debug, clap::Args)]
struct Removed {
    /// Its name
    name: Name,
    /// Its signer, if several machines have had this name
    #[arg(long, value_name = "KEY")]
    signer: Option<String>,
    /// Until when it is to be trusted (RFC 3339), such as the time of a theft; now if left out
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<DateTime<Utc>>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Adopt {
    /// So many owners must sign a root
    #[arg(long, value_name = "N", default_value = "1")]
    threshold: usize,
    #[command(flatten)]
    floors: FloorFlags,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let (config, replicas, shown) = found(session).await?;
    let newest = shown.newest.ok_or_else(no_root)?;
    let (now, all) = (session.clock.now(), || vec![Pattern::all()]);
    let change = match &args.change {
        Requested::AddHost { datasets } => {
            let config = config.ok_or_else(|| {
                Error::usage("add-host describes this host").hint("run it on the backup host, with its configuration")
            })?;
            Change::AddHost(this_host(&config, &HostKeys::load(&config.keys)?, datasets))
        }
        Requested::RemoveHost(Removed { name, signer, until }) => {
            Change::RemoveHost { name: name.clone(), signer: signer.clone(), until: until.unwrap_or(now) }
        }
        Requested::AddDrillHost { name, recipient, signer, datasets } => Change::AddDrillHost(NewDrillHost {
            name: name.clone(),
            recipient: recipient.clone(),
            signer: signer.clone(),
            datasets: if datasets.is_empty() { all() } else { datasets.clone() },
        }),
        Requested::RemoveDrillHost(Removed { name, signer, until }) => {
            Change::RemoveDrillHost { name: name.clone(), signer: signer.clone(), until: until.unwrap_or(now) }
        }
        Requested::AddOwner { line } => Change::AddOwner(line::read::<OwnerLine>(&lines::given(line)?)?),
        Requested::RemoveOwner { name } => Change::RemoveOwner(name.clone()),
        Requested::SetWarden { name, signer } => {
            Change::SetWarden(Principal { name: name.clone(), signer: signer.clone() })
        }
        Requested::RemoveWarden => {
            if config.is_none_or(|config| config.replicas.len() != replicas.len()) {
                return Err(Error::usage("what somebody left behind may be in any replica, so all are looked at")
                    .hint("run it with a configuration of all replicas, without --replica, while they answer"));
            }
            let trust = Trust::of_root(Arc::new(newest.root.clone()), Vec::new(), now)?;
            let look = check_nothing_waits_for_it(&newest.root.vault, &trust, &replicas, now);
            session.cancellable("the look for what was left behind", look).await?;
            Change::RemoveWarden
        }
        Requested::AddApprover { line } => {
            let OwnerLine { name, signer, .. } = line::read(&lines::given(line)?)?;
            Change::AddApprover(Principal { name, signer })
        }
        Requested::RemoveApprover { name } => Change::RemoveApprover(name.clone()),
        Requested::Set { threshold, floors, add_master, remove_master, add_witness, remove_witness } => Change::Set {
            threshold: *threshold,
            floors: floors.floors(),
            add_masters: add_master.clone(),
            remove_masters: remove_master.clone(),
            add_witnesses: add_witness.clone(),
            remove_witnesses: remove_witness.clone(),
        },
    };
    print(&root::apply(&newest, change, now)?, Some(&newest.root), session)
}

fn this_host(config: &Config, keys: &HostKeys, datasets: &[Pattern]) -> GrantedMachine {
    let own = config.datasets.iter().map(|dataset| Pattern::of(&dataset.name));
    GrantedMachine {
        name: config.host.clone(),
        signer: keys.signer.public().to_string(),
        operations: keys.operations.to_public().to_string(),
        datasets: if datasets.is_empty() { own.collect() } else { datasets.to_vec() },
    }
}

/// Root 1 of a vault that was made without: it trusts whom the configuration trusts now.
pub(crate) async fn adopt(args: &Adopt, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    if !config.keys.owners.is_empty() {
        return Err(Error::usage("the configuration has owners already")
            .hint("`lifeboat init` prints the request for a vault that has no root yet; to adopt another vault, leave [keys] owners out until its root is installed"));
    }
    let owners = access::owners(&session.globals, None)?.ok_or_else(|| {
        Error::usage("root 1 needs an owner").hint("pass the line that `lifeboat owner init` printed with --owner")
    })?;
    let (_, replicas, shown) = found(session).await?;
    if shown.newest.is_some() {
        return Err(
            Error::usage("the vault has a root already").hint("set [keys] owners; `lifeboat root show` shows the root")
        );
    }
    let keys = HostKeys::load(&config.keys)?;
    if vault_of(&replicas).await? != keys.vault {
        return Err(Error::configuration(format!("the replicas hold another vault than {}", keys.vault))
            .hint("correct vault_prefix, or the buckets or paths of the replicas"));
    }
    let now = session.clock.now();
    // Whatever was signed until now counts.
    let own: Vec<Pattern> = keys.datasets.keys().map(Pattern::of).collect();
    let mut hosts = vec![this_host(&config, &keys, &own)];
    for signer in &config.keys.trusted_signers {
        if hosts.iter().all(|host| host.signer != *signer) {
            hosts.push(known_host(signer, hosts.len(), &replicas).await?);
        }
    }
    let drill = drill_hosts(&config, &keys)?;
    let owners = (&owners.lines()?[..], args.threshold);
    let masters = config.keys.master_recipients.clone();
    let times = (now - TimeDelta::minutes(10), now);
    let root = root::first_root(&keys.vault, owners, masters, (hosts, drill), args.floors.floors(), times)?;
    print(&root, None, session)
}

/// A host by its signer. Its name comes from the vault, where anybody may have put it: the owner
/// sees both.
async fn known_host(signer: &str, number: usize, replicas: &[SharedReplica]) -> Result<GrantedMachine> {
    let (mut found, mut operations) = (None, None);
    for replica in replicas {
        for object in replica.list(layout::HOSTS).await.unwrap_or_default() {
            let Some(name) = layout::parse_host(&object.key) else { continue };
            let Ok(body) = replica.get(&object.key, MAX_VAULT_INFO_BYTES as u64).await else { continue };
            let Ok(info) = serde_json::from_slice::<HostInfo>(&body) else { continue };
            if info.signer == signer && info.host == name {
                (found, operations) = (Some(name), Some(info.operations_recipient));
            }
        }
    }
    let name = match found {
        Some(name) => name,
        None => format!("host-{number}").parse()?,
    };
    let operations = operations.unwrap_or_else(|| "unknown".to_owned());
    Ok(GrantedMachine { name, signer: signer.to_owned(), operations, datasets: vec![Pattern::all()] })
}

/// The drill hosts of the configuration. Recipients and signers are two lists: they belong together
/// in the order in which they stand.
fn drill_hosts(config: &Config, keys: &HostKeys) -> Result<Vec<NewDrillHost>> {
    let configured = &config.keys;
    let made = keys.own_drill_signer.as_ref().map(ToString::to_string);
    let signers: BTreeSet<&String> = configured.trusted_drill_signers.iter().chain(&made).collect();
    let recipients: Vec<String> = match &keys.own_drill_recipient {
        Some(made) if configured.drill_recipients.is_empty() => vec![made.clone()],
        _ => configured.drill_recipients.clone(),
    };
    if signers.len() != recipients.len() {
        return Err(Error::configuration(format!(
            "there are {} drill recipients and {} drill signers, so they cannot be told apart",
            recipients.len(),
            signers.len()
        ))
        .hint("leave those of one drill host in the configuration, and add the others with `lifeboat root request add-drill-host`"));
    }
    let ordered = configured.trusted_drill_signers.iter().chain(&made);
    let mut seen = BTreeSet::new();
    let ordered = ordered.filter(|signer| seen.insert((*signer).clone()));
    let host = |(number, (signer, recipient)): (usize, (&String, String))| {
        let name = if number == 0 { "drill".to_owned() } else { format!("drill-{}", number + 1) };
        Ok(NewDrillHost { name: name.parse()?, recipient, signer: signer.clone(), datasets: vec![Pattern::all()] })
    };
    ordered.zip(recipients).enumerate().map(host).collect()
}

fn print(root: &Root, before: Option<&Root>, session: &Session) -> Result<()> {
    let text = root.to_json()?;
    session.out.note(format!("Root {}: {}", root.version, format_root::fingerprint(&text)));
    for difference in root::differences(before, root) {
        session.out.note(format!("  {difference}"));
    }
    let root = String::from_utf8(text).map_err(|error| Error::failed("a root is not text").because(error))?;
    session.out.result(&OneLine { line: line::write(&RequestLine { root, signatures: Default::default() })? })
}
