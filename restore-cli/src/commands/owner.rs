//! `owner`: what an owner does, on a machine that need not be connected to anything.

use std::fmt;
use std::path::PathBuf;

use lifeboat_engine::base::escape;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::line;
use lifeboat_engine::format::veto::{Veto, VetoRequestLine};
use lifeboat_engine::root::{OwnerFolder, ToSign};
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use crate::lines;
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
    Init {
        /// The folder to make; keep it offline
        #[arg(long, value_name = "DIR")]
        directory: PathBuf,
        /// The owner's name in roots
        #[arg(long, value_name = "NAME", default_value = "owner")]
        name: Name,
    },
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

/// One line, which is the whole output.
#[derive(Serialize)]
pub(super) struct OneLine {
    pub(super) line: String,
}

impl fmt::Display for OneLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    match &args.what {
        OwnerVerb::Init { directory, name } => {
            let line = OwnerFolder::make(directory, name)?;
            session.out.note(format!(
                "made {0}/identity (opens everything) and {0}/signer (signs roots): keep copies of {0} offline",
                escape::line(&directory.display().to_string())
            ));
            session.out.result(&OneLine { line })
        }
        OwnerVerb::Sign { request, directory, yes } => {
            if session.out.is_json() && !yes {
                return Err(Error::usage("owner sign cannot ask with --json").hint("pass --yes to confirm"));
            }
            let folder = OwnerFolder::open(directory)?;
            let text = lines::given(request)?;
            if line::is_of::<VetoRequestLine>(&text) {
                let request: VetoRequestLine = line::read(&text)?;
                session.out.note(told_of_veto(&request.0));
                session.confirm(*yes, "Sign this veto?".to_owned()).await?;
                return session.out.result(&OneLine { line: folder.sign_veto(&request)? });
            }
            let to_sign = folder.read(&text)?;
            session.out.note(told(&to_sign));
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

fn told(to_sign: &ToSign) -> String {
    let root = to_sign.root();
    let mut text = format!("Root {} of vault {}: {}\n", root.root.version, root.root.vault, root.fingerprint());
    text.push_str(match (to_sign.is_first, to_sign.differences.is_empty()) {
        (true, _) => "You have signed no root of this vault before. It says:",
        (false, true) => "You have signed this root already.",
        (false, false) => "Against the root that you signed last:",
    });
    for difference in &to_sign.differences {
        text.push_str("\n  ");
        text.push_str(&escape::line(difference));
    }
    text
}
