//! Dumps the throw-away server again, as a capture would, and compares.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_base::Result;

use super::MariaThrowAway;
use super::digest::{DumpDigest, read};
use crate::mariadb::capture::USERS;
use crate::mariadb::dump::{DumpExtras, DumpWatch, database_of};
use crate::mariadb::failures::explained;
use crate::mariadb::globals::{Grant, MariaGlobals, create_account, read_globals, set_default_role};
use crate::mariadb::server::MariaServer;
use crate::mariadb::users::{GrantDatabases, GrantObjects, globals};
use crate::mariadb::version_of;
use crate::proof::ProofResult;
use crate::proof::multiset::{ProofKey, Titled, shorten, tell};
use crate::streams::{StoredStreams, StreamReader};
use crate::tool::process::Tool;

/// Compares the throw-away server with the snapshot.
pub(super) async fn prove(there: &MariaThrowAway, streams: &dyn StoredStreams) -> Result<ProofResult> {
    let key: ProofKey = rand::random();
    let server = there.server.server(&there.cx)?;
    let mut proof = ProofResult {
        source_version: streams.facts().server_version.clone(),
        server_version: Some(there.server.version.clone()),
        ..ProofResult::default()
    };
    let databases: Vec<String> = there.databases.iter().map(|(database, _)| database.clone()).collect();
    let with_users = streams.facts().details.contains_key(USERS);
    let mut stored = read_globals(streams).await?;
    let proved_before: BTreeSet<String> = streams.left_out().iter().filter_map(|name| database_of(name)).collect();
    stored.databases.retain(|database| !proved_before.contains(&database.name));
    let (restored, _) = globals(&server, &databases, with_users, Some(&there.server.account)).await?;
    let (objects, granted) = (GrantObjects::ask(&server).await?, GrantDatabases::under_own_names(databases));
    let takes = |grant: &Grant| objects.take(grant, &granted);
    let (stored, left_out) = statements(&stored, takes, &key);
    let (restored, _) = statements(&restored, takes, &key);
    if left_out > 0 {
        let of = if proved_before.is_empty() { "are not in the snapshot" } else { "were not restored" };
        proof.notes.push(format!("{left_out} grants on objects in databases that {of} were not compared"));
    }
    compare(&stored, &restored, &mut proof);

    let extras = DumpExtras::of(version_of(streams.facts())?.series, false);
    for (database, stream) in &there.databases {
        let stored = read(streams.open(stream).await?.as_mut(), database, &key).await?;
        let mut again = DumpedAgain::start(&server, database, extras)?;
        let restored = read(&mut again, database, &key).await;
        let restored =
            restored.map_err(|error| error.within(format!("cannot dump {} again", database.escape_debug())))?;
        compare(&stored, &restored, &mut proof);
    }
    shorten(&mut proof);
    Ok(proof)
}

fn compare(stored: &DumpDigest, restored: &DumpDigest, proof: &mut ProofResult) {
    proof.definitions += stored.definitions.values().map(|texts| texts.count).sum::<u64>();
    proof.tables += stored.tables.len() as u64;
    proof.rows += stored.tables.values().map(|rows| rows.count).sum::<u64>();
    tell("definition of", "texts", &stored.definitions, &restored.definitions, &mut proof.differences);
    tell("table", "rows", &stored.tables, &restored.tables, &mut proof.differences);
}

/// Databases, accounts and grants as definitions; and how many grants are left out, as a server
/// takes no grants on objects that it does not have.
fn statements(globals: &MariaGlobals, takes: impl Fn(&Grant) -> bool, key: &ProofKey) -> (DumpDigest, u64) {
    let (mut definitions, mut left_out) = (Titled::new(), 0);
    let mut add = |title: String, text: &str| {
        let entry = definitions.entry(title).or_default();
        entry.add(blake3::Hasher::new_keyed(key).update(text.as_bytes()));
    };
    for database in &globals.databases {
        add(format!("database {}", database.name.escape_debug()), &database.create(&database.name));
    }
    for (account, clause) in &globals.accounts {
        add(format!("account {}", account.written().escape_debug()), &create_account(account, clause));
    }
    let unique: BTreeSet<String> = globals
        .grants
        .iter()
        .filter(|grant| {
            let loadable = takes(grant);
            left_out += u64::from(!loadable);
            loadable
        })
        .map(|grant| format!("{}\0{}", grant.to.written(), grant.written()))
        .collect();
    for grant in &unique {
        let (to, grant) = grant.split_once('\0').unwrap_or_default();
        add(format!("grants to {}", to.escape_debug()), grant);
    }
    for (role, account) in &globals.default_roles {
        add(format!("default role of {}", account.written().escape_debug()), &set_default_role(role, account));
    }
    (DumpDigest { definitions, tables: Titled::new() }, left_out)
}

/// A new dump, which ends only if it is whole.
struct DumpedAgain {
    tool: Tool,
    watch: DumpWatch,
}

impl DumpedAgain {
    fn start(server: &MariaServer<'_>, database: &str, extras: DumpExtras) -> Result<Self> {
        let arguments = extras.arguments(database);
        let tool = server.connection.tool(&server.clients.dump, &arguments, server.cx).start(false)?;
        Ok(Self { tool, watch: DumpWatch::default() })
    }
}

#[async_trait]
impl StreamReader for DumpedAgain {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(piece) = self.tool.read().await? {
            self.watch.see(&piece);
            return Ok(Some(piece));
        }
        self.tool.finish(0).await.map_err(explained)?;
        self.watch.end().map(|_| None)
    }
}
