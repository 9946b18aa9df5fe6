//! The packages of `make dist`, in freshly made machines of Debian 12 and 13, and the README's
//! block there.
//!
//! What this cannot show: the machines are chroots without systemd, so no unit is started. A first
//! backup and a drill run as the units' users, with what the units would hand over.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::print_stdout, reason = "whoever runs it by hand reads how it went")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lifeboat_tests::readme::Block;
use lifeboat_tests::s3::Region;
use lifeboat_tests::tools;

/// The releases that packages are made for.
const SUITES: [&str; 2] = ["bookworm", "trixie"];
/// What starts and stops the cluster that the package made, of whatever version.
const CLUSTER: &str = "pg_ctlcluster $(pg_lsclusters -h | cut -d' ' -f1,2)";
/// What the README promises.
const TEN_MINUTES: Duration = Duration::from_secs(600);

/// A fresh Debian below `target/install-test`. What is mounted there goes with it.
struct Machine(PathBuf);

impl Machine {
    fn new(suite: &str, name: &str) -> Self {
        let place = tools::workspace().join("target/install-test");
        let base = place.join(suite);
        if !base.join("etc/debian_version").exists() {
            std::fs::create_dir_all(&place).unwrap();
            let made = place.join(format!(".{suite}"));
            let _ = std::fs::remove_dir_all(&made);
            run(Command::new("debootstrap").args(["--variant=minbase", suite]).arg(&made));
            std::fs::rename(&made, &base).unwrap();
        }
        let root = place.join(format!("{suite}-{name}"));
        let machine = Self(root.clone());
        machine.unmount();
        if root.exists() {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let whole = root.canonicalize().unwrap();
            let left = mounted_below(&mounts, &whole);
            assert!(left.is_empty(), "to remove {} would empty what is mounted there: {left:?}", whole.display());
            std::fs::remove_dir_all(&root).unwrap();
        }
        run(Command::new("cp").args(["-a"]).arg(&base).arg(&root));
        run(Command::new("mount").args(["-t", "proc", "proc"]).arg(root.join("proc")));
        run(Command::new("mount").args(["--bind", "/dev"]).arg(root.join("dev")));
        std::fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf")).unwrap();
        // Packages start nothing: there is no systemd.
        std::fs::write(root.join("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n").unwrap();
        machine.sh("chmod 755 /usr/sbin/policy-rc.d");
        machine
    }

    fn unmount(&self) {
        for folder in ["dev", "proc"] {
            // It need not be mounted; what still is, is seen before anything is removed.
            let _ = Command::new("umount").arg("--lazy").arg(self.0.join(folder)).output();
        }
    }

    /// Installs packages of this build, and of the distribution.
    fn install(&self, own: &[PathBuf], others: &[&str]) {
        let mut words = Vec::new();
        for package in own {
            let name = package.file_name().unwrap().to_str().unwrap();
            std::fs::copy(package, self.0.join(name)).unwrap();
            words.push(format!("/{name}"));
        }
        words.extend(others.iter().map(|name| (*name).to_owned()));
        self.sh(&format!(
            "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends {}",
            words.join(" ")
        ));
    }

    /// Runs a line of shell in it. Returns all that it said.
    fn sh(&self, line: &str) -> String {
        run(Command::new("chroot").arg(&self.0).args(["/bin/sh", "-ec", line]).env("LC_ALL", "C.UTF-8"))
    }

    /// Runs Lifeboat in it. Returns what it printed.
    fn lifeboat(&self, words: &[String]) -> String {
        let mut command = Command::new("chroot");
        let done = command.arg(&self.0).arg("lifeboat").args(words).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{words:?}: {}\n{said}", String::from_utf8_lossy(&done.stdout));
        println!("{said}");
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let stop = format!("{CLUSTER} stop; service mariadb stop; service redis-server stop");
        let _ = Command::new("chroot").arg(&self.0).args(["/bin/sh", "-c", &stop]).output();
        self.unmount();
    }
}

/// What is mounted on a folder or below it, by the text of `/proc/self/mountinfo`.
fn mounted_below(mounts: &str, folder: &Path) -> Vec<PathBuf> {
    let places = mounts.lines().map(|line| {
        let place = line.split(' ').nth(4).unwrap_or_else(|| panic!("no place in {line:?}"));
        // A blank, a tab, a line's end and a backslash are written as octal numbers.
        let plain = [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", r"\")];
        PathBuf::from(plain.iter().fold(place.to_owned(), |text, (code, sign)| text.replace(code, sign)))
    });
    places.filter(|place| place.starts_with(folder)).collect()
}

#[test]
fn what_is_mounted_in_a_machine_is_seen_before_it_is_removed() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(mounted_below(&mounts, Path::new("/")).contains(&PathBuf::from("/proc")), "{mounts}");
    let mounts = "41 22 0:5 / /x/purged/dev rw - devtmpfs udev rw\n\
                  42 22 0:5 / /x/purged-too/dev rw - devtmpfs udev rw\n\
                  43 22 0:5 / /x/a\\040b/proc rw - proc proc rw\n";
    assert_eq!(mounted_below(mounts, Path::new("/x/purged")), [PathBuf::from("/x/purged/dev")]);
    assert_eq!(mounted_below(mounts, Path::new("/x/a b")), [PathBuf::from("/x/a b/proc")]);
    assert!(mounted_below(mounts, Path::new("/x/other")).is_empty());
}

/// A purge whose look through the folders fails must not take that for "nothing is there".
#[test]
fn a_purge_keeps_what_it_cannot_look_through() {
    let place = tempfile::tempdir().unwrap();
    let below = |path: &str| place.path().join(path);
    let script = std::fs::read_to_string(tools::workspace().join("packaging/lifeboat/postrm")).unwrap();
    let mut script = script.replace("/run/systemd/system", "/nonexistent");
    for folder in ["/etc/lifeboat", "/var/lib/lifeboat"] {
        script = script.replace(folder, &format!("{}{folder}", place.path().display()));
    }
    let purge = |path: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &script, "postrm", "purge"]).env("PATH", path);
        run(&mut command)
    };
    let usual = std::env::var("PATH").unwrap();
    let empty = ["etc/lifeboat/keys/credentials", "var/lib/lifeboat/runs/old", "var/lib/lifeboat-drill"];
    let make = || empty.iter().for_each(|folder| std::fs::create_dir_all(below(folder)).unwrap());
    make();
    assert_eq!(purge(&usual), "");
    assert!(!below("etc/lifeboat").exists() && !below("var/lib/lifeboat").exists());

    make();
    std::fs::write(below("etc/lifeboat/keys/host.key"), "a key").unwrap();
    std::fs::write(below("etc/lifeboat/lifeboat.toml"), "mine").unwrap();
    let said = purge(&usual);
    for kept in ["etc/lifeboat/keys", "etc/lifeboat/lifeboat.toml"] {
        assert!(said.contains(&format!("kept {}", below(kept).display())), "{said}");
    }
    assert!(!said.contains("var/lib"), "{said}");

    // A disk that fails: `find` reads nothing, and says so by its status alone.
    let failing = below("bin");
    std::fs::create_dir(&failing).unwrap();
    std::fs::write(failing.join("find"), "#!/bin/sh\nexit 1\n").unwrap();
    run(Command::new("chmod").arg("755").arg(failing.join("find")));
    let said = purge(&format!("{}:{usual}", failing.display()));
    assert!(said.contains("kept"), "{said}");
    assert_eq!(std::fs::read(below("etc/lifeboat/keys/host.key")).unwrap(), b"a key");
}

