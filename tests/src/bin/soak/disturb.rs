//! Disturbs the stores and the daemon, one trouble after the other for each, in an order that the
//! seed decides, with pauses between them. Every kind comes before one comes again.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lifeboat_tests::proxy::{Mode, Proxy};
use lifeboat_tests::s3::Region;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rustix::fs::statvfs;
use rustix::process::{Resource, Signal};
use tokio_util::sync::CancellationToken;

use crate::process::{Daemon, Place};
use crate::sources::{FILES, Sources};
use crate::troubles::{Trouble, Troubles};
use crate::{CLOCK_SKEW, Result};

/// Waits for a random time. Returns whether it is time to stop.
async fn pause(chance: &mut ChaCha8Rng, seconds: std::ops::Range<u64>, calm: &CancellationToken) -> bool {
    let pause = Duration::from_millis(chance.random_range(seconds.start * 1000..seconds.end * 1000));
    tokio::select! {
        () = tokio::time::sleep(pause) => calm.is_cancelled(),
        () = calm.cancelled() => true,
    }
}

/// Disturbs one store until `calm`. It then serves.
pub(crate) async fn store(
    number: usize,
    (region, proxy): (&mut Region, &Proxy),
    mut chance: ChaCha8Rng,
    troubles: &Troubles,
    calm: &CancellationToken,
) {
    let kinds = [
        Trouble::StoreKilled(number),
        Trouble::StoreHung(number),
        Trouble::StoreThrottled(number),
        Trouble::StoreSlow(number),
        Trouble::StoreFull(number),
    ];
    let mut bag = Vec::new();
    while !pause(&mut chance, 6..18, calm).await {
        if bag.is_empty() {
            bag = kinds.to_vec();
            bag.shuffle(&mut chance);
        }
        let Some(trouble) = bag.pop() else { continue };
        let span = troubles.begin(trouble);
        match trouble {
            Trouble::StoreKilled(_) => region.kill(),
            Trouble::StoreHung(_) => proxy.set(Mode::Hang),
            Trouble::StoreThrottled(_) => proxy.set(Mode::Throttle(chance.random_range(0..4))),
            Trouble::StoreSlow(_) => proxy.set(Mode::Slow(Duration::from_millis(chance.random_range(50..700)))),
            _ => proxy.set(Mode::Full),
        }
        pause(&mut chance, 5..20, calm).await;
        if trouble == Trouble::StoreKilled(number) {
            region.restart().await;
        }
        proxy.set(Mode::Pass);
        troubles.end(span);
    }
}

/// Takes files away that are to be backed up, longer than a minute, so that it shows. They are back
/// in the end.
///
/// # Errors
/// One cannot be renamed.
pub(crate) async fn sources(
    sources: &Sources,
    mut chance: ChaCha8Rng,
    troubles: &Troubles,
    calm: &CancellationToken,
) -> Result<()> {
    while !pause(&mut chance, 20..40, calm).await {
        let dataset = chance.random_range(FILES);
        let span = troubles.begin(Trouble::SourceAway(dataset));
        sources.set_away(Some(dataset))?;
        pause(&mut chance, 62..75, calm).await;
        sources.set_away(None)?;
        troubles.end(span);
    }
    Ok(())
}

/// Takes the directory away and brings it back until `calm`. It is then there.
///
/// # Errors
/// It cannot be renamed.
pub(crate) async fn directory(
    place: &Place,
    mut chance: ChaCha8Rng,
    troubles: &Troubles,
    calm: &CancellationToken,
) -> Result<()> {
    let away = place.root.join("away");
    while !pause(&mut chance, 20..60, calm).await {
        let span = troubles.begin(Trouble::DirectoryAway);
        std::fs::rename(place.cellar(), &away)?;
        pause(&mut chance, 5..20, calm).await;
        std::fs::rename(&away, place.cellar())?;
        troubles.end(span);
    }
    Ok(())
}

