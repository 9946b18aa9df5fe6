//! Records in a log that data is about to be decrypted, before an identity opens any of it.
//!
//! Whoever is here signs: the owner of `--owner-directory`, or the drill host or backup host whose
//! key the configuration names. If no replica takes the record, nothing is decrypted, unless
//! `--unrecorded` says why it must be. Vaults without a root have no logs.

use std::path::{Path, PathBuf};

use clap::Args;
use lifeboat_engine::config::Config;
use lifeboat_engine::format::log::{LogEvent, LogKind, LogName, cut_to_fit};
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::keys::trust::Trust;
use lifeboat_engine::log::{HostLog, LogReader, Logbook, LooksBack, look};
use lifeboat_engine::restore::{Selector, VaultReader};
use lifeboat_engine::root::{self, OwnerFolder};
use lifeboat_engine::state::{StateDirectory, user_named};
use lifeboat_engine::store::SharedReplica;
use lifeboat_engine::{Class, Error, Result};

use crate::access;
use crate::session::{Place, Session};

/// Flags of commands that decrypt data.
#[derive(Debug, Clone, Args)]
pub(crate) struct Recording {
    /// Directory that `lifeboat owner init` made; its key signs the record of this in the owner's
    /// log, where the vault has a root
    #[arg(long, value_name = "DIR")]
    owner_directory: Option<PathBuf>,
    /// Why you do this, for the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Go on although no replica takes the record, for this reason; it is kept and sent later
    #[arg(long, value_name = "REASON")]
    unrecorded: Option<String>,
}

impl Recording {
    /// Whether an owner's key is to sign the record.
    pub(crate) fn is_by_owner(&self) -> bool {
        self.owner_directory.is_some()
    }
}

/// What to do where a log is shorter than it was.
pub(crate) enum Shorter {
    /// Stop.
    Refuse,
    /// Go on, and tell: a region counts as gone, and what it alone showed is missed.
    Tell,
    /// Ask, unless it was accepted.
    Ask {
        /// `--accept-older`.
        accepted: bool,
        /// The vault is read as of a time: whoever does that knows that something was lost.
        expected: bool,
    },
}

impl Recording {
    /// Records `event`, of which the argument is whether `--unrecorded` was given.
    ///
    /// # Errors
    /// Nobody is here who could sign, no replica takes the record, or a log is shorter than it was.
    pub(crate) async fn record(
        &self,
        session: &Session,
        place: &Place,
        reader: &VaultReader,
        shorter: Shorter,
        event: impl FnOnce(bool) -> LogEvent,
    ) -> Result<()> {
        let trust = reader.keys().trust.as_ref();
        if trust.root().is_none() {
            if self.reason.is_some() || self.unrecorded.is_some() || self.owner_directory.is_some() {
                session.out.warning("this vault is not read by its root, so nothing is recorded: pass --owner");
            }
            return Ok(());
        }
        let replicas = place.as_it_is(reader.replicas(), &session.clock).await?;
        let principal = match self.principal(place.config.as_ref(), trust) {
            Ok(principal) => principal,
            Err(error) if self.unrecorded.is_none() => return Err(error),
            Err(error) => {
                let why = error.chain();
                session.out.warning(format!("this is recorded nowhere, so nobody will know of it: {why}"));
                return Ok(());
            }
        };
        let (vault, home) = (reader.vault_id(), &principal.home);
        let logs = LogReader { vault, trust };
        let looked = look(&logs, &replicas, home, Some(&principal.log));
        match session.cancellable("the look at the logs", looked).await {
            Ok(back) => shorter.judge(session, back).await?,
            Err(error) if self.may_go_on(session) && matches!(shorter, Shorter::Ask { .. }) => {
                session.out.warning(format!("whether a log was cut is not looked at: {}", error.chain()));
            }
            Err(error) => {
                let hint = error.hint_text().unwrap_or("mend the directory that remembers logs").to_owned();
                let error = error.within("nothing was decrypted, because the logs cannot be looked at");
                return Err(error.hint(format!("{hint}; in an emergency, pass --unrecorded REASON")));
            }
        }
        let book = Logbook { log: &principal.log, signer: &principal.signer, vault, trust, replicas: &replicas, home };
        let why = match (&self.reason, &self.unrecorded) {
            (Some(reason), Some(unrecorded)) => Some(format!("{reason}; unrecorded: {unrecorded}")),
            (reason, unrecorded) => reason.clone().or_else(|| unrecorded.clone()),
        };
        let append = book.append(event(self.unrecorded.is_some()), why.as_deref(), Vec::new(), session.clock.now());
        let recorded = session.cancellable("recording this", append).await;
        let recorded = recorded.and_then(|recorded| {
            recorded.warnings().into_iter().for_each(|warning| session.out.warning(warning));
            recorded.in_a_replica()
        });
        match recorded {
            Err(error) if self.may_go_on(session) => {
                session.out.warning(format!("going on unrecorded: {}", error.chain()));
                Ok(())
            }
            recorded => recorded.map_err(|error| {
                let next = self.remedy(&error, home.path());
                error
                    .within("nothing was decrypted, because it could not be recorded")
                    .hint(format!("{next}; in an emergency, pass --unrecorded REASON"))
            }),
        }
    }

