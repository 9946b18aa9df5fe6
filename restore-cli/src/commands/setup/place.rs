//! Where an installation lies: the system's, which root sets up for the daemon's user, or one of
//! this user's own, below the folder of the configuration that `--config` names.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use lifeboat_engine::base::Context;
use lifeboat_engine::base::settings::CREDENTIALS;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::state::user_named;
use lifeboat_engine::{Class, Error, Result};

use crate::as_unit::{DRILL_FILES, UnitUser};
use crate::session::Session;

const SYSTEM_CONFIG: &str = "/etc/lifeboat/lifeboat.toml";
/// systemd is this machine's first process if this is there.
const SYSTEMD_RUNS: &str = "/run/systemd/system";

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Backup,
    Drill,
}

impl Part {
    fn user(self) -> &'static str {
        match self {
            Self::Backup => "lifeboat",
            Self::Drill => "lifeboat-drill",
        }
    }

    /// The files in the key directory that a unit hands over.
    pub(super) fn handed_over(self) -> [&'static str; 2] {
        match self {
            Self::Backup => ["host.key", "host-keys"],
            Self::Drill => DRILL_FILES,
        }
    }
}

/// Where everything of one installation is.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    pub(super) part: Part,
    pub(super) config: PathBuf,
    pub(super) keys: PathBuf,
    pub(super) state: PathBuf,
    /// The user of the units. `None`: it is an installation of this user's own.
    pub(super) user: Option<UnitUser>,
}

impl Installation {
    /// The installation whose configuration `--config` names.
    ///
    /// # Errors
    /// It is the system's, and this user is not root; or the units' user is missing.
    pub(super) fn of(session: &Session, part: Part) -> Result<Self> {
        if session.globals.config != Path::new(SYSTEM_CONFIG) {
            let config = std::path::absolute(&session.globals.config)
                .context(Class::Usage, || "the path of --config cannot be used")?;
            return Ok(Self::own(&config, part));
        }
        if !rustix::process::geteuid().is_root() {
            return Err(Error::usage("this writes /etc/lifeboat, which only root may do")
                .hint("run the same command with sudo; to try Lifeboat as this user, run `lifeboat setup --try`"));
        }
        let name = part.user();
        let user = UnitUser::find(name).ok_or_else(|| {
            Error::configuration(format!("this machine has no user {name}, as whom the units run"))
                .hint("run systemd-sysusers, which makes the users that the package declares; then run this again")
        })?;
        let folder = Path::new(SYSTEM_CONFIG).parent().unwrap_or(Path::new("/"));
        Ok(Self {
            part,
            config: SYSTEM_CONFIG.into(),
            keys: folder.join("keys"),
            state: Path::new("/var/lib").join(name),
            user: Some(user),
        })
    }

    /// An installation of this user's own.
    pub(super) fn own(config: &Path, part: Part) -> Self {
        let folder = config.parent().unwrap_or(Path::new("/")).to_owned();
        let (keys, state) = (folder.join("keys"), folder.join("state"));
        Self { part, config: config.to_owned(), keys, state, user: None }
    }

    /// The folder of store credentials.
    pub(super) fn credentials(&self) -> PathBuf {
        self.keys.join(CREDENTIALS)
    }

    /// As whom the work is done.
    pub(super) fn user_name(&self) -> String {
        let own = || user_named(rustix::process::geteuid().as_raw()).unwrap_or_else(|| "root".to_owned());
        self.user.as_ref().map_or_else(own, |user| user.name.clone())
    }

    /// Whether the keys of its machine were made.
    pub(super) fn has_keys(&self) -> bool {
        self.part.handed_over().iter().all(|file| self.keys.join(file).exists())
    }

    /// Whether whoever does the work may read a file.
    ///
    /// # Errors
    /// He may not, or nobody can tell.
    pub(super) fn may_read(&self, path: &Path) -> std::io::Result<()> {
        match &self.user {
            None => Ok(rustix::fs::access(path, rustix::fs::Access::READ_OK)?),
            Some(user) => user.may_read(path),
        }
    }

    /// Whether systemd is to run it.
    pub(super) fn has_units(&self) -> bool {
        self.user.is_some() && Path::new(SYSTEMD_RUNS).is_dir()
    }

    /// Makes the folders that are missing: keys for this user alone, the state for the units' user.
    ///
    /// # Errors
    /// One cannot be made.
    pub(super) fn make_folders(&self) -> Result<()> {
        let failed = |path: &Path| format!("cannot make {}", path.display());
        let make = |path: &Path, mode| {
            DirBuilder::new().recursive(true).mode(mode).create(path).context(Class::Storage, || failed(path))
        };
        let folder = self.config.parent().unwrap_or(Path::new("/"));
        make(folder, if self.user.is_some() { 0o755 } else { 0o700 })?;
        for private in [&self.keys, &self.credentials(), &self.state] {
            make(private, 0o700)?;
        }
        let Some(UnitUser { ids: (user, group), .. }) = self.user else { return Ok(()) };
        chown(&self.state, Some(user), Some(group)).context(Class::Storage, || failed(&self.state))
    }
}

/// This machine's name as a host of the vault, unless a flag says another.
///
/// # Errors
/// The machine's name is no name of a host.
pub(super) fn host_name() -> Result<Name> {
    let whole = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().to_lowercase();
    let short = whole.trim().split('.').next().unwrap_or_default();
    short.parse().map_err(|error: Error| error.hint("name this host with --name"))
}
