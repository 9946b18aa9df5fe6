//! Writes one stream of the newest snapshot to standard output:
//!
//! ```text
//! cargo run -p lifeboat-engine --example restore_stream DIRECTORY IDENTITY_FILE SIGNER DATASET STREAM
//! ```

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::error::Error;
use std::io::Write;

use lifeboat_engine::Vault;
use lifeboat_engine::restore::Selector;

mod shared;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [directory, identity, signer, dataset, stream] =
        shared::arguments("DIRECTORY IDENTITY_FILE SIGNER DATASET STREAM");
    let vault = Vault::open(&[shared::replica(&directory).await?], shared::keys(&identity, &signer)?).await?;
    let mut stream = vault.stream(&dataset.parse()?, &Selector::Latest, &stream).await?;
    // Until the stream has ended without an error, nothing of it is proved: do not use it before.
    while let Some(piece) = stream.next().await? {
        std::io::stdout().write_all(&piece)?;
    }
    Ok(())
}