    /// What to do where a record could not be kept in `home`, or sent.
    fn remedy(&self, error: &Error, home: &Path) -> String {
        if error.class() == Class::Storage && error.chain().contains(&*home.to_string_lossy()) {
            let key = if self.is_by_owner() { "--owner-directory" } else { "state_directory" };
            return format!("make {key} ({}) writable for this user", home.display());
        }
        error.hint_text().unwrap_or("mend a replica, or the right to write below log/").to_owned()
    }

    /// Whether it was said that the work goes on without a record, and nobody has cancelled it.
    fn may_go_on(&self, session: &Session) -> bool {
        self.unrecorded.is_some() && !session.cancel.is_cancelled()
    }

    /// Who is here.
    fn principal(&self, config: Option<&Config>, trust: &Trust) -> Result<Principal> {
        if let Some(directory) = &self.owner_directory {
            let signer = OwnerFolder::open(directory)?.into_signer();
            return Principal::of(LogKind::Owners, signer, directory, trust)?.ok_or_else(|| {
                Error::keys(format!("the root does not name the owner of {}", directory.display()))
                    .hint("`lifeboat root show` names the owners")
            });
        }
        let nobody = |why: String| {
            Error::keys("nobody is here who could record this").because(why).hint(
                "pass --owner-directory with the directory that `lifeboat owner init` made; in an emergency, --unrecorded REASON",
            )
        };
        let Some(config) = config else {
            return Err(nobody("no configuration is used, and no owner is named".to_owned()));
        };
        let state = &config.state_directory;
        let mut found = None;
        if let Some(signer) = access::drill_signer(config)? {
            found = Principal::of(LogKind::DrillHosts, signer, state, trust)?;
        }
        if found.is_none()
            && let Some(host) = access::host_keys(config)
        {
            found = Principal::of(LogKind::Hosts, host.signer, state, trust)?;
        }
        let found = found.ok_or_else(|| nobody("the root names no key that this machine has".to_owned()))?;
        if found.home.is_of_another_user() {
            return Err(nobody(format!("the state directory {} belongs to another user, who could", state.display())));
        }
        Ok(found)
    }
}

struct Principal {
    log: LogName,
    signer: Signer,
    home: StateDirectory,
}

impl Principal {
    fn of(kind: LogKind, signer: Signer, home: &Path, trust: &Trust) -> Result<Option<Self>> {
        let log = trust.log_of(kind, &signer.public());
        log.map(|log| Ok(Self { log, signer, home: StateDirectory::open(home)? })).transpose()
    }
}

