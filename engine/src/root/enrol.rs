//! Machines that were set up before there was a root: the first root from their lines, and what a
//! machine takes from a root that names it.
//!
//! **A line is hostile.** The owner compares words, and signs what is told. A machine takes a root
//! only if enough of its own owners signed it, and if it names the keys that this machine made.
//! From then on it goes by these owners, so whoever pastes the root is believed once, as with
//! `owners` in a configuration.

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::line::{self, DrillHostLine, HostLine, OwnerLine, RequestLine, RootLine};
use lifeboat_format::root::{BackupHost, DrillHost, Floors, Root};

use super::change::{EARLIER, GrantedMachine, NewDrillHost, first_root, revoked_for_good};
use super::signed::SignedRoot;

/// The request of root 1, in which `owner` alone signs, from what machines told. `time` is when it
/// is made.
///
/// # Errors
/// The lines are of several vaults, or of none; or the root would break a rule.
pub fn first_of(
    owner: &OwnerLine,
    hosts: Vec<HostLine>,
    drill_hosts: Vec<DrillHostLine>,
    floors: Floors,
    time: DateTime<Utc>,
) -> Result<String> {
    let Some(vault) = hosts.first().map(|host| host.vault.clone()) else {
        return Err(Error::usage("no backup host's line is given, so there is no vault to own")
            .hint("pass what `lifeboat setup host` printed on the backup host, too"));
    };
    if let Some(other) = hosts.iter().find(|host| host.vault != vault) {
        return Err(Error::usage(format!("the lines of {} and {} are of two vaults", hosts[0].name, other.name))
            .because("each host that is set up chooses the vault that it makes")
            .hint("pass one of the two lines; add the other host when the vault is there, with `lifeboat root request add-host` on it"));
    }
    let hosts = hosts.into_iter().map(|HostLine { name, signer, operations, datasets, .. }| GrantedMachine {
        name,
        signer,
        operations,
        datasets,
    });
    let drill_hosts = drill_hosts.into_iter().map(|DrillHostLine { name, recipient, signer, datasets }| NewDrillHost {
        name,
        recipient,
        signer,
        datasets,
    });
    let machines = (hosts.collect(), drill_hosts.collect());
    let owners = (std::slice::from_ref(owner), 1);
    let root = first_root(&vault, owners, Vec::new(), machines, floors, (time - EARLIER, time))?;
    let root =
        String::from_utf8(root.to_json()?).map_err(|error| Error::failed("a root is not text").because(error))?;
    line::write(&RequestLine { root, signatures: Default::default() })
}

/// The root in a line, if enough of its own owners signed it.
///
/// # Errors
/// It is no such line, damaged, or not signed.
pub fn read_signed(text: &str) -> Result<SignedRoot> {
    if line::is_of::<RequestLine>(text) {
        return Err(Error::usage("this root is a request: nobody has signed it")
            .hint("pass what `lifeboat owner init` or `lifeboat owner sign` printed"));
    }
    let carried = line::read::<RootLine>(text)?.0;
    let root = SignedRoot::read(carried.root, &carried.signatures, None, "the root")?;
    root.check(None)
        .map_err(|error| error.hint("let the other owners sign it, too: `lifeboat owner sign` takes this line"))?;
    Ok(root)
}

/// What the root says of this backup host.
///
/// # Errors
/// It does not name this host's keys, or has revoked them, or is of another vault.
pub fn host_in<'r>(root: &'r Root, own: &HostLine) -> Result<&'r BackupHost> {
    let is_own = |host: &&BackupHost| host.signer == own.signer && host.operations == own.operations;
    let Some(host) = root.hosts.iter().find(is_own) else {
        let names: Vec<&str> = root.hosts.iter().map(|host| host.name.as_str()).collect();
        return Err(unnamed("backup host", &names, "lifeboat setup host"));
    };
    if host.until.is_some() {
        return Err(revoked_for_good(&host.name));
    }
    if root.vault != own.vault {
        return Err(Error::keys(format!(
            "this root is of vault {}, and this host's keys are of {}",
            root.vault, own.vault
        ))
        .hint("pass the root that was made of this host's line"));
    }
    Ok(host)
}

/// What the root says of this drill host.
///
/// # Errors
/// It does not name this host's keys, or has revoked them.
pub fn drill_host_in<'r>(root: &'r Root, own: &DrillHostLine) -> Result<&'r DrillHost> {
    let is_own = |host: &&DrillHost| host.signer == own.signer && host.recipient == own.recipient;
    let Some(host) = root.drill_hosts.iter().find(is_own) else {
        let names: Vec<&str> = root.drill_hosts.iter().map(|host| host.name.as_str()).collect();
        return Err(unnamed("drill host", &names, "lifeboat setup drill-host"));
    };
    if host.until.is_some() { Err(revoked_for_good(&host.name)) } else { Ok(host) }
}

fn unnamed(what: &str, names: &[&str], command: &str) -> Error {
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Error::keys(format!("this root does not name the keys of this {what}"))
        .because(format!("it names: {names}"))
        .hint(format!("run `{command}` here, and give the line that it prints to the owner"))
}
