//! Runs Lifeboat's own programs as an operator would, so that nothing is done here in another way:
//! what they print is shown, and what they refuse ends the set-up.
//!
//! What the daemon will do is done as the daemon's user, with the keys that its unit would be
//! handed: what root can read, the daemon may not. The sandbox of the unit is not there. No program
//! inherits this environment, which may hold keys of stores: they read files.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;

use lifeboat_engine::base::Context;
use lifeboat_engine::{Class, Error, Result};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::place::Installation;
use crate::as_unit::{self, UnitUser};
use crate::session::Session;

/// The daemon's program.
pub(super) const DAEMON: &str = "lifeboatd";
/// The program that this is.
pub(super) const CLI: &str = "lifeboat";

/// What programs of this user's own installation inherit, too: where things are, and no secret.
const OWN_INHERITS: [&str; 10] = [
    "TMPDIR",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// Counts steps for whoever watches.
pub(super) struct Steps<'s> {
    session: &'s Session,
    at: &'s Installation,
    done: usize,
    of: usize,
}

impl<'s> Steps<'s> {
    pub(super) fn new(session: &'s Session, at: &'s Installation, of: usize) -> Self {
        Self { session, at, done: 0, of }
    }

    /// Says what comes now.
    pub(super) fn next(&mut self, what: &str) {
        self.done += 1;
        self.session.out.note(format!("step {} of {}: {what}", self.done, self.of));
    }

    /// Runs one of Lifeboat's programs as this user.
    ///
    /// # Errors
    /// It failed.
    pub(super) async fn run(&self, program: &str, words: &[&str], input: Option<&str>) -> Result<()> {
        self.start(program, words, input, None).await
    }

    /// As [`Self::run`], as the user of the units, with what they are handed.
    ///
    /// # Errors
    /// It failed.
    pub(super) async fn run_as_unit(&self, program: &str, words: &[&str]) -> Result<()> {
        let Some(user) = &self.at.user else { return self.start(program, words, None, None).await };
        let handed = as_unit::hand_over(&self.at.keys, &self.at.part.handed_over(), user)?;
        self.start(program, words, None, Some((user, handed.path()))).await
    }

    /// Lets systemd do something.
    ///
    /// # Errors
    /// It refuses.
    pub(super) async fn systemctl(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new("systemctl");
        as_unit::clean(&mut command, &[], self.session);
        command.args(words);
        self.finish("systemctl", words, command, None).await
    }

    async fn start(
        &self,
        program: &str,
        words: &[&str],
        input: Option<&str>,
        unit: Option<(&UnitUser, &Path)>,
    ) -> Result<()> {
        let path = self.session.program.with_file_name(program);
        let mut command = Command::new(&path);
        command.arg("--config").arg(&self.at.config).args(words);
        as_unit::clean(&mut command, if self.at.user.is_some() { &[] } else { &OWN_INHERITS }, self.session);
        if self.at.user.is_none() {
            command.envs(self.session.tools.variables());
        }
        if let Some((user, handed)) = unit {
            command.uid(user.ids.0).gid(user.ids.1).env("CREDENTIALS_DIRECTORY", handed).current_dir("/");
        }
        self.finish(program, words, command, input).await
    }

    async fn finish(&self, program: &str, words: &[&str], mut command: Command, input: Option<&str>) -> Result<()> {
        let shown = format!("{program} {}", words.join(" "));
        self.session.out.note(format!("running `{shown}`"));
        let failed = || format!("cannot run {program}");
        let told = std::io::stderr().as_fd().try_clone_to_owned().context(Class::Failed, failed)?;
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        let spawned = command.stdin(stdin).stdout(told).kill_on_drop(true).spawn();
        let mut child = spawned.map_err(|error| {
            Error::failed(failed()).because(error).hint("install both programs, lifeboat and lifeboatd, in one folder")
        })?;
        if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
            // Whoever does not read it says why.
            let _ = pipe.write_all(text.as_bytes()).await;
        }
        let status = as_unit::ended(&mut child, self.session).await.context(Class::Failed, failed)?;
        if status.success() {
            return Ok(());
        }
        let class = status.code().and_then(|code| u8::try_from(code).ok()).map_or(Class::Failed, class_of);
        Err(Error::new(class, format!("`{shown}` failed, and printed why"))
            .hint("correct what it names, then run the same `lifeboat setup` again: it goes on from here"))
    }
}

fn class_of(code: u8) -> Class {
    let classes = [
        Class::Usage,
        Class::Configuration,
        Class::Source,
        Class::Storage,
        Class::Integrity,
        Class::Keys,
        Class::ObjectiveMissed,
        Class::Partial,
        Class::Unknown,
    ];
    classes.into_iter().find(|class| class.exit_code() == code).unwrap_or(Class::Failed)
}
