//! A server to restore into that only a worker speaks to.

use async_trait::async_trait;
use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};
use lifeboat_databases::streams::StoredStreams;
use lifeboat_databases::{Database, RestoreOutcome, ServerTarget, Source, Wanted, WorkContext};

use super::place::WorkerPlace;
use super::{Worker, out_of_turn};
use crate::protocol::{Password, Reply, Work};

/// A server to restore into, by a worker.
#[derive(Debug)]
pub struct ServerByWorker {
    place: WorkerPlace,
    /// The server as this process knows it: to describe it, not to speak to it.
    server: Box<dyn ServerTarget>,
    address: String,
    password: Option<Secret>,
    client_directories: Vec<std::path::PathBuf>,
}

impl ServerByWorker {
    /// The server of `engine` at `address`, see `Database::server`, for workers at `place`.
    ///
    /// # Errors
    /// As `Database::server`.
    pub fn new(
        place: WorkerPlace,
        engine: &'static dyn Database,
        address: &str,
        password: Option<Secret>,
        source: Option<&dyn Source>,
    ) -> Result<Self> {
        let client_directories = source.map(Source::client_directories).unwrap_or_default().to_vec();
        let server = engine.server(address, None, &client_directories)?;
        Ok(Self { place, server, address: address.to_owned(), password, client_directories })
    }
}

#[async_trait]
impl ServerTarget for ServerByWorker {
    fn database(&self) -> &'static dyn Database {
        self.server.database()
    }

    fn describe(&self) -> String {
        self.server.describe()
    }

    fn unverified_host(&self) -> Option<String> {
        self.server.unverified_host()
    }

    async fn load(&self, streams: &dyn StoredStreams, wanted: &Wanted, cx: &WorkContext) -> Result<RestoreOutcome> {
        let work = Work::Restore {
            kind: self.database().kind().to_owned(),
            address: self.address.clone(),
            password: self.password.as_ref().map(Password::of),
            client_directories: self.client_directories.clone(),
            wanted: wanted.clone(),
        };
        let mut worker = Worker::start(&self.place, work, streams, cx).await?;
        let reply = worker.ask(None, Some(streams)).await;
        let restored = match reply {
            Ok(Reply::Restored(outcome)) => Ok(outcome),
            Ok(_) => Err(out_of_turn()),
            Err(error) => Err(error),
        };
        let outcome = match restored {
            Ok(outcome) => outcome,
            Err(error) => {
                worker.end().await;
                return Err(error);
            }
        };
        let unread = streams.names().into_iter().find(|name| {
            // What the outcome calls lost makes the restore fail, read or not.
            let lost = |name: &String| outcome.failures.iter().any(|failure| failure.database == *name);
            let is_lost = self.database().database_of(name).as_ref().is_some_and(lost);
            self.database().reads(name, wanted) && !is_lost && !worker.has_delivered(name)
        });
        worker.end().await;
        match unread {
            Some(stream) => Err(Error::integrity(format!("the worker did not read the stream `{stream}` to its end"))),
            None => Ok(outcome),
        }
    }
}
