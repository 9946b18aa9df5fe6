use serde_json::{Value, json};

use super::*;

fn good() -> Value {
    json!({
        "requires": [],
        "vault": "v",
        "kind": "drill-hosts",
        "principal": "drill1",
        "number": 7,
        "previous": "00".repeat(32),
        "time": "2026-11-29T08:00:00Z",
        "event": {
            "what": "restore", "dataset": "shop", "snapshot": "latest", "target": "a directory", "user": "root",
            "unrecorded": false,
        },
        "why": "the disk is broken",
        "heads": [{ "kind": "hosts", "name": "db1", "number": 3, "blake3": "11".repeat(32) }],
        "acts": [{ "dataset": "shop", "number": 9, "blake3": "22".repeat(32) }],
    })
}

fn parse(json: &Value) -> Result<LogRecord> {
    LogRecord::of_line(format!("{json}\n").as_bytes(), "v", &"drill-hosts/drill1".parse()?, 7, "record 7")
}

#[test]
fn comes_back_as_it_was() -> Result<()> {
    let line = parse(&good())?.to_line()?;
    assert_eq!(serde_json::from_slice::<Value>(&line).unwrap_or_default(), good());
    let stored = [line.as_slice(), b"a\nb\n"].concat();
    assert_eq!(split_record(&stored), Some((line.as_slice(), b"a\nb\n".as_slice())));
    let head = format!("hosts/db1=3:{}", "11".repeat(32));
    assert_eq!(head.parse::<LogHead>()?.to_string(), head);
    Ok(())
}

#[test]
fn what_a_newer_program_records_is_read() -> Result<()> {
    let mut changed = good();
    (changed["new"], changed["event"]) = (json!(5), json!({ "what": "song", "tune": [1.5] }));
    assert_eq!(parse(&changed)?.event, LogEvent::Unknown);
    Ok(())
}

#[test]
fn what_a_witness_saw_is_sorted_and_comes_back() -> Result<()> {
    let seen =
        |dataset: &str, snapshot: &str| json!({ "dataset": dataset, "snapshot": snapshot, "blake3": "33".repeat(32) });
    let (early, late) = ("20261129T070000000Z-00000001", "20261129T070000001Z-00000000");
    let look = |looked: Value, snapshots: Value| {
        let mut changed = good();
        changed["event"] = json!({ "what": "witness", "looked": looked, "snapshots": snapshots });
        changed
    };
    let right = look(json!(["a", "b"]), json!([seen("a", late), seen("b", early)]));
    assert_eq!(serde_json::from_slice::<Value>(&parse(&right)?.to_line()?).unwrap_or_default(), right);
    for wrong in [
        look(json!(["b", "a"]), json!([])),
        look(json!(["a", "a"]), json!([])),
        look(json!(["A"]), json!([])),
        look(json!([]), json!([seen("a", late), seen("a", early)])),
        look(json!([]), json!([seen("a", early), seen("a", early)])),
        look(json!([]), json!([["a", early, "33".repeat(32)]])),
        look(json!([]), Value::Null),
    ] {
        assert!(parse(&wrong).is_err(), "{wrong}");
    }
    Ok(())
}

