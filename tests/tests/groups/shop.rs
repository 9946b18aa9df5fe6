//! An application: a PostgreSQL database whose rows name files, and the folder of the files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lifeboat_tests::operator::{Operator, directory_replica};
use lifeboat_tests::postgres::Postgres;
use tempfile::TempDir;

/// The members of the group, in order.
pub(crate) const MEMBERS: [&str; 2] = ["shop-db", "shop-uploads"];
pub(crate) const REFERENCE: &str = "[[group.reference]]\nname = \"attachments\"\nfrom = \"shop-db\"\ndatabase = \"shop\"\n\
    sql = \"SELECT path FROM attachments\"\nto = \"shop-uploads\"\nprefix = \"files\"\n";

pub(crate) struct Shop {
    pub(crate) place: TempDir,
    pub(crate) postgres: Postgres,
    pub(crate) host: Operator,
    pub(crate) drill: Operator,
}

impl Shop {
    /// With a vault, a group of both members, and a drill host. `more` are keys and tables of the
    /// group.
    pub(crate) async fn open(more: &str) -> Self {
        let place = tempfile::Builder::new().prefix("lifeboat-gr-").tempdir_in("/tmp").unwrap();
        let postgres = Postgres::start().await;
        postgres.create_database("shop").await;
        // Another one on the same server, of the same moment.
        postgres.create_database("crm").await;
        postgres.run_sql("crm", "CREATE TABLE customer (id int); INSERT INTO customer VALUES (1)").await;
        postgres.run_sql("shop", "CREATE TABLE attachments (id bigserial PRIMARY KEY, path text)").await;
        let (mut host, mut drill) = (Operator::at(place.path(), "db1"), Operator::at(place.path(), "drill"));
        let uploads = place.path().join("uploads");
        std::fs::create_dir_all(uploads.join("files")).unwrap();
        std::fs::write(uploads.join("files/first"), "first").unwrap();
        postgres.run_sql("shop", "INSERT INTO attachments (path) VALUES ('/first')").await;
        host.masters = vec![host.make_identity("master.txt").await];
        host.replicas = ["near", "far"].map(|name| directory_replica(place.path(), name)).to_vec();
        let lifeboat_engine::databases::postgres::PostgresConnection::Socket { directory, .. } = postgres.connection()
        else {
            panic!("a socket")
        };
        let dataset = |name: &str, source: &str| {
            format!(
                "[[dataset]]\nname = \"{name}\"\nhome_region = \"near\"\nchunk_size = \"64KiB\"\nsource = {source}\n"
            )
        };
        host.datasets = vec![
            dataset(
                MEMBERS[0],
                &format!("{{ kind = \"postgres\", socket = \"{}\", user = \"postgres\" }}", directory.display()),
            ),
            dataset(MEMBERS[1], &format!("{{ kind = \"files\", path = \"{}\" }}", uploads.display())),
            format!("[[group]]\nname = \"shop\"\nmembers = {MEMBERS:?}\n{more}"),
        ];
        let signer = host.init("").await;
        (drill.replicas, drill.masters, drill.trusted_signers) =
            (host.replicas.clone(), host.masters.clone(), vec![signer]);
        drill.datasets.clone_from(&host.datasets);
        drill.must("cp -r ../db1/keys/drill-host keys").await;
        Self { place, postgres, host, drill }
    }

    pub(crate) fn uploads(&self) -> PathBuf {
        self.place.path().join("uploads")
    }

    /// What the newest snapshot of a member tells of its group.
    pub(crate) async fn told(&self, member: &str) -> serde_json::Value {
        let shown = self.host.must(&format!("lifeboat --json show {member} --identity master.txt")).await;
        shown.json().unwrap()["group"].clone()
    }

    /// How many snapshots a member has.
    pub(crate) async fn snapshots(&self, member: &str) -> usize {
        let listed = self.host.must(&format!("lifeboat --json list {member} --identity master.txt")).await;
        listed.json().unwrap()["snapshots"].as_array().unwrap().len()
    }
}

/// Adds files and their rows, and deletes rows and, `later`, their files, until `stop` is set: a
/// file before its row, and a row before its file. Gives how many rows it wrote.
pub(crate) async fn write(postgres: &Postgres, uploads: &Path, later: Duration, stop: &AtomicBool) -> usize {
    let (mut written, mut gone) = (0, std::collections::VecDeque::<(Instant, Vec<String>)>::new());
    while !stop.load(Ordering::SeqCst) {
        let names: Vec<String> = (0..20).map(|number| format!("{}-{number}", written + 1)).collect();
        for name in &names {
            std::fs::write(uploads.join("files").join(name), name).unwrap();
        }
        let values: Vec<String> = names.iter().map(|name| format!("('{name}')")).collect();
        let insert = format!("INSERT INTO attachments (path) VALUES {};", values.join(","));
        // The oldest rows go, but for the first.
        let delete = "DELETE FROM attachments WHERE id IN \
            (SELECT id FROM attachments WHERE path <> '/first' ORDER BY id LIMIT greatest(0, (SELECT count(*) - 400 FROM attachments))) \
            RETURNING path";
        let deleted = postgres.query("shop", &format!("{insert}{delete}")).await;
        gone.push_back((Instant::now(), deleted.lines().map(str::to_owned).collect()));
        while gone.front().is_some_and(|(at, _)| at.elapsed() > later) {
            for name in gone.pop_front().into_iter().flat_map(|(_, names)| names) {
                std::fs::remove_file(uploads.join("files").join(name)).unwrap();
            }
        }
        written += names.len();
    }
    written
}
