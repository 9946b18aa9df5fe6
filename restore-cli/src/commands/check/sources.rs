//! Whether what is backed up can be reached and read, and whether there is room for a capture.

use lifeboat_engine::base::disk;
use lifeboat_engine::config::Config;
use lifeboat_engine::databases::WorkContext;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::{Class, Error, Result};

use super::{Checked, TOOL_ANSWER};
use crate::human;
use crate::session::Session;

/// The row index and the cache want so much, whatever is captured.
const MIN_FREE_BYTES: u64 = 1 << 30;

/// Asks each source of this host.
///
/// # Errors
/// The check was cancelled.
pub(super) async fn check(checked: &mut Checked, config: &Config, session: &Session) -> Result<()> {
    let scratch = match session.scratch() {
        Ok(scratch) => scratch,
        Err(error) => {
            checked.broken(error.class(), error.chain_and_hint());
            return Ok(());
        }
    };
    let cx = WorkContext {
        scratch: scratch.path().to_owned(),
        stall: TOOL_ANSWER,
        jobs: 1,
        environment: session.tools.clone(),
        cancel: session.cancel.clone(),
    };
    // Who runs this may be let in where the daemon is not, and the other way round. Root is not the
    // daemon, either, even before the daemon has a state directory.
    let state = config.state_directory.exists().then(|| StateDirectory::open(&config.state_directory));
    let is_of_another = |state: &StateDirectory| state.is_of_another_user();
    let is_other = rustix::process::geteuid().is_root()
        || state.as_ref().and_then(|state| state.as_ref().ok()).is_some_and(is_of_another);
    if let Some(Err(error)) = &state {
        checked.broken(error.class(), error.chain_and_hint());
    }
    let looks = config.datasets.iter().map(async |dataset| (dataset, dataset.source.check(&cx).await));
    let looked = async { Ok(futures::future::join_all(looks).await) };
    let mut needed = 0;
    for (dataset, found) in session.cancellable("the check of the sources", looked).await? {
        let name = &dataset.name;
        for error in found.broken {
            let what = format!("dataset {name}: {}", error.chain_and_hint());
            match is_other && depends_on_who_asks(&error.chain()) {
                false => checked.broken(error.class(), what),
                true => checked.weak.push(format!(
                    "{what} (that is what this user met; run `lifeboat check` as the daemon's user to see what it meets)"
                )),
            }
        }
        checked.weak.extend(found.weak.into_iter().map(|weak| format!("dataset {name} {weak}")));
        needed = needed.max(found.scratch_bytes);
    }
    if let Err(error) = room(config, needed) {
        checked.broken(error.class(), error.chain_and_hint());
    }
    Ok(())
}

/// Whether another user might have got another answer.
fn depends_on_who_asks(said: &str) -> bool {
    let of_user = [
        "Peer authentication",
        "Ident authentication",
        "role \"root\"",
        "ERROR 1698",
        "Permission denied",
        "permission denied",
    ];
    of_user.iter().any(|words| said.contains(words))
}

fn room(config: &Config, needed: u64) -> Result<()> {
    let folder = config.state_directory.ancestors().find(|folder| folder.exists());
    let free = folder.and_then(|folder| disk::free(folder).ok());
    let needed = needed.saturating_add(MIN_FREE_BYTES);
    match free {
        Some(free) if free < needed => {
            let (shown, has, wants) = (config.state_directory.display(), human::bytes(free), human::bytes(needed));
            let what = format!("{shown} has {has} free, and a backup may need {wants} there");
            Err(Error::new(Class::Storage, what).hint("make room there, or move state_directory to a larger disk"))
        }
        _ => Ok(()),
    }
}
