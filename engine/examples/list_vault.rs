//! Lists every snapshot of a vault that lies in a directory:
//! `cargo run -p lifeboat-engine --example list_vault DIRECTORY IDENTITY_FILE SIGNER`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::error::Error;

use lifeboat_engine::Vault;

mod shared;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [directory, identity, signer] = shared::arguments("DIRECTORY IDENTITY_FILE SIGNER");
    let vault = Vault::open(&[shared::replica(&directory).await?], shared::keys(&identity, &signer)?).await?;
    for dataset in vault.datasets().await? {
        println!("{dataset}");
        for listed in vault.snapshots(&dataset).await? {
            println!("    {} taken {}", listed.snapshot, listed.snapshot.time());
        }
    }
    Ok(())
}
