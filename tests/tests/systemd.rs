//! The units, judged by systemd itself. Without a running manager it still checks every key, path
//! and dependency, and scores the sandbox; that the programs run inside it is for a machine with
//! systemd to show.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use lifeboat_tests::programs;
use tempfile::TempDir;

const SERVICES: [&str; 6] = [
    "lifeboatd.service",
    "lifeboat-drill.service",
    "lifeboat-drill@.service",
    "lifeboat-warden.service",
    "lifeboat-witness.service",
    "lifeboat-worker@.service",
];
const OTHERS: [&str; 4] =
    ["lifeboat-drill.timer", "lifeboat-warden.timer", "lifeboat-witness.timer", "lifeboat-worker.socket"];

/// The units as `make install` installs them, with the built programs in the place of installed
/// ones.
fn installed_units() -> TempDir {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("systemd");
    let programs = programs::directory();
    let units = TempDir::new().unwrap();
    for name in SERVICES.iter().chain(&OTHERS) {
        let unit = fs::read_to_string(source.join(name)).unwrap();
        assert!(!unit.contains("Exec") || unit.contains("/usr/local/bin/"), "{name} runs something else");
        fs::write(units.path().join(name), unit.replace("/usr/local/bin", programs.to_str().unwrap())).unwrap();
    }
    units
}

/// What `systemd-analyze verify` has to say. It exits 0 on an unknown key, so only silence counts.
fn verify(unit: &Path) -> String {
    let output = Command::new("systemd-analyze")
        // The manual pages named in Documentation= are installed with the programs, not here.
        .args(["verify", "--man=no"])
        .arg(unit)
        .output()
        .expect("systemd-analyze runs (scripts/setup installs it)");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// The exposure that `systemd-analyze security` computes: 0.0 is locked up, 10.0 is bare.
fn exposure(unit: &Path) -> f64 {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--no-pager"])
        .arg(unit)
        .output()
        .expect("systemd-analyze runs (scripts/setup installs it)");
    let text = String::from_utf8(output.stdout).unwrap();
    let verdict = text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| {
        panic!("no verdict on {}: {text}{}", unit.display(), String::from_utf8_lossy(&output.stderr))
    });
    verdict.split_once(": ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn units_verify_without_a_word() {
    let units = installed_units();
    for name in SERVICES.iter().chain(&OTHERS) {
        assert_eq!(verify(&units.path().join(name)), "", "{name}");
    }
}

#[test]
fn verification_would_notice_a_misspelt_key_and_a_missing_program() {
    let units = installed_units();
    let unit = units.path().join(SERVICES[0]);
    let good = fs::read_to_string(&unit).unwrap();
    fs::write(&unit, good.replace("KillMode=", "KilMode=")).unwrap();
    assert!(verify(&unit).contains("KilMode"));
    fs::write(&unit, good.replace("/lifeboatd ", "/lifeboatx ")).unwrap();
    assert!(verify(&unit).contains("lifeboatx"));
}

#[test]
fn sandbox_scores_below_two() {
    let units = installed_units();
    for name in SERVICES {
        let exposure = exposure(&units.path().join(name));
        assert!(exposure < 2.0, "{name} scores {exposure}");
    }
}

#[test]
fn scoring_would_notice_a_missing_sandbox() {
    let units = installed_units();
    let unit = units.path().join(SERVICES[0]);
    let open: Vec<String> = fs::read_to_string(&unit)
        .unwrap()
        .lines()
        .filter(|line| {
            !["Protect", "Private", "Restrict", "SystemCall", "Capability"].iter().any(|key| line.starts_with(key))
        })
        .map(str::to_owned)
        .collect();
    fs::write(&unit, open.join("\n")).unwrap();
    assert!(exposure(&unit) > 5.0);
}

/// Runs a script with `root` in the place of `/`, and with nothing but the given stand-ins for what
/// speaks with systemd. Each call of one is a line of the answer.
fn with_stand_ins(root: &Path, script: &str, arguments: &[&str]) -> String {
    let programs = root.join("programs");
    fs::create_dir_all(&programs).unwrap();
    for name in ["systemctl", "systemd-sysusers", "systemd-tmpfiles"] {
        let program = programs.join(name);
        fs::write(&program, "#!/bin/sh\necho \"${0##*/} $*\"\n").unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", programs.display());
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "script"]).args(arguments).env("PATH", path).env("DPKG_ROOT", root);
    let output = shell.output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn an_upgrade_tells_of_old_drill_timers_and_the_changelog_turns_them_off() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let root = TempDir::new().unwrap();
    let wants = root.path().join("etc/systemd/system/timers.target.wants");
    fs::create_dir_all(&wants).unwrap();
    let postinst = fs::read_to_string(repository.join("packaging/lifeboat/postinst")).unwrap();
    assert!(!with_stand_ins(root.path(), &postinst, &["configure", ""]).contains("drills nothing"));
    for dataset in ["shop", "wiki"] {
        let link = wants.join(format!("lifeboat-drill@{dataset}.timer"));
        std::os::unix::fs::symlink("/lib/systemd/system/lifeboat-drill@.timer", link).unwrap();
    }
    std::os::unix::fs::symlink("/lib/systemd/system/lifeboat-drill.timer", wants.join("lifeboat-drill.timer")).unwrap();
    let said = with_stand_ins(root.path(), &postinst, &["configure", "0.1.0"]);
    assert_eq!(said.matches("drills nothing any more").count(), 2, "{said}");

    let changelog = fs::read_to_string(repository.join("CHANGELOG.md")).unwrap();
    let from = changelog.find("  for timer in /etc/").unwrap();
    let lines: Vec<&str> = changelog[from..].lines().take_while(|line| !line.contains("```")).collect();
    let steps = lines.join("\n").replace("/etc/systemd", &format!("{}/etc/systemd", root.path().display()));
    let said = with_stand_ins(root.path(), &steps, &[]);
    let called: Vec<&str> = said.lines().collect();
    let expected = [
        "systemctl stop lifeboat-drill@shop.timer",
        "systemctl stop lifeboat-drill@wiki.timer",
        "systemctl daemon-reload",
        "systemctl enable --now lifeboat-drill.timer",
    ];
    assert_eq!(called, expected);
    let left: Vec<_> = fs::read_dir(&wants).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lifeboat-drill.timer"]);
}