/// Disturbs the daemon until `calm`. It then runs.
///
/// # Errors
/// It ends by itself, or does not do what it is told.
pub(crate) async fn daemon(
    daemon: &mut Daemon,
    place: &Place,
    mut chance: ChaCha8Rng,
    troubles: &Troubles,
    calm: &CancellationToken,
) -> Result<()> {
    let kinds = [0, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut bag = Vec::new();
    loop {
        let over = pause(&mut chance, 5..14, calm).await;
        daemon.must_run()?;
        if over {
            return Ok(());
        }
        if bag.is_empty() {
            bag = kinds.to_vec();
            bag.shuffle(&mut chance);
        }
        let skew = CLOCK_SKEW.cast_signed();
        let sign = if chance.random() { 1 } else { -1 };
        let trouble = match bag.pop() {
            Some(0) => Trouble::DaemonKilled,
            Some(1) => Trouble::DaemonEnded,
            Some(2) => Trouble::DaemonStopped,
            Some(3) => Trouble::DaemonReloaded,
            Some(4 | 5) => Trouble::StateFull,
            Some(6) => Trouble::NoDescriptors,
            Some(7) => Trouble::ClockWrong(sign * chance.random_range(skew / 4..skew - 10)),
            _ => Trouble::ClockWrong(sign * chance.random_range(skew + 30..10 * skew)),
        };
        let span = troubles.begin(trouble);
        match trouble {
            Trouble::DaemonKilled => {
                daemon.kill().await?;
                pause(&mut chance, 0..8, calm).await;
                daemon.start().await?;
            }
            Trouble::DaemonEnded => {
                daemon.end().await?;
                pause(&mut chance, 0..8, calm).await;
                daemon.start().await?;
            }
            Trouble::DaemonStopped => {
                daemon.signal(Signal::STOP)?;
                pause(&mut chance, 3..20, calm).await;
                daemon.signal(Signal::CONT)?;
            }
            Trouble::DaemonReloaded => reload(daemon, place, &mut chance, calm).await?,
            Trouble::StateFull => fill(daemon, place, &mut chance, calm).await?,
            Trouble::NoDescriptors => {
                let few = daemon.descriptors()?.saturating_sub(chance.random_range(0..6)).max(3);
                let before = daemon.limit(Resource::Nofile, Some(few))?;
                pause(&mut chance, 4..15, calm).await;
                daemon.limit(Resource::Nofile, before.current)?;
            }
            Trouble::ClockWrong(seconds) => {
                place.set_clock(seconds)?;
                pause(&mut chance, 8..30, calm).await;
                restart_at_times(daemon, &mut chance).await?;
                place.set_clock(0)?;
                // It looks at the file once a second.
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            _ => {}
        }
        troubles.end(span);
    }
}

/// Kills the daemon in the middle of another trouble, or not.
async fn restart_at_times(daemon: &mut Daemon, chance: &mut ChaCha8Rng) -> Result<()> {
    if chance.random_range(0..3) == 0 {
        daemon.kill().await?;
        daemon.start().await?;
    }
    Ok(())
}

/// Reloads a configuration that says something else, or one that is invalid.
async fn reload(daemon: &Daemon, place: &Place, chance: &mut ChaCha8Rng, calm: &CancellationToken) -> Result<()> {
    let text = std::fs::read_to_string(place.config())?;
    let other = if chance.random() { text.replace("runs = 2", "runs = 3") } else { "no configuration".to_owned() };
    for text in [&other, &text] {
        replace(&place.config(), text)?;
        daemon.signal(Signal::HUP)?;
        pause(chance, 2..6, calm).await;
    }
    Ok(())
}

fn replace(path: &Path, text: &str) -> Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, text)?;
    Ok(std::fs::rename(next, path)?)
}

/// Leaves no room in the state directory: on its own small file system if there is one, else by the
/// limit of the process.
async fn fill(daemon: &mut Daemon, place: &Place, chance: &mut ChaCha8Rng, calm: &CancellationToken) -> Result<()> {
    if chance.random() && is_mounted(&place.state())? {
        let used = statvfs(place.state())?;
        resize(&place.state(), (used.f_blocks - used.f_bfree) * used.f_frsize).await?;
        pause(chance, 5..20, calm).await;
        restart_at_times(daemon, chance).await?;
        resize(&place.state(), STATE_BYTES).await?;
    } else {
        let before = daemon.limit(Resource::Fsize, Some(0))?;
        pause(chance, 5..20, calm).await;
        daemon.limit(Resource::Fsize, before.current)?;
    }
    Ok(())
}

/// More than the 1 GiB below which rows are not found again. It is a limit, and takes no memory.
const STATE_BYTES: u64 = 2 << 30;

/// Sets the size of the small file system.
async fn resize(path: &Path, bytes: u64) -> Result<()> {
    let mut mount = tokio::process::Command::new("mount");
    let resized = mount.args(["-o", &format!("remount,size={bytes}")]).arg(path).status().await?;
    // What has grown meanwhile cannot become smaller than it is, and then there is some room left.
    if !resized.success() {
        crate::say("the file system of the state has grown meanwhile");
    }
    Ok(())
}

fn is_mounted(path: &Path) -> Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1).map(Path::new) == Some(path)))
}

/// A small file system for the state directory, which only root can mount.
pub(crate) struct StateMount(PathBuf);

impl StateMount {
    /// Mounts it, if that is allowed here.
    pub(crate) async fn try_new(path: &Path) -> Result<Option<Self>> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().mode(0o700).create(path)?;
        let mut mount = tokio::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={STATE_BYTES},mode=0700"), "soak"]).arg(path);
        let mounted = mount.stderr(Stdio::null()).status().await.is_ok_and(|status| status.success());
        Ok(mounted.then(|| Self(path.to_owned())))
    }
}

impl Drop for StateMount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
