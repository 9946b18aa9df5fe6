//! `lifeboat-worker`: does one job for the process at the other end of its standard input, without
//! keys and behind a [sandbox].
//!
//! lifeboat starts it for a drill and for a restore into a server, or systemd does for a
//! connection to `lifeboat-worker.socket`. With `--user UID:GID` it gives up root for that user.

mod descendants;
mod sandbox;

use std::path::Path;
use std::process::ExitCode;

use crate::descendants::Descendants;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_worker::serve;
use tempfile::TempDir;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let said = error.chain_and_hint();
            let _ = writeln!(std::io::stderr(), "lifeboat-worker: {}", lifeboat_base::escape::line(&said));
            ExitCode::from(error.class().exit_code())
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    match arguments {
        [] => {}
        [flag, ids] if flag == "--user" => sandbox::become_user(ids)?,
        [flag] if flag == "--version" => {
            use std::io::Write;
            let _ = writeln!(std::io::stdout(), "lifeboat-worker {}", env!("CARGO_PKG_VERSION"));
            return Ok(());
        }
        _ => return Err(Error::usage("lifeboat-worker takes nothing but --user UID:GID, or --version")),
    }
    let socket = serve::socket_of_stdin()?;
    // What it starts is known by that, should this process be killed. systemd has done it already.
    let _ = rustix::process::setsid();
    let Some(job) = serve::receive_job(&socket)? else { return Ok(()) };
    let own;
    let scratch: &Path = match &job.scratch {
        Some(scratch) => scratch,
        None => {
            own = own_directory(&std::env::temp_dir())?;
            own.path()
        }
    };
    let descendants = Descendants::adopt()?;
    let confinement = sandbox::confine(&job, scratch)?;
    let scratch = scratch.to_owned();
    let failed = || "cannot start";
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context(Class::Failed, failed)?;
    let served = runtime.block_on(serve::serve(socket, job, confinement, &scratch));
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    descendants.kill();
    served
}

fn own_directory(parent: &Path) -> Result<TempDir> {
    let failed = || format!("cannot make a directory in {}", parent.display());
    tempfile::Builder::new().prefix("lifeboat-").tempdir_in(parent).context(Class::Failed, failed)
}
