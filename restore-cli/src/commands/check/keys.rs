//! Whether this host holds the keys that it should hold, and no others.

use lifeboat_engine::config::Config;
use lifeboat_engine::keys::{DRILL_HOST_FOLDER, HostKeys, outdated_keyrings};
use lifeboat_engine::{Class, Result};

use super::{Checked, backs_up};
use crate::session::Session;

/// The owner in `config/drill-host.toml`, which everybody is to replace.
const EXAMPLE_OWNER: &str = "RWTJ09VYtv37H61y+KvFkmBbuNgYIqCfCn4H5sgGCL8kOEKarvGpmqVf";

impl Checked {
    pub(super) fn judge_keys(&mut self, config: &Config) {
        if let Some(example) = config.keys.owners.iter().find(|owner| owner.contains(EXAMPLE_OWNER)) {
            self.broken(
                Class::Keys,
                format!("the owner {example} is that of the example, and nobody holds its secret half: write the vault's own owner into [keys] owners, as `lifeboat root show` tells it on the backup host"),
            );
        }
        if config.keys.owners.is_empty() && config.keys.master_recipients.is_empty() && backs_up(config) {
            self.broken(
                Class::Keys,
                "neither owners nor master_recipients are named, so nobody could open a new key: write the owners into [keys] owners"
                    .to_owned(),
            );
        }
        if config.keys.owners.is_empty() && backs_up(config) {
            self.weak.push(
                "there is no root: whoever steals the signer of one host can sign for every dataset and every time, and whoever writes into all buckets can exchange keys before a new host takes them over; run `lifeboat owner init`, then `lifeboat root adopt`"
                    .to_owned(),
            );
        }
        if config.keys.directory.join(DRILL_HOST_FOLDER).join("drill-identity").exists() {
            self.weak.push(format!(
                "the drill identity is still on this host, in {}: with it, this host can read its own backups; move it to the drill host",
                config.keys.directory.join(DRILL_HOST_FOLDER).display()
            ));
        }
        if config.keys.drill_identity.path().exists() {
            if let Err(error) = config.keys.drill_identity.read() {
                self.broken(error.class(), error.chain());
            }
            let lists_nobody = config.keys.trusted_signers.is_empty() && config.keys.owners.is_empty();
            if lists_nobody && !config.keys.host_bundle.path().exists() {
                self.broken(
                    Class::Keys,
                    "trusted_signers is empty, so no snapshot can be trusted: add the signer that `lifeboat init` printed"
                        .to_owned(),
                );
            }
        }
        if !backs_up(config) {
            return;
        }
        if !config.keys.host_key.path().exists() && !config.keys.host_bundle.path().exists() {
            self.weak.push("this host has no keys yet, so it cannot back up: run `lifeboat init`".to_owned());
            return;
        }
        match HostKeys::load(&config.keys) {
            Err(error) => self.broken(error.class(), error.chain()),
            Ok(keys) => {
                for dataset in config.datasets.iter().filter(|dataset| !keys.datasets.contains_key(&dataset.name)) {
                    self.broken(
                        Class::Keys,
                        format!("dataset {} has no keys: run `lifeboat init` again", dataset.name),
                    );
                }
            }
        }
    }
}

/// Tells which keyrings do not open to those whom the configuration, or the root, names now.
///
/// # Errors
/// The check was cancelled.
pub(super) async fn check_keyrings(checked: &mut Checked, config: &Config, session: &Session) -> Result<()> {
    if !config.keys.host_key.path().exists() || !config.keys.host_bundle.path().exists() {
        return Ok(());
    }
    // Why none can be opened is told by the look at each.
    let Ok((replicas, _)) = session.place()?.open_for_reading(&session.clock).await else { return Ok(()) };
    let look = async { Ok(outdated_keyrings(config, &replicas, session.clock.now()).await) };
    // What hinders this look is told by the look for the root, and by that at the keys.
    let outdated = session.cancellable("the check of the keyring", look).await?.unwrap_or_default();
    for dataset in outdated {
        checked.weak.push(format!(
            "the keys of dataset {dataset} were written for other masters or drill hosts than are named now, so one of these cannot restore it: run `lifeboat init --identity MASTER`"
        ));
    }
    Ok(())
}
