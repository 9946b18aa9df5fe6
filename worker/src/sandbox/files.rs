//! Which files a worker reaches, by Landlock: programs and libraries, what they read of `/etc`, the
//! worker's own directory. No directory where keys are is among them, whoever owns it.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, path_beneath_rules,
};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_databases::{ServerTarget, registry};
use lifeboat_worker::protocol::{DrillTools, Job, Work};

/// What this program was tested with. A newer kernel enforces no more than this.
const NEWEST: ABI = ABI::V7;
/// Where the system's programs and libraries are.
const PROGRAMS: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt"];
/// What tools read of the system's configuration and state.
const READ: [&str; 34] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/krb5.conf",
    "/etc/krb5.conf.d",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/mysql",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/postgresql-common",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/kernel",
    "/proc/sys/vm",
    "/sys/devices/system",
];
/// What tools read and write of devices. Shared memory is not among them, as others share it.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// Where programs in `…/bin` find their libraries and data.
const OF_PROGRAMS: [&str; 3] = ["lib", "lib64", "share"];
/// What tools read below a home directory.
const OF_HOME: [&str; 3] = [".pgpass", ".pg_service.conf", ".postgresql"];

/// Confines this thread. Returns whether the kernel can.
pub(super) fn confine(job: &Job, scratch: &Path) -> Result<bool> {
    let failed = || "cannot shut in the worker by Landlock";
    let all = AccessFs::from_all(NEWEST);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .context(Class::Failed, failed)?
        .scope(Scope::from_all(NEWEST))
        .context(Class::Failed, failed)?
        .create()
        .context(Class::Failed, failed)?;
    let (programs, files) = of_job(job);
    let rules: [(Vec<PathBuf>, BitFlags<AccessFs>); 6] = [
        (PROGRAMS.map(PathBuf::from).to_vec(), AccessFs::from_read(NEWEST)),
        (programs, AccessFs::from_read(NEWEST)),
        (READ.map(PathBuf::from).into_iter().chain(files).collect(), read),
        (DEVICES.map(PathBuf::from).to_vec(), AccessFs::ReadFile | AccessFs::WriteFile),
        (vec![scratch.to_owned()], all),
        // The worker removes its own directory, once that is empty.
        (scratch.parent().map(Path::to_owned).into_iter().collect(), AccessFs::RemoveDir.into()),
    ];
    let mut ruleset = ruleset;
    for (paths, access) in rules {
        // A path that does not exist needs no rule.
        ruleset = ruleset.add_rules(path_beneath_rules(paths, access)).context(Class::Failed, failed)?;
    }
    let status = ruleset.restrict_self().context(Class::Failed, failed)?;
    let known = matches!(status.landlock, LandlockStatus::Available { .. });
    if known && status.ruleset == RulesetStatus::NotEnforced {
        return Err(Error::failed(failed()));
    }
    Ok(known)
}

/// Directories of programs, and files to read, that the job names.
fn of_job(job: &Job) -> (Vec<PathBuf>, Vec<PathBuf>) {
    match &job.work {
        Work::Drill(DrillTools { directories, commands, .. }) => {
            // A name without a folder is found where programs are.
            let own = commands.programs().filter(|program| program.is_absolute()).map(Path::to_owned);
            (directories.iter().flat_map(|path| with_data(path)).chain(own).collect(), Vec::new())
        }
        Work::Restore { kind, address, client_directories, .. } => {
            let environment = job.environment.environment();
            let variables = environment.variables().filter(|(name, _)| !matches!(*name, "PATH" | "HOME"));
            let named = variables.map(|(_, value)| PathBuf::from(value)).filter(|path| path.is_absolute());
            let home = PathBuf::from(environment.home());
            let mut files: Vec<PathBuf> = named.chain(OF_HOME.map(|name| home.join(name))).collect();
            let server = registry::find(kind).and_then(|engine| engine.server(address, None, &[]).ok());
            files.extend(server.iter().flat_map(|server| ServerTarget::files(server.as_ref())));
            (client_directories.iter().flat_map(|path| with_data(path)).collect(), files)
        }
    }
}

/// A folder of programs, and the folders beside it where they find their libraries and data. What
/// else is beside it may be a home.
fn with_data(directory: &Path) -> Vec<PathBuf> {
    let beside = |name: &str| directory.parent().map(|parent| parent.join(name));
    let data = if directory.ends_with("bin") { OF_PROGRAMS.as_slice() } else { &[] };
    std::iter::once(directory.to_owned()).chain(data.iter().filter_map(|name| beside(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_in_a_home_do_not_open_the_home() {
        let opened = with_data(Path::new("/root/bin"));
        let expected = ["/root/bin", "/root/lib", "/root/lib64", "/root/share"].map(PathBuf::from);
        assert_eq!(opened, expected);
        assert_eq!(with_data(Path::new("/root/postgres")), [PathBuf::from("/root/postgres")]);
    }
}
