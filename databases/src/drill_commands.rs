//! The throw-away of a snapshot that only its operator understands: a private directory, in which
//! commands of the operator restore it and judge the result.
//!
//! - **Whose commands**: those of the drill host's configuration. A snapshot names none.
//! - **Restore** gets the stream on its standard input, and must read it to its end. Without one,
//!   the stream becomes a file of the directory, under its own name.
//! - **Verify** runs after that, in the same directory. Its exit status alone is its verdict; what
//!   it prints is read and dropped, but for the end of its standard error if it fails.
//! - **Both** run as any tool does: without a shell, in a process group of their own, with `PATH`,
//!   `LC_ALL` and `HOME` alone, which is the directory. They run in the worker, so they see neither
//!   keys nor the files of others.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use lifeboat_base::{Class, Context, Error, Result};
use serde::{Deserialize, Serialize};

use crate::database::{ThrowAway, WorkContext};
use crate::directory;
use crate::proof::{CheckResult, DrillQuery, ProofLevel, ProofResult, VERIFY_CHECK};
use crate::removal::remove_tree;
use crate::streams::StoredStreams;
use crate::tool::process::{Invocation, feed};

/// Below the scratch directory.
const DIRECTORY_NAME: &str = "restored";

/// Programs of the operator, each with its arguments. No shell reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillCommands {
    /// Restores what comes on its standard input into its working directory.
    pub restore: Option<Vec<String>>,
    /// Succeeds if what was restored is as it should be.
    pub verify: Option<Vec<String>>,
}

impl DrillCommands {
    /// The highest level that a drill with them can reach.
    #[must_use]
    pub fn highest_level(&self) -> ProofLevel {
        match (&self.restore, &self.verify) {
            (_, Some(_)) => ProofLevel::Checked,
            (Some(_), None) => ProofLevel::Loaded,
            (None, None) => ProofLevel::Fetched,
        }
    }

    /// The programs, as they were written.
    pub fn programs(&self) -> impl Iterator<Item = &Path> {
        [&self.restore, &self.verify].into_iter().flatten().filter_map(|argv| argv.first()).map(Path::new)
    }

    /// A directory for a snapshot, in which they run.
    ///
    /// # Errors
    /// [`Class::Failed`]: it cannot be made below `cx.scratch`.
    pub fn throw_away(self, cx: &WorkContext) -> Result<Box<dyn ThrowAway>> {
        let directory = cx.scratch.join(DIRECTORY_NAME);
        let failed = || format!("cannot make {}", directory.display());
        DirBuilder::new().mode(0o700).create(&directory).context(Class::Failed, failed)?;
        Ok(Box::new(ThrowAwayDirectory { commands: self, directory, cx: cx.clone() }))
    }
}

struct ThrowAwayDirectory {
    commands: DrillCommands,
    directory: PathBuf,
    cx: WorkContext,
}

impl ThrowAwayDirectory {
    fn invocation(&self, argv: &[String]) -> Result<Invocation> {
        let (program, arguments) = argv.split_first().ok_or_else(|| Error::configuration("a command is empty"))?;
        let home = [("HOME", self.directory.as_os_str())];
        Ok(Invocation::new(Path::new(program), arguments, &self.cx).envs(home).directory(&self.directory))
    }
}

#[async_trait]
impl ThrowAway for ThrowAwayDirectory {
    fn server_version(&self) -> &str {
        ""
    }

    async fn load(&mut self, streams: &dyn StoredStreams) -> Result<()> {
        let names = streams.names();
        let Some(argv) = &self.commands.restore else {
            return directory::load(streams, &self.directory, false, false, &self.cx).await.map(drop);
        };
        let [name] = names.as_slice() else {
            return Err(Error::integrity(format!(
                "the snapshot has {} streams, and [dataset.drill] restore takes one",
                names.len()
            )));
        };
        let mut stream = streams.open(name).await?;
        let restored = feed(self.invocation(argv)?, stream.as_mut(), |_| Ok(())).await;
        restored.map_err(|error| match error.hint_text() {
            Some(_) => error,
            None => error.hint(
                "run the command of [dataset.drill] restore by hand, in an empty directory, with what `lifeboat restore --to-directory` gives on its standard input",
            ),
        })
    }

    async fn check(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        self.ask(queries).await?;
        let Some(argv) = &self.commands.verify else { return Ok(Vec::new()) };
        let mut tool = self.invocation(argv)?.start(false)?;
        while tool.read().await?.is_some() {}
        let verdict = tool.finish(0).await;
        if self.cx.cancel.is_cancelled() {
            return Err(Error::cancelled("the drill"));
        }
        let detail = match &verdict {
            Ok(_) => "it exited with status 0".to_owned(),
            Err(error) => error.message().to_owned(),
        };
        Ok(vec![CheckResult { check: VERIFY_CHECK.to_owned(), passed: verdict.is_ok(), detail }])
    }

    async fn ask(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        Err(Error::usage("a directory that commands restored answers no queries")
            .hint("leave out [dataset.drill] queries; ask in the command of `verify`"))
    }

    async fn prove(&mut self, _: &dyn StoredStreams) -> Result<ProofResult> {
        Err(Error::usage("what commands restored can be checked, and not proved equal")
            .hint("ask for no more than --level checked"))
    }

    async fn stop(self: Box<Self>) -> Result<()> {
        let failed = || format!("cannot remove {}", self.directory.display());
        remove_tree(&self.directory).context(Class::Failed, failed)
    }
}
