//! Work that root starts and a unit's user does, with what the unit would be handed: root must
//! leave no file in that user's state, and what root can read, that user may not.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use lifeboat_engine::base::Context;
use lifeboat_engine::base::settings::CREDENTIALS;
use lifeboat_engine::config::Config;
use lifeboat_engine::state::user_named;
use lifeboat_engine::{Class, Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::session::Session;

/// The keys of a drill host, in its key directory.
pub(crate) const DRILL_FILES: [&str; 2] = ["drill-identity", "drill-signer"];
/// Where systemd listens for workers.
const WORKER_SOCKET: &str = "/run/lifeboat-worker.sock";

/// What every program inherits, beside `PATH`.
const ALWAYS_INHERITED: [&str; 2] = ["LANG", "LC_ALL"];
/// What the same command line means another thing without.
const RUN_AGAIN_INHERITS: [&str; 3] = ["LIFEBOAT_CONFIG", "LIFEBOAT_WORKER_SOCKET", "TMPDIR"];

/// The user of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitUser {
    pub(crate) name: String,
    pub(crate) ids: (u32, u32),
}

impl UnitUser {
    /// The user of this name; `None`: this machine has none.
    pub(crate) fn find(name: &str) -> Option<Self> {
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        let mut fields = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').skip(2);
        let ids = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Self { name: name.to_owned(), ids })
    }

    /// Whether this user may read a file.
    ///
    /// # Errors
    /// He may not, or nobody could ask.
    pub(crate) fn may_read(&self, path: &Path) -> std::io::Result<()> {
        let mut asked = std::process::Command::new("test");
        let asked = asked.arg("-r").arg(path).uid(self.ids.0).gid(self.ids.1).current_dir("/").env_clear();
        let may = asked.stdin(Stdio::null()).status()?.success();
        if may { Ok(()) } else { Err(std::io::ErrorKind::PermissionDenied.into()) }
    }

    /// Whose state a drill of this configuration would write, where root runs it and that is
    /// another user. `None`: whoever runs it may go on.
    pub(crate) fn of_drill(config: &Config) -> Option<Self> {
        let owner = std::fs::metadata(&config.state_directory).ok()?.uid();
        let has_keys = DRILL_FILES.iter().all(|file| config.keys.directory.join(file).exists());
        let is_another = rustix::process::geteuid().is_root() && owner != 0 && has_keys;
        is_another.then(|| user_named(owner)).flatten().and_then(|name| Self::find(&name))
    }
}

/// Runs this very command line as a drill host's user, and ends the program as that ended.
///
/// # Errors
/// It cannot be started.
pub(crate) async fn run_again(config: &Config, user: &UnitUser, session: &Session) -> Result<()> {
    let handed = hand_over(&config.keys.directory, &DRILL_FILES, user)?;
    session.out.note(format!("going on as the user {}, whose state this is", user.name));
    let mut command = Command::new(&session.program);
    clean(&mut command, &RUN_AGAIN_INHERITS, session);
    command.args(session.arguments.iter().skip(1)).uid(user.ids.0).gid(user.ids.1).kill_on_drop(true);
    command.env("CREDENTIALS_DIRECTORY", handed.path());
    if (session.variable)("LIFEBOAT_WORKER_SOCKET").is_none() && PathBuf::from(WORKER_SOCKET).exists() {
        command.env("LIFEBOAT_WORKER_SOCKET", WORKER_SOCKET);
    }
    let failed = || format!("cannot go on as the user {}", user.name);
    let mut child = command.spawn().context(Class::Failed, failed)?;
    let status = ended(&mut child, session).await.context(Class::Failed, failed)?;
    drop(handed);
    match status.code() {
        Some(0) => Ok(()),
        // It has said what is wrong.
        Some(code) => std::process::exit(code),
        None => Err(Error::failed(failed()).because("a signal ended it")),
    }
}

/// Takes away what a program would inherit of this environment, such as keys of stores, but for a
/// few variables and those of `more`.
pub(crate) fn clean(command: &mut Command, more: &[&str], session: &Session) {
    command.env_clear().env("PATH", session.tools.path());
    for name in ALWAYS_INHERITED.iter().chain(more) {
        if let Some(value) = (session.variable)(name) {
            command.env(name, value);
        }
    }
}

/// Waits until a program has ended. A signal that ends this one is handed on.
///
/// # Errors
/// Nobody can tell how it ended.
pub(crate) async fn ended(child: &mut Child, session: &Session) -> std::io::Result<ExitStatus> {
    tokio::select! {
        status = child.wait() => status,
        () = session.cancel.cancelled() => {
            if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                // It may have ended a moment ago.
                let _ = kill_process(pid, Signal::TERM);
            }
            child.wait().await
        }
    }
}

/// What systemd would hand over, in a private directory in memory that goes with what is returned.
///
/// # Errors
/// A file is missing, or there is no room.
pub(crate) fn hand_over(keys: &Path, files: &[&str], user: &UnitUser) -> Result<TempDir> {
    let copy = || -> std::io::Result<TempDir> {
        let folder = tempfile::Builder::new().prefix("lifeboat-setup-").tempdir_in("/run")?;
        let give = |from: &Path, name: &str| -> std::io::Result<()> {
            let place = folder.path().join(name);
            let mut file = std::fs::File::options().create_new(true).write(true).mode(0o400).open(&place)?;
            std::io::copy(&mut std::fs::File::open(from)?, &mut file)?;
            chown(&place, Some(user.ids.0), Some(user.ids.1))
        };
        for name in files {
            give(&keys.join(name), name)?;
        }
        for entry in std::fs::read_dir(keys.join(CREDENTIALS))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                give(&entry.path(), &format!("credentials_{}", entry.file_name().to_string_lossy()))?;
            }
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o500))?;
        chown(folder.path(), Some(user.ids.0), Some(user.ids.1))?;
        Ok(folder)
    };
    copy().context(Class::Keys, || format!("cannot hand the keys of {} over to {}", keys.display(), user.name))
}