fn run(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{command:?}: {said}");
    said
}

/// A package of `make dist`.
fn package(name: &str) -> PathBuf {
    let dist = tools::workspace().join("target/dist");
    let found = std::fs::read_dir(&dist).into_iter().flatten().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
    };
    found.into_iter().find(named).unwrap_or_else(|| panic!("{} has no {name}_*.deb: run `make dist`", dist.display()))
}

/// The same packages as a later version.
fn later(machine: &Machine, name: &str) -> PathBuf {
    let (folder, whole) = (machine.0.join("repack"), machine.0.with_file_name(format!("{name}_9.deb")));
    let _ = std::fs::remove_dir_all(&folder);
    run(Command::new("dpkg-deb").arg("-R").arg(package(name)).arg(&folder));
    let control = folder.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).unwrap();
    std::fs::write(&control, text.replace("0.1.0", "9.0.0")).unwrap();
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "-b"]).arg(&folder).arg(&whole));
    whole
}

#[test]
#[ignore = "needs root, a Debian mirror and the packages of `make dist`: run `make install-test`"]
fn packages_install_upgrade_and_purge_and_never_take_keys_along() {
    SUITES.into_iter().for_each(install_upgrade_and_purge);
}

fn install_upgrade_and_purge(suite: &str) {
    let machine = Machine::new(suite, "purged");
    let both = [package("lifeboat"), package("lifeboatd")];
    machine.install(&both, &[]);
    for user in ["lifeboat", "lifeboat-drill", "lifeboat-warden", "lifeboat-worker"] {
        machine.sh(&format!("getent passwd {user}"));
    }
    assert_eq!(machine.sh("stat -c '%a %U' /etc/lifeboat/keys /etc/lifeboat/keys/credentials"), "700 root\n700 root\n");
    machine.sh("lifeboat --version && lifeboatd --version && test -x /usr/bin/lifeboat-worker");
    // Nothing was set up, so nothing is left.
    machine.sh("apt-get purge -y -qq lifeboat lifeboatd");
    assert_eq!(machine.sh("ls -d /etc/lifeboat /var/lib/lifeboat 2>/dev/null || true"), "");

    machine.install(&both, &[]);
    machine.sh("lifeboat setup host");
    let key = std::fs::read(machine.0.join("etc/lifeboat/keys/host.key")).unwrap();
    machine.install(&[later(&machine, "lifeboat"), later(&machine, "lifeboatd")], &[]);
    assert!(machine.sh("dpkg-query -W -f '${Version}' lifeboatd").contains("9.0.0"));
    assert_eq!(std::fs::read(machine.0.join("etc/lifeboat/keys/host.key")).unwrap(), key);
    let said = machine.sh("apt-get purge -y -qq lifeboat lifeboatd");
    assert!(said.contains("kept /etc/lifeboat/keys"), "{said}");
    assert_eq!(std::fs::read(machine.0.join("etc/lifeboat/keys/host.key")).unwrap(), key);
    assert_eq!(machine.sh("ls /usr/bin | grep lifeboat || true"), "");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, a Debian mirror and the packages of `make dist`: run `make install-test`"]
async fn the_first_ten_minutes_end_protected_and_proved() {
    for suite in SUITES {
        first_ten_minutes(suite).await;
    }
}

async fn first_ten_minutes(suite: &str) {
    let (near, far) = tokio::join!(Region::start("eu-near"), Region::start("eu-far"));
    let (host, drill) = (Machine::new(suite, "host"), Machine::new(suite, "drill"));
    let servers = ["postgresql", "mariadb-server", "redis-server"];
    host.install(&[package("lifeboat"), package("lifeboatd")], &servers);
    drill.install(&[package("lifeboat")], &servers);
    host.sh(&format!("{CLUSTER} start && service mariadb start && service redis-server start"));
    host.sh("mariadb -e 'CREATE DATABASE forum; CREATE TABLE forum.post AS SELECT 1 AS id'");
    host.sh("redis-cli SET session:1 ann");
    host.sh("cd / && su postgres -c \"psql -qc 'CREATE DATABASE orders' && psql -qd orders -c 'CREATE TABLE item AS SELECT 1 AS id'\"");
    let wiki = rusqlite::Connection::open(host.0.join("srv/wiki.db")).unwrap();
    wiki.execute_batch("CREATE TABLE page (text TEXT); INSERT INTO page VALUES ('kept');").unwrap();
    drop(wiki);
    for (machine, region) in [(&host, &near), (&host, &far), (&drill, &far)] {
        std::fs::copy(region.ca_file(), machine.0.join(format!("srv/{}.pem", region.name()))).unwrap();
        // The units' users must read it, and `check` runs as these.
        machine.sh("chmod 644 /srv/*.pem");
    }
    let place = |region: &Region| {
        format!(
            "s3://{}?region={}&endpoint={}&ca_file=/srv/{}.pem",
            region.bucket(),
            region.name(),
            region.endpoint(),
            region.name()
        )
    };
    let keys = |machine: &Machine, region: &Region, name: &str| {
        let inside = format!("/root/keys-{name}");
        std::fs::copy(region.credential_file(), machine.0.join(&inside[1..])).unwrap();
        machine.sh(&format!("chmod 600 {inside} && chown root: {inside}"));
        inside
    };

    let (began, mut block) = (Instant::now(), Block::of_readme());
    let drill_line = drill.lifeboat(&block.take("setup drill-host", &[], &["--name", "drill1"]));
    let host_line = host.lifeboat(&block.take("setup host", &[], &["--name", "db1"]));
    let lines = [("LINE-H", host_line.as_str()), ("LINE-D", drill_line.as_str())];
    let owner = ["--yes", "--directory", "/root/owner"];
    // The owner's machine is a third one; a folder of the drill host is as good for this.
    let root = drill.lifeboat(&block.take("owner init", &lines, &owner));
    let (near_place, far_place) = (format!("near={}", place(&near)), format!("far={}", place(&far)));
    let places = [
        ("ROOT", root.as_str()),
        ("shop=postgres:/var/run/postgresql", "shop=postgres:/var/run/postgresql"),
        ("near=s3://backup-near?region=eu-central-1", near_place.as_str()),
        ("far=s3://backup-far?region=eu-west-1", far_place.as_str()),
    ];
    let (near_keys, far_keys) = (keys(&host, &near, "near"), keys(&host, &far, "far"));
    let (near_keys, far_keys) = (format!("near={near_keys}"), format!("far={far_keys}"));
    let (forum, sessions) = ("forum=mariadb:/run/mysqld/mysqld.sock", "sessions=redis:redis://127.0.0.1:6379");
    let sources = ["--sqlite", "/srv/wiki.db", "--dataset", forum, "--dataset", sessions];
    let more = [&["--store-keys", &near_keys, "--store-keys", &far_keys, "--yes"][..], &sources].concat();
    let done = host.lifeboat(&block.take("setup --root", &places, &more));
    assert!(done.contains("Backed up for the first time: shop, "), "{done}");
    assert!(host.lifeboat(&block.take("kit", &[], &[])).contains("eu-near"));
    let far_keys = keys(&drill, &far, "far");
    let joined = place(&far);
    let places = [("ROOT", root.as_str()), ("s3://backup-far?region=eu-west-1", joined.as_str())];
    drill.lifeboat(&block.take("setup drill-host --join", &places, &["--store-keys", &far_keys, "--yes"]));
    let words = block.take("drill shop", &[], &[]);
    let others = ["wiki", "forum", "sessions"].map(|dataset| vec!["drill".to_owned(), dataset.to_owned()]);
    for words in [vec![words], others.to_vec()].concat() {
        assert!(drill.lifeboat(&words).contains("PROVED"));
    }
    let status = drill.lifeboat(&block.take("status", &[], &[]));
    println!("{suite}: {status}\nafter {:?}", began.elapsed());
    assert_eq!(status.matches("protected, proved").count(), 4, "{status}");
    assert!(began.elapsed() < TEN_MINUTES);
    block.end();
    for folder in ["var/lib/lifeboat", "var/lib/lifeboat-drill"] {
        for machine in [&host, &drill] {
            assert!(owners(&machine.0.join(folder)).iter().all(|uid| *uid != 0), "root left files in {folder}");
        }
    }
}

/// Who owns what is below a folder.
fn owners(folder: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let metadata = entry.path().symlink_metadata().unwrap();
        found.push(std::os::unix::fs::MetadataExt::uid(&metadata));
        if metadata.is_dir() {
            found.extend(owners(&entry.path()));
        }
    }
    found
}
