//! Runbooks for a part of a database.

use lifeboat_tests::operator::Operator;
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::runbook::Runbook;

use crate::{host, place};

const SUM: &str = "SELECT count(*), sum(hashtext(t::text)) FROM orders t";

async fn backup(db1: &Operator) -> String {
    db1.backup().await["started"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_table_comes_back() {
    let mut book = Runbook::open("One table back")
        .leaving_out("pg_restore -f - shop.dump", "it is shown before the file that it reads, and is run below");
    let (place, database) = (place(), Postgres::start().await);
    database.create_database("shop").await;
    let sql = "CREATE TABLE orders (n int PRIMARY KEY, item text NOT NULL);
        CREATE TABLE others AS SELECT n FROM generate_series(1, 1000) n";
    database.run_sql("shop", sql).await;
    database.run_sql("shop", "INSERT INTO orders SELECT n, md5(n::text) FROM generate_series(1, 20000) n").await;
    let mut db1 = host(&place, "").await;
    db1.datasets = vec![format!(
        "[[dataset]]\nname = \"shop\"\nhome_region = \"home\"\n[dataset.source]\nkind = \"postgres\"\nurl = \"{}\"\n\
         databases = [\"shop\"]\njobs = 2\nlarge_table = \"64KiB\"\n",
        database.url("postgres")
    )];
    let first = backup(&db1).await;
    database.run_sql("shop", "INSERT INTO orders VALUES (0, 'kept'), (-1, 'kept')").await;
    let good = backup(&db1).await;
    let right = database.query("shop", SUM).await;
    database.run_sql("shop", "DELETE FROM orders WHERE n > 100; INSERT INTO others VALUES (7)").await;
    for _ in 0..2 {
        backup(&db1).await;
    }

    let since = ("2026-11-23T06:00:00Z", first.as_str());
    let told = db1.follow(&mut book, "lifeboat diff shop 2026-11-23T06:00:00Z latest", &[since]).await.stdout;
    assert!(told.contains("table/shop/public/orders") && told.contains("Rows were not counted"), "{told}");
    let counted = "lifeboat diff shop 2026-11-23T06:00:00Z latest --rows --identity master.txt";
    let told = db1.follow(&mut book, counted, &[since, ("lifeboat", "lifeboat --json")]).await.json().unwrap();
    let tables = serde_json::json!([
        { "table": "shop: public.orders", "added": 2, "removed": 19900 },
        { "table": "shop: public.others", "added": 1, "removed": 0 },
    ]);
    assert_eq!(told["tables"], tables, "{told}");

    let bisect = "lifeboat bisect shop --identity master.txt --sql 'SELECT count(*) FROM orders' --at-least 20000";
    let told = db1.follow(&mut book, bisect, &[("lifeboat bisect", "lifeboat --json bisect")]).await.json().unwrap();
    let list = db1.must("lifeboat --json list shop").await.json().unwrap();
    let mut snapshots: Vec<&str> =
        list["snapshots"].as_array().unwrap().iter().map(|one| one["snapshot"].as_str().unwrap()).collect();
    snapshots.sort_unstable();
    assert_eq!(
        (told["last_good"].as_str(), told["first_bad"].as_str()),
        (Some(snapshots[1]), Some(snapshots[2])),
        "{told}"
    );
    assert!(told["steps"].as_array().unwrap().len() <= 3, "{told}");
    assert!(told["restore"].as_str().unwrap().contains(snapshots[1]), "{told}");
    let none = bisect.replace("20000", "20003");
    let none = db1.shell(&none).await;
    assert_eq!(none.status.code(), Some(8), "{none}");

    // A typing error moves no boundary.
    let misspelt = db1.shell(&bisect.replace("FROM orders", "FROM ordres")).await;
    let asked = misspelt.stderr.matches("asking ").count();
    assert_eq!((misspelt.status.code(), asked), (Some(4), 1), "{misspelt}");
    assert!(misspelt.stderr.contains("is no answer"), "{misspelt}");

    let at = ("2026-11-23T18:00:00Z", good.as_str());
    let file = "lifeboat restore shop --at 2026-11-23T18:00:00Z --identity master.txt --table public.orders --format csv \
                --to-file orders.csv";
    db1.follow(&mut book, file, &[at]).await;
    let csv = std::fs::read_to_string(db1.file("orders.csv")).unwrap();
    assert!(csv.starts_with("n,item\n") && csv.contains("\n0,kept\n") && csv.lines().count() == 20_003, "{csv}");
    let again = db1.shell(&file.replace("2026-11-23T18:00:00Z", &good)).await;
    assert_eq!(again.status.code(), Some(2), "{again}");
    let piped =
        "lifeboat restore shop --identity master.txt --table public.others --stdout --format csv | sort -n | tail -1";
    assert_eq!(db1.must(piped).await.stdout.trim(), "1000");

    let url = format!("'{}'", database.url("postgres"));
    let shown_url =
        "'postgresql://postgres@db/postgres?sslmode=verify-full&sslrootcert=/etc/ssl/certs/ca-certificates.crt'";
    let back = format!(
        "lifeboat restore shop --at 2026-11-23T18:00:00Z --identity master.txt --table public.orders --overwrite \
         --to-postgres {shown_url}"
    );
    let real = [at, (shown_url, url.as_str()), ("--overwrite", "--overwrite --yes")];
    db1.follow(&mut book, &back, &real).await;
    assert_eq!(database.query("shop", SUM).await, right);
    assert_eq!(database.query("shop", "SELECT count(*) FROM others").await.trim(), "1001");
    let beside = format!(
        "lifeboat restore shop --at 2026-11-23T18:00:00Z --identity master.txt --table public.orders --database shop \
         --rename shop_then --to-postgres {shown_url}"
    );
    db1.follow(&mut book, &beside, &real[..2]).await;
    assert_eq!(database.query("shop_then", SUM).await, right);
    let tables = "SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind = 'r' AND oid >= 16384";
    assert_eq!(database.query("shop_then", tables).await.trim(), "orders");

    let schema = "lifeboat restore shop --identity master.txt --schema-only --to-file shop.dump";
    db1.follow(&mut book, schema, &[]).await;
    let sql = db1.must("pg_restore -f - shop.dump").await.stdout;
    assert!(sql.contains("CREATE TABLE public.orders") && !sql.contains("COPY"), "{sql}");
}
