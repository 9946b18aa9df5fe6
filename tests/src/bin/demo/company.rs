//! The company that the story is about: databases of four kinds and a tree of files, all in one
//! region, and what was promised about each.

use std::fmt::Write;
use std::fs;

use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::redis::Redis;
use lifeboat_tests::sample;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{DATASET, NORTH, Result};

const POSTS: u32 = 20_000;
const SESSIONS: u32 = 5_000;
const PAGES: u32 = 10_000;
const UPLOADS: u32 = 500;
/// All datasets, in the order in which they would be restored.
pub(crate) const DATASETS: [&str; 5] = [DATASET, "sessions", "forum", "uploads", "wiki"];

/// Its servers, and its files.
pub(crate) struct Company {
    shop: Postgres,
    forum: MariaDb,
    sessions: Redis,
    files: TempDir,
}

impl Company {
    /// Starts the servers.
    pub(crate) async fn start() -> Result<Self> {
        let (shop, forum, sessions) = tokio::join!(Postgres::start(), MariaDb::start(), Redis::start());
        Ok(Self { shop, forum, sessions, files: tempfile::Builder::new().prefix("lifeboat-demo-").tempdir()? })
    }

    /// Fills all of them; of the shop, 1.0 is some 200 MB.
    pub(crate) async fn fill(&self, shop_scale: f64) -> Result<()> {
        self.shop.create_database(DATASET).await;
        self.shop.run_sql(DATASET, sample::schema_sql()).await;
        self.shop.run_sql(DATASET, &sample::fill_sql(shop_scale)).await;
        self.forum.run_sql("", "CREATE DATABASE forum").await;
        let posts = format!(
            "CREATE TABLE post (id INT PRIMARY KEY AUTO_INCREMENT, text TEXT NOT NULL, posted DATETIME(6));
             INSERT INTO post (text, posted) SELECT CONCAT('post ', seq), NOW(6) FROM seq_1_to_{POSTS}"
        );
        self.forum.run_sql("forum", &posts).await;
        let sessions: Vec<String> = (0..SESSIONS).map(|id| format!("SET session:{id} user-{id} EX 86400")).collect();
        self.sessions.run(&sessions.join("\n")).await;
        let pages = format!(
            "CREATE TABLE page (id INTEGER PRIMARY KEY, text TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {PAGES})
             INSERT INTO page (text) SELECT 'page ' || i FROM n"
        );
        Connection::open(self.files.path().join("wiki.db"))?.execute_batch(&pages)?;
        let uploads = self.files.path().join("uploads");
        fs::create_dir(&uploads)?;
        for id in 0..UPLOADS {
            fs::write(uploads.join(format!("{id}.txt")), format!("upload {id}\n").repeat(100))?;
        }
        Ok(())
    }

    /// A business day in the shop.
    pub(crate) async fn go_by(&self) {
        self.shop.run_sql(DATASET, sample::change_sql()).await;
    }

    /// The server of the shop.
    pub(crate) fn shop(&self) -> &Postgres {
        &self.shop
    }

    /// The datasets, with what was promised about them and what a restored shop must answer.
    pub(crate) fn write_datasets(&self, config: &mut String) -> Result<()> {
        write!(
            config,
            r#"
[[dataset]]
name = "{DATASET}"
home_region = "{NORTH}"
objectives = {{ rpo = "1h", rto = "10m" }}

[dataset.source]
kind = "postgres"
url = "{url}"
databases = ["{DATASET}"]

[dataset.drill]
queries = [
    {{ database = "{DATASET}", sql = "SELECT count(*) > 1000 FROM shop.orders", expect = "t" }},
    {{ database = "{DATASET}", sql = "SELECT count(*) FROM shop.documents WHERE sha256(lo_get(content)) <> sha256", expect = "0" }},
]

[dataset.recovery]
priority = 1
"#,
            url = self.shop.url(DATASET),
        )?;
        let files = self.files.path();
        let sockets = [self.forum.socket(), self.sessions.socket()];
        let [forum, sessions] = sockets.map(|socket| format!("socket = \"{}\"", socket.display()));
        let others = [
            ("sessions", "redis", sessions, "priority = 2"),
            ("forum", "mariadb", format!("{forum}\nuser = \"root\"\ndatabases = [\"forum\"]"), ""),
            ("uploads", "files", format!("path = \"{}\"", files.join("uploads").display()), "after = [\"shop\"]"),
            ("wiki", "sqlite", format!("path = \"{}\"", files.join("wiki.db").display()), ""),
        ];
        for (name, kind, source, recovery) in others {
            write!(
                config,
                r#"
[[dataset]]
name = "{name}"
home_region = "{NORTH}"
objectives = {{ rpo = "1h", rto = "10m" }}

[dataset.source]
kind = "{kind}"
{source}

[dataset.recovery]
{recovery}
"#
            )?;
        }
        Ok(())
    }
}
