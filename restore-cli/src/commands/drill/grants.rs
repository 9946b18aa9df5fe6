//! What the root lets this drill host restore.

use lifeboat_engine::config::Config;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::log::LogKind;
use lifeboat_engine::format::root::Pattern;
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::{Error, Result};

use super::Args;
use crate::access;

/// The datasets that a drill host may restore.
pub(super) enum Grants {
    /// Without a root, whoever tries finds out. An owner restores everything.
    All,
    /// What the root names for this host.
    Named(Vec<Pattern>),
}

impl Grants {
    /// Those of this host.
    ///
    /// # Errors
    /// [`Class::Keys`](lifeboat_engine::Class::Keys): there is a root, and this host is not in it.
    /// To grant it nothing would let it drill nothing, and call that a success.
    pub(super) fn of_this_host(args: &Args, config: &Config, reader: &VaultReader) -> Result<Self> {
        let trust = &reader.keys().trust;
        let Some(root) = trust.root().filter(|_| !args.recording.is_by_owner()) else { return Ok(Self::All) };
        let Some(signer) = access::drill_signer(config)?.map(|signer| signer.public()) else {
            return Err(Error::keys("this host has no drill signer, so the root grants it nothing")
                .hint("put the drill signer where [keys] of the configuration looks for it"));
        };
        let log = trust.log_of(LogKind::DrillHosts, &signer);
        let host = log.and_then(|log| root.drill_hosts.iter().find(|host| host.name == log.name));
        host.map(|host| Self::Named(host.datasets.clone())).ok_or_else(|| {
            Error::keys("the root names no drill host with this signer")
                .hint("let the owner name it: `lifeboat root request add-drill-host`, with the signer of this host")
        })
    }

    pub(super) fn cover(&self, dataset: &Name) -> bool {
        match self {
            Self::All => true,
            Self::Named(patterns) => patterns.iter().any(|pattern| pattern.covers(dataset)),
        }
    }
}
