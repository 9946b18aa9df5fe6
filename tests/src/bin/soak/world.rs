//! The machines: two regions behind proxies, a directory as third replica, the sources, and a
//! backup host that was set up as an operator does it.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

use lifeboat_engine::config::ReplicaKind;
use lifeboat_tests::host::section;
use lifeboat_tests::programs::{Output, run};
use lifeboat_tests::proxy::Proxy;
use lifeboat_tests::s3::Region;
use lifeboat_tests::{ports, tools};
use tempfile::TempDir;
use tokio::process::Command;

use crate::disturb::StateMount;
use crate::peaks::Peaks;
use crate::process::{Daemon, Place};
use crate::restores::lifeboat;
use crate::sources::{DATASETS, Sources};
use crate::watch::REPLICAS;
use crate::{CLOCK_SKEW, MEMORY_MIB, Result, say};

const DEADLINE: Duration = Duration::from_secs(120);
/// The deadline of one request, so that a store that hangs costs seconds.
const TIMEOUT: Duration = Duration::from_secs(4);
/// `limits.run` of the host, in seconds.
const LONGEST_RUN: u64 = 60;

/// Everything that runs. Dropping it ends it.
pub(crate) struct World {
    pub(crate) daemon: Daemon,
    pub(crate) process: Arc<AtomicI32>,
    pub(crate) peaks: Arc<Peaks>,
    pub(crate) sources: Sources,
    pub(crate) proxies: [Proxy; 2],
    pub(crate) regions: [Region; 2],
    pub(crate) place: Place,
    _state: Option<StateMount>,
    _directory: TempDir,
}

impl World {
    /// Starts the servers, and makes the vault. The daemon does not run yet.
    pub(crate) async fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("lifeboat-soak-").tempdir_in("/tmp")?;
        let root = directory.path().to_owned();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
        let place = Place { root: root.clone(), address };
        std::fs::create_dir(place.temporary())?;
        std::fs::create_dir(place.cellar())?;
        place.set_clock(0)?;
        let state = StateMount::try_new(&place.state()).await?;
        let (north, south) = tokio::join!(Region::start("north-1"), Region::start("south-1"));
        let proxies = [Proxy::start(north.plain_address()).await, Proxy::start(south.plain_address()).await];
        let sources = Sources::start(root.join("sources")).await?;
        let regions = [north, south];

        let master = root.join("master.txt");
        let keygen = || Command::new(tools::find("age-keygen"));
        finished(run(keygen().arg("-o").arg(&master), DEADLINE).await?)?;
        let public = finished(run(keygen().arg("-y").arg(&master), DEADLINE).await?)?;
        let replicas = REPLICAS.iter().zip(&regions).zip(&proxies).map(|((name, region), proxy)| {
            let mut replica = region.replica_config(name);
            replica.timeout = TIMEOUT;
            if let ReplicaKind::S3(s3) = &mut replica.kind {
                s3.endpoint = format!("http://{}", proxy.address()).parse().ok();
                s3.ca_file = None;
            }
            section(&replica)
        });
        let cellar = format!(
            "[[replica]]\nname = \"cellar\"\nkind = \"directory\"\nregion = \"home\"\npath = \"{}\"\n",
            place.cellar().display()
        );
        let replicas: String = replicas.chain([cellar]).collect();
        let text = configuration(&place, public.stdout.trim(), &replicas, &sources)?;
        std::fs::write(place.config(), &text)?;
        std::fs::write(place.steady_config(), &text)?;
        finished(run(lifeboat(&place).args(["--json", "init"]), DEADLINE).await?)?;
        let on = if state.is_some() { "a file system of its own" } else { "the common file system" };
        say(&format!("twelve datasets in {}, the state on {on}", root.display()));
        let (process, peaks) = (Arc::default(), Arc::default());
        let daemon = Daemon::new(place.clone(), Arc::clone(&process), Arc::clone(&peaks))?;
        Ok(Self { daemon, process, peaks, sources, proxies, regions, place, _state: state, _directory: directory })
    }
}

/// The host's configuration.
fn configuration(place: &Place, master: &str, replicas: &str, sources: &Sources) -> Result<String> {
    let (root, address) = (place.root.display(), place.address);
    let grace = LONGEST_RUN + 2 * CLOCK_SKEW;
    let mut text = format!(
        "host = \"soak\"\nvault_prefix = \"vault\"\nstate_directory = \"{state}\"\nmin_replicas = 2\n\
         control_socket = \"{root}/control.sock\"\nlisten = \"{address}\"\n\
         [keys]\ndirectory = \"{root}/keys\"\nmaster_recipients = [\"{master}\"]\n\
         [limits]\ncpu = 2\nmemory = \"{MEMORY_MIB}MiB\"\nruns = 2\nstall = \"15s\"\nrun = \"{LONGEST_RUN}s\"\n\
         shutdown = \"5s\"\nclock_skew = \"{CLOCK_SKEW}s\"\n{replicas}",
        state = place.state().display(),
    );
    for (at, name) in DATASETS.iter().enumerate() {
        write!(
            text,
            "[[dataset]]\nname = \"{name}\"\nhome_region = \"home\"\nschedule = \"* * * * *\"\nretry = \"15s\"\n\
             chunk_size = \"64KiB\"\nretention = {{ keep_last = 4, grace = \"{grace}s\" }}\n[dataset.source]\n{source}",
            source = sources.section(at)
        )?;
    }
    Ok(text)
}

/// # Errors
/// The program has failed.
pub(crate) fn finished(output: Output) -> Result<Output> {
    if output.status.success() { Ok(output) } else { Err(output.to_string().into()) }
}