impl Shorter {
    async fn judge(self, session: &Session, back: LooksBack) -> Result<()> {
        back.warnings.iter().chain(&back.doubts).for_each(|warning| session.out.warning(warning));
        if back.findings.is_empty() {
            return Ok(());
        }
        let found = back.findings.join("; ");
        match self {
            Self::Refuse => {
                Err(Error::integrity("what replicas show is older than it was, so nothing would be proved")
                    .because(found)
                    .hint("run `lifeboat audit verify`, and find out who cut the log"))
            }
            Self::Tell => {
                session.out.warning(format!("without the region, replicas show less than was seen: {found}"));
                Ok(())
            }
            Self::Ask { expected: true, .. } | Self::Ask { accepted: true, .. } => {
                session.out.warning(format!("what replicas show is older than it was: {found}"));
                Ok(())
            }
            Self::Ask { .. } => {
                let question =
                    format!("What replicas show is older than it was: {found}. What you restore may be older, too.");
                let refused = |error: Error| {
                    Error::integrity(error.message().to_owned())
                        .because(format!("what replicas show is older than it was: {found}"))
                        .hint("find out who cut the log; pass --accept-older to restore what is there")
                };
                session.confirm(false, question).await.map_err(refused)
            }
        }
    }
}

/// Records in the log of this backup host, if it has one, what it is about to do. What weakens or
/// mends trust must not wait for a log, so a failure is a warning.
pub(crate) async fn by_host(session: &Session, config: &Config, replicas: &[SharedReplica], event: LogEvent) {
    let Some(keys) = access::host_keys(config).filter(|keys| keys.owners.is_some()) else { return };
    let record = async {
        let state = StateDirectory::open(&config.state_directory)?;
        if root::pinned(&state)?.is_empty() || state.is_of_another_user() {
            return Ok(Vec::new());
        }
        root::renew(&keys, replicas, &state, session.clock.now()).await?;
        let log = HostLog { keys: &keys, replicas, state: &state };
        log.record(event, Vec::new(), session.clock.now()).await
    };
    match session.cancellable("recording this", record).await {
        Ok(warnings) => warnings.into_iter().for_each(|warning| session.out.warning(warning)),
        Err(error) => session.out.warning(format!("this is not in the host's log: {}", error.chain())),
    }
}

/// Which snapshot is asked for, for a record.
pub(crate) fn wanted(selector: &Selector) -> String {
    match selector {
        Selector::Latest => "latest".to_owned(),
        Selector::Id(id) => id.to_string(),
        Selector::Beginning(beginning) => beginning.clone(),
        Selector::At(time) => format!("at {}", time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)),
    }
}

/// The user of the operating system, and who that user logged in as.
pub(crate) fn user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let login = std::fs::read_to_string("/proc/self/loginuid").ok().and_then(|text| text.trim().parse::<u32>().ok());
    let login = login.filter(|login| *login != uid && *login != u32::MAX);
    let login = login.map(|login| format!(", logged in as {}", named(login))).unwrap_or_default();
    cut_to_fit(&format!("{}{login}", named(uid)))
}

fn named(uid: u32) -> String {
    user_named(uid).map_or_else(|| format!("uid {uid}"), |name| format!("{name} (uid {uid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_cannot_be_kept_here_is_told_apart_from_one_that_no_replica_takes() {
        let home = Path::new("/var/lib/lifeboat");
        let by = |owner_directory: Option<&Path>| Recording {
            owner_directory: owner_directory.map(Path::to_owned),
            reason: None,
            unrecorded: None,
        };
        let here = Error::storage("cannot write /var/lib/lifeboat/log/hosts/db1/2").because("Read-only file system");
        let there = Error::storage("no replica took record 2 of log hosts/db1");
        let held = Error::failed("another process holds /var/lib/lifeboat/log/lock").hint("wait until it ends");
        for (by, error, hint) in [
            (by(None), &here, "make state_directory (/var/lib/lifeboat) writable for this user"),
            (by(Some(home)), &here, "make --owner-directory (/var/lib/lifeboat) writable for this user"),
            (by(None), &there, "mend a replica, or the right to write below log/"),
            (by(None), &held, "wait until it ends"),
        ] {
            assert_eq!(by.remedy(error, home), hint);
        }
    }
}
