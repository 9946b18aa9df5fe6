//! `owner`: what an owner does, on a machine that need not be connected to anything.

use std::path::PathBuf;

use lifeboat_engine::base::escape;
use lifeboat_engine::format::line;
use lifeboat_engine::format::veto::{Veto, VetoRequestLine};
use lifeboat_engine::root::OwnerFolder;
use lifeboat_engine::{Error, Result};

use super::owner_init::{self, told};
use crate::lines::{self, OneLine};
use crate::session::Session;

/// Make an owner's keys, and sign roots with them; works offline, and reads no configuration
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: OwnerVerb,
}

#[derive(Debug, clap::Subcommand)]
enum OwnerVerb {
    /// Make the master identity and the signing key of an owner, in a folder; prints the owner's
    /// line, which configurations list as `owners`
    ///
    /// With the lines of machines that were set up, it also makes and signs the root of their
    /// vault, prints that instead, and leaves a sheet for the safe in the folder.
    Init(owner_init::Args),
    /// Show what a request changes, or which mark a veto is of, ask, and sign it; prints the line
    /// to install
    Sign {
        /// The request, or a root that another owner signed; `-` reads standard input, @FILE a file
        #[arg(value_name = "REQUEST")]
        request: String,
        /// The owner's folder
        #[arg(long, value_name = "DIR")]
        directory: PathBuf,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    match &args.what {
        OwnerVerb::Init(args) => owner_init::run(args, session).await,
        OwnerVerb::Sign { request, directory, yes } => {
            if session.out.is_json() && !yes {
                return Err(Error::usage("owner sign cannot ask with --json").hint("pass --yes to confirm"));
            }
            let folder = OwnerFolder::open(directory)?;
            let text = lines::given(request)?;
            if line::is_of::<VetoRequestLine>(&text) {
                let request: VetoRequestLine = line::read(&text)?;
                session.out.asked_about(told_of_veto(&request.0));
                session.confirm(*yes, "Sign this veto?".to_owned()).await?;
                return session.out.result(&OneLine { line: folder.sign_veto(&request)? });
            }
            let to_sign = folder.read(&text)?;
            session.out.asked_about(told(&to_sign));
            if let Some(warning) = to_sign.warning {
                session.out.warning(warning);
            }
            session.confirm(*yes, "Sign this root?".to_owned()).await?;
            session.out.result(&OneLine { line: folder.sign(&to_sign)? })
        }
    }
}

fn told_of_veto(veto: &Veto) -> String {
    let Veto { vault, dataset, mark, why, .. } = veto;
    let why = if why.is_empty() { String::new() } else { format!("\nBecause: {}", escape::line(why)) };
    format!("Veto of mark {mark} of dataset {dataset} in vault {vault}: what it names is not deleted for it.{why}")
}
