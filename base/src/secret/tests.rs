#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panic, and measures real time")]

use std::fs;
use std::io::{PipeReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;

const NOBODY: u32 = 65534;

fn write(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn read(path: &Path) -> Result<String> {
    SecretRef::file(path).read().map(|secret| String::from_utf8(secret.expose().to_vec()).unwrap())
}

/// The refusal, which must come at once.
fn refusal(path: &Path) -> String {
    let began = Instant::now();
    let error = read(path).unwrap_err();
    assert_eq!(error.class(), Class::Keys);
    assert!(began.elapsed() < Duration::from_secs(2), "{error:?} took {:?}", began.elapsed());
    error.chain()
}

#[test]
fn refuses_what_is_no_private_file_at_once() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    write(&path("key"), "secret");
    assert_eq!(read(&path("key")).unwrap(), "secret");
    assert!(refusal(&path("missing")).contains("cannot read the secret"));
    assert!(SecretRef::file(path("missing")).read_if_any().unwrap().is_none());

    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(refusal(&path("pipe")).contains("not a regular file"));
    assert!(refusal(place.path()).contains("not a regular file"));
    assert!(refusal(Path::new("/dev/zero")).contains("not a regular file"));

    write(&path("long"), "");
    fs::File::options().write(true).open(path("long")).unwrap().set_len(1 << 30).unwrap();
    assert!(refusal(&path("long")).contains("too long"));

    for (mode, passes) in [(0o400, true), (0o640, false), (0o601, false)] {
        fs::set_permissions(path("key"), fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(read(&path("key")).is_ok(), passes, "{mode:o}");
    }
    // The mask of an access list, as systemd makes it; not more.
    for (mode, passes) in [(0o440, true), (0o460, false), (0o444, false)] {
        fs::set_permissions(path("key"), fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(SecretRef::handed_over(path("key")).read().is_ok(), passes, "{mode:o}");
    }
}

#[test]
fn refuses_the_file_of_another_user() {
    // Only root can make such a file.
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("key");
    write(&key, "secret");
    if opened::user() == 0 {
        chown(&key, Some(NOBODY), None).unwrap();
        assert!(refusal(&key).contains("belongs to another user (uid 65534)"));
        // Who checks a configuration may be another than who reads the secret.
        assert!(SecretRef::file(&key).check_mode().is_ok());
    }
}

#[test]
fn follows_links_only_of_this_user_and_root() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    fs::create_dir(path("keys")).unwrap();
    write(&path("keys/key"), "secret");
    symlink("keys/../keys/key", path("link")).unwrap();
    symlink(path("keys"), path("folder")).unwrap();
    symlink("loop", path("loop")).unwrap();
    assert_eq!(read(&path("link")).unwrap(), "secret");
    assert_eq!(read(&path("folder/key")).unwrap(), "secret");
    assert!(read(&path("loop")).is_err());
    assert!(read(&path("keys/key/deeper")).is_err());
    if opened::user() == 0 {
        lchown(path("link"), Some(NOBODY), None).unwrap();
        lchown(path("folder"), Some(NOBODY), None).unwrap();
        for refused in ["link", "folder/key"] {
            assert!(refusal(&path(refused)).contains("symbolic link"), "{refused}");
        }
    }
}

/// An attacker who may write into the folder swaps the file for one that everybody can read, and
/// for a link to another secret, as fast as possible.
#[test]
fn what_is_checked_is_what_is_read() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let (key, done) = (path("key"), AtomicBool::new(false));
    write(&path("other"), "other secret");
    write(&key, "secret");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                write(&path("open"), "planted");
                fs::set_permissions(path("open"), fs::Permissions::from_mode(0o644)).unwrap();
                fs::rename(path("open"), &key).unwrap();
                write(&path("next"), "secret");
                fs::rename(path("next"), &key).unwrap();
                if opened::user() == 0 {
                    symlink(path("other"), path("link")).unwrap();
                    lchown(path("link"), Some(NOBODY), None).unwrap();
                    fs::rename(path("link"), &key).unwrap();
                    write(&path("next"), "secret");
                    fs::rename(path("next"), &key).unwrap();
                }
            }
        });
        let (mut read_well, mut refused) = (0, 0);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) || read_well == 0 || refused == 0 {
            match read(&key) {
                Ok(text) => {
                    assert_eq!(text, "secret");
                    read_well += 1;
                }
                Err(_) => refused += 1,
            }
            assert!(began.elapsed() < Duration::from_secs(60));
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn waits_for_a_pipe_that_the_command_line_names() {
    let (reader, mut writer): (PipeReader, _) = std::io::pipe().unwrap();
    let named = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
    assert!(refusal(&named).contains("not a regular file"), "a configuration names no pipe");
    let writing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        writer.write_all(b"secret").unwrap();
    });
    assert_eq!(read_given(&named).unwrap().expose(), b"secret");
    writing.join().unwrap();

    let place = tempfile::tempdir().unwrap();
    let named = place.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &named, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let to = named.clone();
    let writing = std::thread::spawn(move || fs::write(to, "secret").unwrap());
    assert_eq!(read_given(&named).unwrap().expose(), b"secret");
    writing.join().unwrap();
    if opened::user() == 0 {
        chown(&named, Some(NOBODY), None).unwrap();
        let writing = std::thread::spawn(move || fs::write(named, "planted"));
        let error = read_given(&place.path().join("pipe")).unwrap_err();
        assert!(error.message().contains("another user"), "{error:?}");
        let _ = writing.join();
    }
    let endless = fs::File::open("/dev/zero").unwrap();
    let named = PathBuf::from(format!("/proc/self/fd/{}", endless.as_raw_fd()));
    assert!(read_given(&named).unwrap_err().message().contains("too long"));
}
