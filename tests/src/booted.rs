//! A booted systemd, in namespaces of its own: its processes, mounts, control groups and host name
//! are apart from this machine's, and nothing that it mounts or writes is left.
//!
//! It knows the units that it is given, and stubs of what they order themselves after. What is
//! written below `/etc`, `/srv`, `/usr/local` and `/var` goes into memory.
#![allow(clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const BOOT_DEADLINE: Duration = Duration::from_secs(30);
/// What services and sockets order themselves after, or want.
const STUBS: [&str; 8] = [
    "sysinit.target",
    "basic.target",
    "sockets.target",
    "shutdown.target",
    "umount.target",
    "network-online.target",
    "time-sync.target",
    "booted.target",
];
/// The first process of the new namespaces becomes systemd.
const BOOT: &str = r#"
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$1/memory"
for folder in etc srv usr/local var; do
    mkdir -p "$1/memory/$folder" "$1/memory/merging/$folder"
    if [ -d "$1/files/$folder" ]; then cp -a "$1/files/$folder/." "$1/memory/$folder/"; fi
    mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$1/memory/$folder,workdir=$1/memory/merging/$folder" "/$folder"
done
mount -t tmpfs -o mode=0755 tmpfs /run
# systemd hands over credentials by a mount that it makes elsewhere.
mount --make-rshared /
exec env -i container=lifeboat-test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH="$1/units" \
    /lib/systemd/systemd --system --unit=booted.target --log-target=console --show-status=no
"#;

/// A running systemd.
pub struct Booted {
    place: TempDir,
    boot: Child,
    systemd: u32,
}

impl Booted {
    /// Boots with the units in `units`. The tree `files` is laid over the root of the file system:
    /// its `etc`, `srv`, `usr/local` and `var`, with owners and modes.
    ///
    /// # Panics
    /// This is not root, or systemd does not start.
    #[must_use]
    pub fn start(units: &Path, files: &Path) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "only root can boot systemd in namespaces: run the tests as root"
        );
        let place = tempfile::Builder::new().prefix("lifeboat-booted-").tempdir_in("/tmp").expect("a directory");
        for folder in ["units", "memory"] {
            fs::create_dir(place.path().join(folder)).expect("a folder");
        }
        let stub = "[Unit]\nDefaultDependencies=no\n";
        for name in STUBS {
            fs::write(place.path().join("units").join(name), stub).expect("a stub");
        }
        for unit in fs::read_dir(units).expect("units").flatten() {
            copy(&unit.path(), &place.path().join("units").join(unit.file_name()));
        }
        copy(files, &place.path().join("files"));
        let log = fs::File::create(place.path().join("log")).expect("a log");
        let mut boot = Command::new("unshare");
        boot.args(["--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--mount-proc"]);
        boot.args(["sh", "-c", BOOT, "boot"]).arg(place.path()).stdin(Stdio::null());
        let boot = boot.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("unshare runs");
        let mut booted = Self { place, boot, systemd: 0 };
        let began = Instant::now();
        while !booted.is_up() {
            assert!(began.elapsed() < BOOT_DEADLINE, "systemd does not boot: {}", booted.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        booted
    }

    fn is_up(&mut self) -> bool {
        let children = format!("/proc/{0}/task/{0}/children", self.boot.id());
        let first = fs::read_to_string(children).unwrap_or_default();
        let Some(systemd) = first.split_whitespace().next().and_then(|pid| pid.parse().ok()) else { return false };
        self.systemd = systemd;
        self.run(&["systemctl", "is-active", "--quiet", "booted.target"]).status.success()
    }

    /// What systemd said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    /// Runs a command inside, as root.
    ///
    /// # Panics
    /// It cannot be run.
    #[must_use]
    pub fn run(&self, command: &[&str]) -> Output {
        let mut enter = Command::new("nsenter");
        enter.arg("--target").arg(self.systemd.to_string());
        enter.args(["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--"]).args(command);
        enter.stdin(Stdio::null()).output().expect("nsenter runs")
    }

    /// The text of a file inside; nothing if there is none.
    #[must_use]
    pub fn read(&self, path: &str) -> String {
        String::from_utf8_lossy(&self.run(&["cat", path]).stdout).into_owned()
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // Whoever ends the first process of its namespace ends all others.
        let _ = self.boot.kill();
        let _ = self.boot.wait();
    }
}

/// Copies a file or a tree, with owners and modes.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(copied.success(), "cannot copy {}", from.display());
}
