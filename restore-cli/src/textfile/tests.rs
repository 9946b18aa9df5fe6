use super::*;
use std::process::{Command, Stdio};

fn outcome(ended: i64, passed: bool) -> Outcome {
    Outcome {
        ended: DateTime::from_timestamp(ended, 0).unwrap(),
        passed,
        reached: passed.then_some(ProofLevel::Proved),
        proved_since: None,
        highest: passed.then_some(ProofLevel::Proved),
        rto_seconds: passed.then_some(41.25),
        rpo_seconds: passed.then_some(600.0),
        objectives: passed.then_some(Objectives { rpo: Some(Duration::from_secs(3600)), rto: None }),
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn passes_the_linter_of_prometheus() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("drill.prom");
    Textfile::open(&path).unwrap().record(&name("shop"), &outcome(1_795_000_000, true)).unwrap();
    Textfile::open(&path).unwrap().record(&name("other.db"), &outcome(1_795_000_100, false)).unwrap();
    let linter = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(File::open(&path).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .expect("promtool, of the package prometheus, must be installed");
    let said = String::from_utf8_lossy(&[linter.stdout, linter.stderr].concat()).into_owned();
    assert!(linter.status.success() && said.is_empty(), "{said}");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o444, 0o444, "node-exporter must read it");
    let left = std::fs::read_dir(place.path()).unwrap().count();
    assert_eq!(left, 1, "nothing but the file is left");
}

#[test]
fn a_failed_drill_keeps_the_last_success_and_shows_the_failure() {
    let mut samples = Samples::new();
    update(&mut samples, &name("shop"), &outcome(1000, true));
    update(&mut samples, &name("shop"), &outcome(2000, false));
    let text = render(&samples);
    for line in [
        "lifeboat_drill_last_success_timestamp_seconds{dataset=\"shop\"} 1000.000",
        "lifeboat_drill_last_attempt_timestamp_seconds{dataset=\"shop\"} 2000.000",
        "lifeboat_drill_last_status{dataset=\"shop\"} 0",
        "lifeboat_drill_last_level{dataset=\"shop\"} 0",
        "lifeboat_drill_highest_level{dataset=\"shop\"} 4",
        "lifeboat_drill_restore_duration_seconds{dataset=\"shop\"} 41.250",
        "lifeboat_objective_seconds{dataset=\"shop\",objective=\"rpo\"} 3600.000",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_drill_in_part_tells_of_the_last_whole_one_only_what_nobody_told_later() {
    let told = |samples: &Samples, family: &str| {
        samples[&(family_index(family).unwrap(), "dataset=\"shop\"".to_owned())].clone()
    };
    let in_part = |ended, since| Outcome {
        reached: None,
        rto_seconds: None,
        proved_since: DateTime::from_timestamp(since, 0),
        ..outcome(ended, true)
    };
    let mut samples = Samples::new();
    update(&mut samples, &name("shop"), &outcome(1000, true));
    update(&mut samples, &name("shop"), &in_part(2000, 500));
    assert_eq!((told(&samples, LAST_WHOLE), told(&samples, LAST_LEVEL)), ("1000.000".to_owned(), "4".to_owned()));
    assert_eq!((told(&samples, LAST_SUCCESS), told(&samples, LAST_STATUS)), ("2000.000".to_owned(), "1".to_owned()));
    let fetched = Outcome { reached: Some(ProofLevel::Fetched), ..outcome(3000, true) };
    update(&mut samples, &name("shop"), &fetched);
    update(&mut samples, &name("shop"), &in_part(4000, 1000));
    assert_eq!((told(&samples, LAST_WHOLE), told(&samples, LAST_LEVEL)), ("3000.000".to_owned(), "1".to_owned()));
    // Another host proved the whole.
    update(&mut samples, &name("shop"), &outcome(5000, false));
    update(&mut samples, &name("shop"), &in_part(7000, 6000));
    assert_eq!((told(&samples, LAST_WHOLE), told(&samples, LAST_LEVEL)), ("6000.000".to_owned(), "4".to_owned()));
}

#[test]
fn a_first_failure_reports_that_no_drill_ever_succeeded() {
    let mut samples = Samples::new();
    update(&mut samples, &name("shop"), &outcome(2000, false));
    let text = render(&samples);
    assert!(text.contains("lifeboat_drill_last_success_timestamp_seconds{dataset=\"shop\"} 0\n"), "{text}");
    assert!(!text.contains("restore_duration"), "nothing was measured: {text}");
}

#[test]
fn other_datasets_keep_their_values_and_dropped_objectives_go() {
    let mut samples = Samples::new();
    update(&mut samples, &name("shop"), &outcome(1000, true));
    let before = render(&samples);
    let mut samples = parse(&before).unwrap();
    let without = Outcome { objectives: Some(Objectives::default()), ..outcome(2000, true) };
    update(&mut samples, &name("other"), &outcome(2000, true));
    update(&mut samples, &name("other"), &without);
    let text = render(&samples);
    for line in before.lines() {
        assert!(text.lines().any(|found| found == line), "{line} was lost");
    }
    assert!(!text.contains("lifeboat_objective_seconds{dataset=\"other\""), "{text}");
}

#[test]
fn what_is_due_is_told_until_a_drill_has_ended() {
    let place = tempfile::tempdir().unwrap();
    let file = Textfile::open(&place.path().join("drill.prom")).unwrap();
    let told = |family: &str| {
        let text = std::fs::read_to_string(&file.0).unwrap();
        let line = text.lines().find(|line| line.starts_with(family)).map(str::to_owned);
        line.and_then(|line| Some(line.rsplit_once(' ')?.1.to_owned()))
    };
    let since = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
    file.note_due(&name("shop"), Some(since), Duration::from_secs(604_800)).unwrap();
    assert_eq!(told(DUE_SINCE).unwrap(), "1795000000.000");
    assert_eq!(told(INTERVAL).unwrap(), "604800.000");
    assert_eq!(told(LAST_SUCCESS), None, "no drill has ended yet, so none has failed");
    file.note_group_due(&name("shop"), Some(since), Duration::from_secs(60)).unwrap();
    file.record(&name("shop"), &outcome(1_795_000_900, false)).unwrap();
    assert_eq!(told(GROUP_DUE_SINCE).unwrap(), "1795000000.000", "a member is not the group");
    let ended = GroupOutcome { ended: since, passed: false, failed_members: 0, references: None };
    file.record_group(&name("shop"), &ended).unwrap();
    assert_eq!((told(GROUP_DUE_SINCE).unwrap(), told(GROUP_INTERVAL).unwrap()), ("0.000".into(), "60.000".into()));
    assert_eq!((told(DUE_SINCE).unwrap(), told(LAST_SUCCESS).unwrap()), ("0.000".to_owned(), "0".to_owned()));
}

#[test]
fn a_group_tells_what_dangles_apart_from_what_it_could_not_restore() {
    let reference = |of: &str, dangling: u64, error: Option<&str>| ReferenceResult {
        name: name(of),
        to: name("files"),
        checked: 10,
        without_value: 0,
        dangling,
        at_most: 1,
        at_least: 0,
        first: Vec::new(),
        error: error.map(str::to_owned),
        error_class: None,
        error_hint: None,
    };
    let ended = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
    let mut samples = Samples::new();
    let mut tell = |failed_members, references: Option<&[ReferenceResult]>| {
        let passed = failed_members == 0 && references.is_some_and(|all| all.iter().all(ReferenceResult::passed));
        update_group(&mut samples, &name("shop"), &GroupOutcome { ended, passed, failed_members, references });
        render(&samples)
    };
    let failed = |count: usize| format!("lifeboat_group_drill_failed_parts{{group=\"shop\"}} {count}\n");
    let good = tell(0, Some(&[reference("a", 0, None), reference("gone", 1, None)]));
    assert!(good.contains(&failed(0)), "{good}");
    let dangles = tell(0, Some(&[reference("a", 3, None)]));
    assert!(dangles.contains(&failed(0)), "{dangles}");
    let too_few = ReferenceResult { checked: 0, at_least: 1, ..reference("a", 0, None) };
    let empty = tell(0, Some(&[too_few]));
    assert!(empty.contains(&failed(1)), "{empty}");
    let told = tell(1, Some(&[reference("a", 3, None), reference("b", 0, Some("it was not loaded"))]));
    assert!(told.contains(&failed(2)), "{told}");
    for line in [
        "lifeboat_group_drill_last_success_timestamp_seconds{group=\"shop\"} 1795000000.000",
        "lifeboat_group_drill_last_status{group=\"shop\"} 0",
        "lifeboat_group_dangling_references{group=\"shop\",reference=\"a\"} 3",
        "lifeboat_group_allowed_dangling_references{group=\"shop\",reference=\"b\"} 1",
    ] {
        assert!(told.lines().any(|found| found == line), "{line} is not in\n{told}");
    }
    assert!(!told.contains("gone") && !told.contains("dangling_references{group=\"shop\",reference=\"b\"} 0"));
    // A member that cannot be restored is not hidden behind what dangled before.
    let hidden = tell(1, Some(&[reference("a", 0, Some("shop-db was not loaded"))]));
    assert!(!hidden.contains("dangling_references{group=\"shop\",reference=\"a\"} 3"), "{hidden}");
    assert!(hidden.contains(&failed(2)), "{hidden}");
    let none = tell(0, None);
    assert!(none.contains(&failed(1)) && !none.contains("reference="), "{none}");
    assert!(parse(&told).is_some());
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("raid.prom");
    std::fs::write(&path, "node_md_disks{device=\"md0\"} 2\n").unwrap();
    assert!(Textfile::open(&path).is_err());
    assert!(Textfile::open(&place.path().join("missing/drill.prom")).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "node_md_disks{device=\"md0\"} 2\n");
}
