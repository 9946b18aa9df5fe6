//! Real SeaweedFS regions: one process each, TLS on, an empty bucket, everything below a temporary
//! directory.
//!
//! ```no_run
//! # async fn example() {
//! use lifeboat_engine::clock::SystemClock;
//! use lifeboat_engine::store::open;
//! use lifeboat_tests::s3::Region;
//! let mut north = Region::start("eu-north-1").await;
//! let replica = open(&north.replica_config("north"), "vault", &SystemClock::shared()).await;
//! north.kill(); // the region is lost; `restart` brings it back with its data
//! # }
//! ```

#![allow(clippy::expect_used)]

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use lifeboat_engine::config::{ReplicaConfig, ReplicaKind, S3Config, S3Credentials, SecretRef};
use lifeboat_engine::store::bandwidth::Bandwidth;
use tempfile::TempDir;
use tokio::time::Instant;
use url::Url;

use crate::tls::Certificates;
use crate::{ports, tools};

const ACCESS_KEY: &str = "lifeboat-test";
const SECRET_KEY: &str = "not-a-secret-outside-tests";
const BUCKET: &str = "backups";
/// The credential of a backup host, which `config/s3/seaweedfs-policy.json` restricts.
const HOST_ACCESS_KEY: &str = "lifeboat-host";
const HOST_SECRET_KEY: &str = "not-a-secret-of-a-host";
/// As that, of a host that may not even hide objects.
const WRITER_ACCESS_KEY: &str = "lifeboat-writer";
const WRITER_SECRET_KEY: &str = "not-a-secret-of-a-writer";
/// The credential of a drill host, which `config/s3/drill-host-policy.json` restricts.
const DRILL_ACCESS_KEY: &str = "lifeboat-drill";
const DRILL_SECRET_KEY: &str = "not-a-secret-of-a-drill-host";
/// Boots in about one second; the rest is for a loaded machine.
const LONGEST_START: Duration = Duration::from_secs(40);

/// What the bucket of a region can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    /// Neither versions nor locks.
    Plain,
    /// Old versions are kept.
    Versioned,
    /// Object Lock is on, which includes versions. No default retention.
    Locked,
}

/// A running region. Dropping it kills the server and removes its files.
pub struct Region {
    name: String,
    ports: Ports,
    certificates: Certificates,
    credential_file: PathBuf,
    directory: TempDir,
    server: Option<Child>,
}

#[derive(Clone, Copy)]
struct Ports {
    master: u16,
    volume: u16,
    filer: u16,
    admin: u16,
    http: u16,
    https: u16,
}

impl Ports {
    fn probe() -> Self {
        Self {
            master: ports::free(),
            volume: ports::free(),
            filer: ports::free(),
            admin: ports::free(),
            http: ports::free(),
            https: ports::free(),
        }
    }
}

impl Region {
    /// Starts a region called `name` with a plain bucket, and waits until it serves.
    ///
    /// # Panics
    /// If it does not; with the end of its log.
    pub async fn start(name: &str) -> Self {
        Self::start_with(name, Bucket::Plain).await
    }

    /// Like [`start`](Self::start) with a bucket of choice.
    ///
    /// # Panics
    /// Like [`start`](Self::start).
    pub async fn start_with(name: &str, bucket: Bucket) -> Self {
        let directory = tempfile::Builder::new().prefix("lifeboat-region-").tempdir().expect("a temporary directory");
        let certificates = Certificates::create(directory.path());
        let credential_file = directory.path().join("credentials");
        write_credential_file(&credential_file, ACCESS_KEY, SECRET_KEY);
        write_credential_file(&directory.path().join("host-credentials"), HOST_ACCESS_KEY, HOST_SECRET_KEY);
        write_credential_file(&directory.path().join("writer-credentials"), WRITER_ACCESS_KEY, WRITER_SECRET_KEY);
        write_credential_file(&directory.path().join("drill-credentials"), DRILL_ACCESS_KEY, DRILL_SECRET_KEY);
        let identities = serde_json::json!({"identities": [{
            "name": "lifeboat",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }, {
            "name": "host",
            "credentials": [{"accessKey": HOST_ACCESS_KEY, "secretKey": HOST_SECRET_KEY}],
            "actions": [],
            "policyNames": ["lifeboat-host"],
        }, {
            "name": "writer",
            "credentials": [{"accessKey": WRITER_ACCESS_KEY, "secretKey": WRITER_SECRET_KEY}],
            "actions": [],
            "policyNames": ["lifeboat-writer"],
        }, {
            "name": "drill",
            "credentials": [{"accessKey": DRILL_ACCESS_KEY, "secretKey": DRILL_SECRET_KEY}],
            "actions": [],
            "policyNames": ["lifeboat-drill"],
        }], "policies": [
            {"name": "lifeboat-drill", "content": policy("drill-host-policy.json")},
            {"name": "lifeboat-host", "content": host_policy()},
            {"name": "lifeboat-writer", "content": writer_policy()},
        ]});
        fs::write(directory.path().join("s3.json"), identities.to_string()).expect("a writable directory");
        fs::create_dir(directory.path().join("data")).expect("a writable directory");
        let ports = Ports::probe();
        let mut region = Self { name: name.to_owned(), ports, certificates, credential_file, directory, server: None };
        region.restart().await;
        region.create_bucket(bucket).await;
        region
    }

