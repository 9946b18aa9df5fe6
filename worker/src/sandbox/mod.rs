//! What a worker shuts behind itself before it reads a byte of a snapshot: its user, its files, its
//! system calls. Each process that it starts inherits all of it, and none can undo it.
//!
//! Where the kernel, or a sandbox around the worker, does not let it use Landlock or seccomp, the
//! broker is told. What is refused for any other reason ends the worker.

mod calls;
mod files;

use std::path::Path;

use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_worker::protocol::{Confinement, Job, Work};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Becomes `UID:GID`, without other groups, for good. It is called before there are other threads.
pub(crate) fn become_user(ids: &str) -> Result<()> {
    let failed = || format!("cannot become the user {ids}");
    let (user, group) = ids.split_once(':').unwrap_or((ids, ids));
    let user: u32 = user.parse().context(Class::Usage, failed)?;
    let group: u32 = group.parse().context(Class::Usage, failed)?;
    if user == 0 || user == u32::MAX || group == u32::MAX {
        return Err(Error::usage(failed()));
    }
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    set_thread_groups(&[]).context(Class::Failed, failed)?;
    set_thread_res_gid(group, group, group).context(Class::Failed, failed)?;
    set_thread_res_uid(user, user, user).context(Class::Failed, failed)
}

/// Shuts this thread, and all that it starts, in for `job`. It is called before there are other
/// threads.
pub(crate) fn confine(job: &Job, scratch: &Path) -> Result<Confinement> {
    // It may be given the password of a server.
    lifeboat_base::memory::keep_private()?;
    let network = matches!(job.work, Work::Restore { .. });
    let files = files::confine(job, scratch)?;
    let calls = calls::confine(network)?;
    Ok(Confinement { files, calls })
}
