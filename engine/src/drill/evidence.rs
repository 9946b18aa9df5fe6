//! The signed record behind a drill report, byte for byte, for whoever checks it with other tools.

use bytes::Bytes;
use lifeboat_base::Result;
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::{self, MAX_RECORD_BYTES, RecordType};

use super::report::DrillReport;
use crate::catalog::signed::fetch_signed_pair;
use crate::catalog::verdict::combine_looks;
use crate::keys::sign::SignerKey;
use crate::restore::VaultReader;

/// A published drill report that a trusted drill host signed.
#[derive(Debug, Clone)]
pub struct DrillEvidence {
    /// The key of the record, below the vault's prefix. The signature's has `.minisig` behind it.
    pub key: String,
    /// The replica that it was read from.
    pub replica: Name,
    /// The record, as it is stored. At most 16 MiB.
    pub record: Bytes,
    /// Its minisign signature, as it is stored.
    pub signature: Bytes,
    /// The trusted comment of the signature, which ties the record to its vault and key.
    pub comment: String,
    /// The public key that the signature was checked with.
    pub signer: SignerKey,
    /// The drill host that wrote it. `None` in a vault of format 1.
    pub host: Option<Name>,
    /// What it says.
    pub report: DrillReport,
}

/// Reads one published report from the first replica that returns it signed.
///
/// # Errors
/// No replica does.
pub async fn evidence(reader: &VaultReader, dataset: &Name, drill: &SnapshotId) -> Result<DrillEvidence> {
    let (vault, trust) = (reader.vault_id(), &reader.keys().trust);
    let key = layout::record(dataset, RecordType::Drill, drill);
    let mut errors = Vec::new();
    for replica in reader.replicas() {
        let read = async {
            let limit = MAX_RECORD_BYTES as u64;
            let (record, signature) = fetch_signed_pair(replica.as_ref(), &key, limit, vault, trust).await?;
            let signer = trust.judge(vault, &key, &record, &signature)?.signer;
            let what = format!("replica {}: {key}", replica.name());
            let (envelope, report) = record::read::<DrillReport>(&record, vault, dataset, &what)?;
            Ok(DrillEvidence {
                key: key.clone(),
                replica: replica.name().clone(),
                comment: layout::trusted_comment(vault, &key),
                record,
                signature,
                signer,
                host: envelope.map(|envelope| envelope.principal),
                report,
            })
        };
        match read.await {
            Ok(evidence) => return Ok(evidence),
            Err(error) => errors.push(error),
        }
    }
    Err(combine_looks(format!("no replica returns a valid {key}"), &errors))
}
