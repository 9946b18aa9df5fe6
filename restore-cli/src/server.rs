//! `--to-postgres` and its like: one flag for each engine that has servers to restore into.
//!
//! The address is parsed by the engine, not by clap, whose refusals repeat the value.

use clap::{Arg, ArgAction, ArgMatches, Command};
use lifeboat_engine::config::Secret;
use lifeboat_engine::databases::registry::ENGINES;
use lifeboat_engine::databases::{Database, ServerTarget, Source};
use lifeboat_engine::worker::{ServerByWorker, WorkerPlace};
use lifeboat_engine::{Error, Result};

/// The group of all places to restore to: exactly one of them is given.
pub(crate) const TARGETS: &str = "target";

/// The server that was named, if one was.
#[derive(Debug, Clone)]
pub(crate) struct ServerFlag {
    named: Option<(&'static dyn Database, String)>,
    unverified: bool,
}

/// The flag that permits a server that does not prove who it is.
const UNVERIFIED: &str = "allow-unverified-tls";

impl ServerFlag {
    /// The server, of whichever engine, for workers at `place`. `source` is what this host knows of
    /// the dataset.
    ///
    /// # Errors
    /// As [`Database::server`]; or the server would not have to prove who it is.
    pub(crate) fn server(
        &self,
        place: &WorkerPlace,
        password: Option<Secret>,
        source: Option<&dyn Source>,
    ) -> Result<Option<Box<dyn ServerTarget>>> {
        let Some((engine, address)) = &self.named else { return Ok(None) };
        let server = ServerByWorker::new(place.clone(), *engine, address, password, source)?;
        match server.unverified_host().filter(|_| !self.unverified) {
            None => Ok(Some(Box::new(server))),
            Some(host) => Err(Error::usage(format!(
                "nothing would prove that the server is {host}: whoever sits between could read and change everything"
            ))
            .hint(format!(
                "add ?sslmode=verify-full to the address; in a network that you trust, pass --{UNVERIFIED}"
            ))),
        }
    }
}

fn flags() -> impl Iterator<Item = (&'static dyn Database, String, &'static str)> {
    ENGINES.into_iter().filter_map(|engine| Some((engine, format!("to-{}", engine.kind()), engine.address_form()?)))
}

impl clap::Args for ServerFlag {
    fn augment_args(command: Command) -> Command {
        let command = flags().fold(command, |command, (engine, flag, form)| {
            let help = format!("A {} server: {form}", engine.kind());
            command.arg(Arg::new(flag.clone()).long(flag).value_name("SERVER").help(help).group(TARGETS))
        });
        let help = "Connect to a server on another machine although it does not prove who it is";
        let unverified = Arg::new(UNVERIFIED).long(UNVERIFIED).action(ArgAction::SetTrue).help(help);
        command.arg(unverified.conflicts_with_all(["to_directory", "stdout", "to_file"]))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ServerFlag {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let named = |(engine, flag, _): (&'static dyn Database, String, _)| {
            Some((engine, matches.get_one::<String>(&flag)?.clone()))
        };
        Ok(Self { named: flags().find_map(named), unverified: matches.get_flag(UNVERIFIED) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
