//! Makes places that hold records alone ones of the vault: `vault.json` is all that they need.

use lifeboat_base::{Error, Result};
use lifeboat_format::info::{MAX_VAULT_INFO_BYTES, VaultInfo};
use lifeboat_format::layout;
use lifeboat_store::SharedReplica;

use super::InitReport;

impl InitReport {
    /// Puts the `vault.json` of the replicas into each of `records` that has none, and notes that.
    ///
    /// # Errors
    /// A place holds another vault.
    pub async fn init_records(&mut self, replicas: &[SharedReplica], records: &[SharedReplica]) -> Result<()> {
        for place in records {
            match read(place).await {
                Ok(Some((_, found))) if found.vault == self.vault => {}
                Ok(Some((_, found))) => {
                    return Err(Error::configuration(format!(
                        "{}, which is to hold records, holds vault {}, not {}",
                        place.name(),
                        found.vault,
                        self.vault
                    ))
                    .hint("correct vault_prefix, or its bucket or path"));
                }
                Ok(None) => match self.copy_to(place, replicas).await {
                    Ok(()) => self.objects.push(super::InitItem {
                        what: layout::VAULT.to_owned(),
                        created: true,
                        advice: format!("in {}", place.name()),
                    }),
                    Err(error) => self.unreached.push(error.chain()),
                },
                Err(error) => self.unreached.push(error.chain()),
            }
        }
        Ok(())
    }

    async fn copy_to(&self, place: &SharedReplica, replicas: &[SharedReplica]) -> Result<()> {
        for replica in replicas {
            if let Ok(Some((body, found))) = read(replica).await
                && found.vault == self.vault
            {
                return Ok(place.put_new(layout::VAULT, body).await?);
            }
        }
        Err(Error::storage(format!("no replica gives its {} for {}", layout::VAULT, place.name())))
    }
}

async fn read(place: &SharedReplica) -> Result<Option<(bytes::Bytes, VaultInfo)>> {
    match place.get(layout::VAULT, MAX_VAULT_INFO_BYTES as u64).await {
        Ok(body) => {
            let info = VaultInfo::parse(&body, place.name())?;
            Ok(Some((body, info)))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