#[test]
fn what_a_warden_found_is_bounded_and_comes_back() -> Result<()> {
    let mark = "20261129T070000000Z-00000001";
    let event = |change: &dyn Fn(&mut Value)| {
        let mut changed = good();
        changed["event"] = json!({
            "what": "warden", "looked": ["shop"],
            "waiting": [{
                "dataset": "shop", "marks": 2, "until": "2026-11-29T09:00:00Z",
                "since": "2026-11-22T09:00:00Z", "delay": 604800,
            }],
            "refused": [{ "dataset": "shop", "mark": mark, "because": "it is the newest" }],
            "vetoed": [{ "dataset": "shop", "mark": mark, "by": ["ann", "bob"] }],
            "failed": [{ "dataset": "wiki", "because": "a list is lost" }],
            "locks": [
                { "dataset": "shop", "replica": "north", "period": 86400, "at_most": 31536000, "since": "2026-11-29T07:00:00Z" },
                { "dataset": "shop", "replica": "south", "period": 86400 },
            ],
        });
        change(&mut changed["event"]);
        changed
    };
    let right = event(&|_| {});
    assert_eq!(serde_json::from_slice::<Value>(&parse(&right)?.to_line()?).unwrap_or_default(), right);
    let many = |list: &'static str, most: usize| {
        move |event: &mut Value| event[list] = json!(vec![event[list][0].clone(); most])
    };
    for (list, most) in [
        ("looked", MAX_LOOKED_DATASETS),
        ("waiting", MAX_LOOKED_DATASETS),
        ("refused", MAX_REFUSED_MARKS),
        ("vetoed", MAX_VETOED_MARKS),
        ("failed", MAX_FAILED_LOOKS),
        ("locks", MAX_LOOKED_LOCKS),
    ] {
        assert!(parse(&event(&many(list, most))).is_ok(), "{list}");
        assert!(parse(&event(&many(list, most + 1))).is_err(), "{list}");
        assert!(parse(&event(&|event| drop(event.as_object_mut().and_then(|event| event.remove(list))))).is_err());
    }
    for field in ["since", "at_most"] {
        assert!(parse(&event(&|event| event["locks"][1][field] = Value::Null)).is_err(), "{field}");
    }
    for field in ["until", "since", "delay"] {
        assert!(parse(&event(&|event| event["waiting"][0][field] = Value::Null)).is_err(), "{field}");
    }
    assert!(parse(&event(&|event| event["vetoed"][0]["by"] = json!(vec!["ann"; MAX_VETOING_PEOPLE + 1]))).is_err());
    assert!(parse(&event(&|event| event["failed"][0]["because"] = json!("x".repeat(1025)))).is_err());
    Ok(())
}

#[test]
fn each_broken_rule_is_refused() {
    let head = |kind: &str, name: &str| json!({ "kind": kind, "name": name, "number": 1, "blake3": "11".repeat(32) });
    let own = head("drill-hosts", "drill1");
    let many: Vec<Value> = (0..=MAX_LOG_HEADS).map(|number| head("hosts", &format!("h{number:04}"))).collect();
    for (field, value, why) in [
        ("requires", json!(["holograms"]), "requires `holograms`"),
        ("vault", json!("w"), "belongs to"),
        ("kind", json!("hosts"), "belongs to"),
        ("kind", json!("kings"), "damaged"),
        ("principal", json!("other"), "belongs to"),
        ("number", json!(8), "belongs to"),
        ("number", json!(0), "damaged"),
        ("previous", Value::Null, "only the first"),
        ("previous", json!("11"), "damaged"),
        ("time", json!("2026-11-29T08:00:00+01:00"), "damaged"),
        ("event", json!("restore"), "damaged"),
        ("event", json!(["restore", "shop"]), "damaged"),
        ("event", json!({ "what": "restore" }), "damaged"),
        ("event", json!({ "dataset": "shop" }), "damaged"),
        ("why", Value::Null, "damaged"),
        ("why", json!("x".repeat(MAX_LOG_TEXT_BYTES + 1)), "damaged"),
        ("heads", Value::Null, "damaged"),
        ("heads", json!([own]), "of other logs"),
        ("heads", json!([head("owners", "a"), head("hosts", "a")]), "sorted"),
        ("heads", json!([head("hosts", "a"), head("hosts", "a")]), "each once"),
        ("heads", json!(many), "damaged"),
        ("acts", json!([{ "dataset": "shop", "number": 0, "blake3": "22".repeat(32) }]), "damaged"),
        ("acts", json!([good()["acts"][0], good()["acts"][0]]), "each once"),
    ] {
        let mut changed = good();
        changed[field] = value.clone();
        let told = parse(&changed).err().map(|error| error.chain()).unwrap_or_default();
        assert!(told.contains(why), "{field} = {value}: {told}");
    }
}
