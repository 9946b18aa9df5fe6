//! Records of logs: what is parsed for one place is refused for any other, and means the same when
//! it is written again.

use lifeboat_format::layout;
use lifeboat_format::log::{LogEvent, LogHead, LogName, LogRecord, MAX_LOG_RECORD_BYTES, split_record};
use serde_json::Value;

/// Takes `data` for a record as it is stored, of the place that it names itself.
pub fn drive(data: &[u8]) -> bool {
    let Some((line, signature)) = split_record(data) else { return false };
    assert!(line.len() + signature.len() == data.len() && data.len() <= MAX_LOG_RECORD_BYTES, "not all of it");
    let Ok(told) = serde_json::from_slice::<Value>(line) else { return false };
    let (Some(vault), Some(kind), Some(name), Some(number)) =
        (told["vault"].as_str(), told["kind"].as_str(), told["principal"].as_str(), told["number"].as_u64())
    else {
        return false;
    };
    let Ok(log) = format!("{kind}/{name}").parse::<LogName>() else { return false };
    let Ok(record) = LogRecord::of_line(line, vault, &log, number, "the input") else { return false };

    let key = layout::log_record(&log, number);
    assert_eq!(layout::parse_log_record(&key), Some((log.clone(), number)), "no key names it");
    let refused = |vault: &str, log: &LogName, number| LogRecord::of_line(line, vault, log, number, "it").is_err();
    assert!(refused(&format!("{vault}0"), &log, number), "taken for another vault's");
    assert!(refused(vault, &log, number + 1), "taken for another number");
    let other = if name == "a" { "b" } else { "a" };
    assert!(format!("{kind}/{other}").parse().is_ok_and(|other| refused(vault, &other, number)), "another's");
    for head in &record.heads {
        assert_eq!(head.to_string().parse::<LogHead>().ok().as_ref(), Some(head), "no note tells it");
        assert!(head.log() != log, "it names its own log");
    }
    // What a newer program wrote is not written again.
    if record.event != LogEvent::Unknown
        && let Ok(written) = record.to_line()
    {
        let again = LogRecord::of_line(&written, vault, &log, number, "the input").ok();
        assert_eq!(again, Some(record), "written again it is another one");
    }
    true
}
