//! `owner init`: an owner's keys, and the first root of a vault from the lines of its machines.
//!
//! It can be run again: keys that are there are kept, and the same lines give the same root.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use lifeboat_engine::base::{Context, escape, secret};
use lifeboat_engine::config::Secret;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::line::{self, DrillHostLine, HostLine, OwnerLine};
use lifeboat_engine::root::{OwnerFolder, SignedRoot, ToSign, first_of};
use lifeboat_engine::state::replace_file;
use lifeboat_engine::{Class, Error, Result};

use super::root_request::FloorFlags;
use crate::lines::{self, OneLine};
use crate::session::Session;

/// What is to be printed, and kept in a safe.
const SHEET: &str = "sheet.txt";
/// What to do with an owner who has signed already.
const SIGNED_BEFORE: &str = "if that root is in use, ask for the next one with `lifeboat root request` (`add-drill-host` on the backup host, `add-host` on a new one), and sign that; if it was installed nowhere, or this is another vault, name another --directory";
/// Without one, nothing is ever proved.
const NO_DRILL_HOST: &str = "no drill host is among these lines, so no drill will prove any backup: run `lifeboat setup drill-host` on another machine first, and pass its line, too";
/// The owner's files beside it.
const MASTER_FILE: &str = "identity";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The lines that `lifeboat setup host` and `lifeboat setup drill-host` printed; `-` reads
    /// standard input, @FILE a file
    #[arg(value_name = "LINE")]
    machines: Vec<String>,
    /// The folder to make; keep it offline
    #[arg(long, value_name = "DIR", default_value = "owner")]
    directory: PathBuf,
    /// The owner's name in roots
    #[arg(long, value_name = "NAME", default_value = "owner")]
    name: Name,
    #[command(flatten)]
    floors: FloorFlags,
    /// Do not ask before the root is signed
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(args: &Args, session: &Session) -> Result<()> {
    let (hosts, drill_hosts) = machines(args, session)?;
    let has_machines = !hosts.is_empty() || !drill_hosts.is_empty();
    let shown = escape::line(&args.directory.display().to_string()).into_owned();
    if !has_machines {
        let line = OwnerFolder::make(&args.directory, &args.name)?;
        made(&shown, session);
        return session.out.result(&OneLine { line });
    }
    if session.out.is_json() && !args.yes {
        return Err(Error::usage("owner init cannot ask with --json").hint("pass --yes to confirm"));
    }
    if !OwnerFolder::is_made(&args.directory) {
        OwnerFolder::make(&args.directory, &args.name)?;
        made(&shown, session);
    }
    let folder = OwnerFolder::open(&args.directory)?;
    let time = folder.first_signed()?.unwrap_or_else(|| session.clock.now());
    let request = first_of(&folder.line()?, hosts, drill_hosts, args.floors.floors(), time)?;
    // What is refused here differs from what this owner has signed before.
    let to_sign = folder.read(&request).map_err(|error| match error.class() {
        Class::Usage => error.hint(SIGNED_BEFORE),
        _ => error,
    })?;
    if to_sign.root().root.drill_hosts.is_empty() {
        session.out.warning(NO_DRILL_HOST);
    }
    session.out.asked_about(told(&to_sign));
    if let Some(warning) = to_sign.warning {
        session.out.warning(warning);
    }
    let question = "Are these the machines, with the words that they showed? Sign this root?".to_owned();
    session.confirm(args.yes, question).await?;
    let line = folder.sign(&to_sign)?;
    write_sheet(&args.directory, &folder.line()?, to_sign.root())?;
    session.out.note(format!("print {shown}/{SHEET} and keep it in a safe: it holds the key that opens everything"));
    session.out.result(&OneLine { line })
}

fn made(shown: &str, session: &Session) {
    session.out.note(format!(
        "made {shown}/identity (opens everything) and {shown}/signer (signs roots): keep copies of {shown} offline"
    ));
}

/// The machines of the lines that were given, with the words to compare.
fn machines(args: &Args, session: &Session) -> Result<(Vec<HostLine>, Vec<DrillHostLine>)> {
    let (mut hosts, mut drill_hosts) = (Vec::new(), Vec::new());
    for argument in &args.machines {
        let given = lines::given(argument)?;
        for text in given.lines().filter(|line| !line.trim().is_empty()) {
            let (what, name, words) = if line::is_of::<DrillHostLine>(text) {
                let read: DrillHostLine = line::read(text)?;
                let told = ("drill host", read.name.clone(), line::words(&read)?);
                drill_hosts.push(read);
                told
            } else {
                let read: HostLine = line::read(text)?;
                let told = ("backup host", read.name.clone(), line::words(&read)?);
                hosts.push(read);
                told
            };
            session.out.asked_about(format!("{what} {name}: {words}"));
        }
    }
    Ok((hosts, drill_hosts))
}

/// What a safe keeps on paper: the master identity, and what a restore needs beside it.
fn write_sheet(directory: &Path, owner: &OwnerLine, root: &SignedRoot) -> Result<()> {
    let identity = secret::read_given(&directory.join(MASTER_FILE))?;
    let identity = std::str::from_utf8(identity.expose()).context(Class::Keys, || "the master identity is no text")?;
    // With room for all, so that no copy of the secret is left behind by growing.
    let mut text = String::with_capacity(16 << 10 | identity.len());
    let written = write!(
        text,
        "LIFEBOAT: KEEP THIS IN A SAFE. WHOEVER READS IT READS EVERY BACKUP.\n\n\
         Owner         {}\nVault         {}\nRoot {}        {}\n\nThe master identity (type it into a file `identity`, and run `chmod 600 identity`):\n\n{}\n\
         The owner's line (a file `line`):\n\n{}\n\n\
         To restore with nothing but a bucket, this sheet and the program lifeboat:\n\n\
         lifeboat restore DATASET --s3-bucket BUCKET --s3-region REGION --s3-endpoint https://STORE \\\n  \
         --s3-credentials credentials --owner @line --identity identity --to-directory out \\\n  \
         --unrecorded \"REASON\"\n\n\
         `credentials` is a file of mode 0600 with keys that read the bucket: a line [default], and\n\
         aws_access_key_id = … and aws_secret_access_key = … below it. Leave --s3-endpoint out at AWS.\n\
         At most other stores, add --s3-path-style; where an authority of your own signed the store's\n\
         certificate, --s3-ca-file FILE; if the vault has a prefix, --vault-prefix PREFIX.\n\
         Print `lifeboat kit` on the backup host, too: it names the buckets and datasets.\n",
        owner.name,
        root.root.vault,
        root.root.version,
        root.fingerprint(),
        identity,
        line::write(owner)?,
    );
    written.context(Class::Failed, || "the sheet cannot be written")?;
    replace_file(&directory.join(SHEET), Secret::new(text.into_bytes()).expose())
}

/// What the owner is about to sign.
pub(super) fn told(to_sign: &ToSign) -> String {
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
