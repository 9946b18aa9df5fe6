//! Where the real servers and stock tools are; a missing one fails the test and says what installs
//! it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use lifeboat_engine::databases::{ToolEnvironment, registry};

/// The directory of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The program `name`, from the first that has it: `$LIFEBOAT_TOOLS`, `.tools/bin` of the
/// workspace, `$PATH`, the newest `/usr/lib/postgresql/*/bin`.
///
/// # Panics
/// If it is nowhere.
#[must_use]
pub fn find(name: &str) -> PathBuf {
    let found = directories().into_iter().map(|directory| directory.join(name)).find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("`{name}` is not installed: run `make setup`"))
}

/// Whether [`find`] would find it.
#[must_use]
pub fn is_there(name: &str) -> bool {
    directories().iter().any(|directory| directory.join(name).is_file())
}

/// What client tools inherit of this process's environment, as the programs hand it in.
#[must_use]
pub fn environment() -> ToolEnvironment {
    registry::tool_environment(|name| std::env::var_os(name))
}

/// The programs of a PostgreSQL server and its clients, all of one version.
///
/// # Panics
/// If they are nowhere.
#[must_use]
pub fn postgresql() -> PathBuf {
    let whole = |directory: &PathBuf| {
        ["initdb", "postgres", "psql", "pg_dump"].iter().all(|program| directory.join(program).is_file())
    };
    let found = directories().into_iter().find(whole);
    found.unwrap_or_else(|| panic!("no PostgreSQL server is installed: run `make setup`"))
}

/// The programs of PostgreSQL of this major version, beside the distribution's: each whole in its
/// directory, so that a worker can be told it.
///
/// # Panics
/// If they are not in `.tools`.
#[must_use]
pub fn postgresql_of(major: u32) -> PathBuf {
    let programs = workspace().join(format!(".tools/postgresql/{major}/bin"));
    assert!(programs.join("postgres").is_file(), "PostgreSQL {major} is not installed: run `make setup`");
    programs
}

fn directories() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = std::env::var_os("LIFEBOAT_TOOLS").map(PathBuf::from).into_iter().collect();
    directories.push(workspace().join(".tools/bin"));
    directories.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    directories.extend(postgresql_directories(Path::new("/usr/lib/postgresql")));
    directories
}

/// Debian keeps each major version in a directory of its own; the newest comes first.
fn postgresql_directories(root: &Path) -> Vec<PathBuf> {
    let major = |path: &Path| path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<u32>().ok());
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut versions: Vec<(u32, PathBuf)> = entries.filter_map(|path| Some((major(&path)?, path))).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, path)| path.join("bin")).collect()
}