    /// The region's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bucket's name.
    #[must_use]
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// `https://127.0.0.1:PORT`, path style.
    #[must_use]
    pub fn endpoint(&self) -> Url {
        Url::parse(&format!("https://127.0.0.1:{}", self.ports.https)).expect("a legal URL")
    }

    /// The same store without TLS, to put a [`Proxy`](crate::proxy::Proxy) before it.
    #[must_use]
    pub fn plain_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.http).into()
    }

    /// PEM file of the authority to trust.
    #[must_use]
    pub fn ca_file(&self) -> &Path {
        &self.certificates.ca_file
    }

    /// Credentials in the format of AWS's shared credentials, mode 0600.
    #[must_use]
    pub fn credential_file(&self) -> &Path {
        &self.credential_file
    }

    /// As [`credential_file`](Self::credential_file), of a backup host that may hide objects, and
    /// remove no version: `config/s3/seaweedfs-policy.json` holds for it.
    #[must_use]
    pub fn host_credential_file(&self) -> PathBuf {
        self.directory.path().join("host-credentials")
    }

    /// As [`host_credential_file`](Self::host_credential_file), of a host that may not hide
    /// objects, either.
    #[must_use]
    pub fn writer_credential_file(&self) -> PathBuf {
        self.directory.path().join("writer-credentials")
    }

    /// As [`credential_file`](Self::credential_file), of a drill host, which may read, and write
    /// reports and its log: `config/s3/drill-host-policy.json` holds for it.
    #[must_use]
    pub fn drill_credential_file(&self) -> PathBuf {
        self.directory.path().join("drill-credentials")
    }

    /// The region as a replica called `name`, with a deadline of 30 s.
    ///
    /// # Panics
    /// If `name` is not a legal one.
    #[must_use]
    pub fn replica_config(&self, name: &str) -> ReplicaConfig {
        ReplicaConfig {
            name: name.parse().expect("a legal name"),
            region: self.name.clone(),
            kind: ReplicaKind::S3(S3Config {
                bucket: BUCKET.to_owned(),
                endpoint: Some(self.endpoint()),
                path_style: true,
                ca_file: Some(self.ca_file().to_owned()),
                storage_class: None,
                lock: None,
                credentials: S3Credentials::File(SecretRef::file(&self.credential_file)),
            }),
            timeout: Duration::from_secs(30),
            bandwidth: Bandwidth::default(),
        }
    }

    /// A bare S3 client with all rights, to look at what is stored or to damage it.
    ///
    /// # Panics
    /// If the CA file is gone.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client_of(ACCESS_KEY, SECRET_KEY)
    }

    /// As [`client`](Self::client), with the rights of
    /// [`writer_credential_file`](Self::writer_credential_file).
    ///
    /// # Panics
    /// If the CA file is gone.
    #[must_use]
    pub fn writer_client(&self) -> Client {
        self.client_of(WRITER_ACCESS_KEY, WRITER_SECRET_KEY)
    }

    fn client_of(&self, access_key: &str, secret_key: &str) -> Client {
        let pem = fs::read(self.ca_file()).expect("the CA file");
        let context = TlsContext::builder().with_trust_store(TrustStore::empty().with_pem_certificate(pem)).build();
        let transport = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(context.expect("a TLS context"))
            .build_https();
        let timeouts = TimeoutConfig::builder().operation_timeout(Duration::from_secs(20)).build();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(aws_sdk_s3::config::Region::new(self.name.clone()))
            .endpoint_url(self.endpoint().as_str().trim_end_matches('/'))
            .force_path_style(true)
            .timeout_config(timeouts)
            .http_client(transport)
            .credentials_provider(Credentials::new(access_key, secret_key, None, None, "tests"));
        Client::from_conf(config.build())
    }

    /// Kills the server at once, as a lost region would go. Its data stays for
    /// [`restart`](Self::restart).
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let group = rustix::process::Pid::from_child(&server);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = server.wait();
            self.remove_sockets();
        }
    }

    /// Starts the server again, with the same data and ports, and waits until it serves.
    ///
    /// # Panics
    /// If it does not; with the end of its log.
    pub async fn restart(&mut self) {
        self.kill();
        self.server = Some(self.spawn());
        let begin = Instant::now();
        while let Err(error) = self.try_out().await {
            let ended = self.server.as_mut().and_then(|server| server.try_wait().ok().flatten());
            if ended.is_some() || begin.elapsed() > LONGEST_START {
                let log = fs::read_to_string(self.directory.path().join("weed.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                panic!("region {} does not serve ({ended:?}): {error:?}\n{}", self.name, tail.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Writes and reads: SeaweedFS answers some time before its volumes are there.
    async fn try_out(&self) -> Result<(), aws_sdk_s3::Error> {
        let (client, bucket) = (self.client(), "readiness");
        if client.head_bucket().bucket(bucket).send().await.is_err() {
            client.create_bucket().bucket(bucket).send().await?;
        }
        let body = ByteStream::from_static(b"ready");
        client.put_object().bucket(bucket).key("ready").body(body).send().await?;
        client.get_object().bucket(bucket).key("ready").send().await?;
        Ok(())
    }

    fn spawn(&self) -> Child {
        let directory = self.directory.path();
        let log = fs::File::options().create(true).append(true).open(directory.join("weed.log")).expect("a log file");
        let flag = |name: &str, value: &dyn std::fmt::Display| format!("-{name}={value}");
        Command::new(tools::find("weed"))
            .arg("mini")
            .arg(flag("dir", &directory.join("data").display()))
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-webdav=false"])
            .args(["-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"])
            .args(["-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false"])
            .arg(flag("master.port", &self.ports.master))
            .arg(flag("volume.port", &self.ports.volume))
            .arg(flag("filer.port", &self.ports.filer))
            .arg(flag("admin.port", &self.ports.admin))
            .arg(flag("s3.port", &self.ports.http))
            .arg(flag("s3.port.https", &self.ports.https))
            .arg(flag("s3.config", &directory.join("s3.json").display()))
            .arg(flag("s3.cert.file", &self.certificates.cert_file.display()))
            .arg(flag("s3.key.file", &self.certificates.key_file.display()))
            .env("GOMEMLIMIT", "400MiB")
            .env("HOME", directory)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("weed starts")
    }

    async fn create_bucket(&self, bucket: Bucket) {
        let client = self.client();
        let create = client.create_bucket().bucket(BUCKET).object_lock_enabled_for_bucket(bucket == Bucket::Locked);
        create.send().await.expect("the bucket is created");
        if bucket == Bucket::Versioned {
            let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
            let enable = client.put_bucket_versioning().bucket(BUCKET).versioning_configuration(enabled);
            enable.send().await.expect("versioning is enabled");
        }
    }

    /// SeaweedFS leaves its sockets in /tmp when it is killed.
    fn remove_sockets(&self) {
        let Ports { master, volume, filer, admin, http, https } = self.ports;
        for port in [master, volume, filer, admin, http, https] {
            for service in ["master", "volume", "filer", "admin", "s3"] {
                let _ = fs::remove_file(format!("/tmp/seaweedfs-{service}-{port}.sock"));
                let _ = fs::remove_file(format!("/tmp/seaweedfs-{service}-grpc-{}.sock", port + 10_000));
            }
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A policy, as operators paste it.
fn policy(name: &str) -> String {
    let file = tools::workspace().join("config/s3").join(name);
    fs::read_to_string(file).expect("the policy").replace("BUCKET", BUCKET)
}

fn host_policy() -> String {
    policy("seaweedfs-policy.json")
}

/// The same without the right to delete.
fn writer_policy() -> String {
    let (policy, delete) = (host_policy(), "\"s3:PutObject\",\n        \"s3:DeleteObject\"");
    assert!(policy.contains(delete), "the policy is written otherwise");
    policy.replace(delete, "\"s3:PutObject\"")
}

/// A time after all that was written, and before all that will be. Stores date their versions in
/// whole seconds.
pub async fn moment() -> String {
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let now = chrono::Utc::now().to_rfc3339();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    now
}

/// Writes an AWS shared-credentials file, mode 0600.
///
/// # Panics
/// If it cannot be written.
pub fn write_credential_file(file: &Path, access_key: &str, secret_key: &str) {
    let mut options = fs::OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    let text = format!("[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n");
    let written = options.open(file).and_then(|mut file| file.write_all(text.as_bytes()));
    written.expect("the credential file is written");
}
