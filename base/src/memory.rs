//! Keeps the memory of this process to itself. The programs call [`keep_private`] before they read
//! any secret.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use crate::error::{Class, Context, Result};

/// Turns core dumps off, for this process and those that it starts, and makes this process not
/// dumpable: another process of the same user cannot trace it, or read its memory or environment.
///
/// # Errors
/// [`Class::Failed`] if the kernel refuses.
pub fn keep_private() -> Result<()> {
    let failed = || "cannot turn core dumps off";
    // Where a sandbox has done it, it may also refuse a change.
    if getrlimit(Resource::Core).maximum != Some(0) {
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        setrlimit(Resource::Core, none).context(Class::Failed, failed)?;
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context(Class::Failed, failed)
}
