//! `status`: everything at a glance, what needs attention first.
//!
//! It reads the replicas, for only they tell what could be restored, and asks the daemon of this
//! host, if it has one, what it does and what it found. It decrypts nothing and changes nothing.
//!
//! - [`facts`]: what the replicas show and the daemon says.
//! - [`judge`]: what follows from it: how each dataset stands, and what needs attention.
//! - [`view`]: how it reads.

mod daemon;
mod facts;
mod judge;
mod view;

use std::time::Duration;

use lifeboat_engine::format::id::Name;
use lifeboat_engine::{Class, Error, Result};

use self::facts::Facts;
use self::view::StatusPage;
use crate::session::Session;

/// Show whether everything is protected and proved, and what needs attention
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Show whether everything is protected and proved, and what needs attention. Exit code 8 says that something does."
)]
pub(crate) struct Args {
    /// Only this dataset
    dataset: Option<Name>,
    /// Show it again and again, every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5", value_parser = clap::value_parser!(u16).range(1..=3600))]
    watch: Option<u16>,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let Some(period) = args.watch else { return show(args, session).await };
    loop {
        session.out.clear_screen();
        match show(args, session).await {
            // What is wrong now may be right when it is next looked at.
            Err(error) if error.class() != Class::ObjectiveMissed => session.out.error(&error),
            _ => {}
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(period.into())) => {}
            () = session.cancel.cancelled() => return Ok(()),
        }
        if session.cancel.is_cancelled() {
            return Ok(());
        }
    }
}

async fn show(args: &Args, session: &Session) -> Result<()> {
    let page = StatusPage::of(&Facts::gather(args.dataset.as_ref(), session).await?);
    session.out.result(&page)?;
    match page.attention_count() {
        0 => Ok(()),
        1 => Err(needs_attention("one thing needs attention")),
        count => Err(needs_attention(&format!("{count} things need attention"))),
    }
}

fn needs_attention(what: &str) -> Error {
    Error::new(Class::ObjectiveMissed, what).hint("each line above says what to do about it")
}
