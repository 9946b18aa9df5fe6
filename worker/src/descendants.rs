//! What the worker's tools leave behind: processes that put themselves out of every process group.
//!
//! They become children of the worker, which kills them at its end. That needs a list of them that
//! the kernel keeps in `/proc`. It is opened before the sandbox, which has no `/proc`.

use std::fs::File;
use std::io::{Read, Seek};

use lifeboat_base::{Class, Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

/// Each round kills what is there; what it had started is there in the next.
const MAX_ROUNDS: usize = 1000;

/// The processes below this one.
pub(crate) struct Descendants(Option<File>);

impl Descendants {
    /// Adopts whatever is orphaned below this process from now on.
    pub(crate) fn adopt() -> Result<Self> {
        let me = getpid();
        set_child_subreaper(Some(me)).context(Class::Failed, || "cannot adopt what tools leave behind")?;
        let list = format!("/proc/self/task/{}/children", me.as_raw_nonzero());
        // A kernel can be built without the list.
        Ok(Self(File::open(list).ok()))
    }

    /// Kills all of them. No other thread of this process has children any more.
    pub(crate) fn kill(self) {
        let Some(mut list) = self.0 else { return };
        for _ in 0..MAX_ROUNDS {
            let mut text = String::new();
            if list.rewind().is_err() || list.read_to_string(&mut text).is_err() {
                return;
            }
            let children: Vec<Pid> =
                text.split_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)).collect();
            if children.is_empty() {
                return;
            }
            for child in children {
                let _ = kill_process(child, Signal::KILL);
                let _ = waitpid(Some(child), WaitOptions::empty());
            }
        }
    }
}
