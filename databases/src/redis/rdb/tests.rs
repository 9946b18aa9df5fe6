//! Files of real servers in `given/`, of Redis 6.2, 7.0 and 7.4 and of Valkey 8.1 (`v11`) and 9.1
//! (`v80`): the same data in every encoding, and what is made of them.
//!
//! `v9` was written by Redis 6.2. Servers of other versions and settings loaded it and saved it
//! again: `…-wide` without packed values, `…-plain` without compression. `v6` was put together by
//! hand, as no server at hand writes such forms, and was loaded and saved by 7.0 as `v6-again`.
#![allow(clippy::unwrap_used)]

use super::*;

const V9: &[u8] = include_bytes!("given/v9.rdb");
const V10: &[u8] = include_bytes!("given/v10.rdb");
const V12: &[u8] = include_bytes!("given/v12.rdb");
const V80: &[u8] = include_bytes!("given/v80.rdb");
/// A hash of which two fields expire, another hash, and a library of functions.
const VALKEY_FIELDS: &[u8] = include_bytes!("given/v80-fields.rdb");
const FUNCTIONS: &[u8] = include_bytes!("given/v10-functions.rdb");
const FIELDS: &[u8] = include_bytes!("given/v12-fields.rdb");
const V6: &[u8] = include_bytes!("given/v6.rdb");
const KEY: ProofKey = [7; 32];

fn digest_like(file: &[u8], like: Option<u32>) -> Result<RdbDigest> {
    digest(file, &KEY, 0, like)
}

fn digested(file: &[u8]) -> RdbDigest {
    digest_like(file, None).unwrap()
}

/// Whether both hold the same, as far as the first knows.
fn same(stored: &[u8], again: &[u8]) -> bool {
    let stored = digested(stored);
    let again = digest_like(again, Some(stored.version)).unwrap();
    stored.keys() == again.keys()
        && stored.expiries() == again.expiries()
        && stored.functions() == again.functions()
        && stored.key_counts() == again.key_counts()
}

/// The file with a right checksum.
fn checked(mut file: Vec<u8>) -> Vec<u8> {
    let end = file.len() - 8;
    let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Redis, &file[..end]);
    file[end..].copy_from_slice(&checksum.to_le_bytes());
    file
}

/// The file with `to` in place of `from`, which it holds once.
fn replaced(file: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut found = file.windows(from.len()).enumerate().filter(|(_, window)| *window == from);
    let (at, _) = found.next().unwrap();
    assert!(found.next().is_none(), "{from:?} is there twice");
    checked([&file[..at], to, &file[at + from.len()..]].concat())
}

/// A file of version 12 with this between its beginning and its end.
fn made(content: &[u8]) -> Vec<u8> {
    begun(b"REDIS0012", content)
}

/// A file that begins so, with this before its end.
fn begun(begin: &[u8], content: &[u8]) -> Vec<u8> {
    checked([begin, content, b"\xff", &[0; 8]].concat())
}

fn said(file: &[u8]) -> String {
    digest_like(file, None).unwrap_err().chain()
}

#[test]
fn every_encoding_of_the_same_data_has_one_digest() {
    for (stored, again) in [
        (V9, &include_bytes!("given/v9-wide.rdb")[..]),
        (V9, V10),
        (V9, include_bytes!("given/v10-wide.rdb")),
        (V10, include_bytes!("given/v10-wide.rdb")),
        (V9, V12),
        (V10, V12),
        (V12, include_bytes!("given/v12-plain.rdb")),
        (V9, include_bytes!("given/v11.rdb")),
        (V10, V80),
        (include_bytes!("given/v11.rdb"), V80),
        (V6, include_bytes!("given/v6-again.rdb")),
        (FIELDS, include_bytes!("given/v12-fields-wide.rdb")),
        (include_bytes!("given/v10-plain-nodes.rdb"), include_bytes!("given/v10-packed-nodes.rdb")),
    ] {
        assert!(same(stored, again), "{:#?}\n{:#?}", digested(stored).keys(), digested(again).keys());
    }
    assert!(!same(V9, V6) && !same(V9, FUNCTIONS) && !same(FIELDS, FUNCTIONS));
}

#[test]
fn what_a_file_holds_is_counted() {
    let v9 = digested(V9);
    let counts: Vec<_> = v9.key_counts().into_iter().collect();
    assert_eq!(counts, [(0, 46), (3, 1), (15, 1)]);
    assert_eq!((v9.version, v9.is_checked, v9.key_count(), v9.highest_database), (9, true, 48, 15));
    let titles: Vec<_> = v9.keys().keys().cloned().collect();
    for title in ["strings", "lists", "sets", "sorted sets", "hashes", "streams"] {
        assert!(titles.contains(&format!("{title} in database 0")), "{titles:?}");
    }
    assert_eq!(v9.expiries()["keys in database 0"].count, 4);
    // `later` is the first to expire.
    for (now, expired) in [(4_102_444_799_999, 1), (4_102_444_800_000, 2), (i64::MAX, 4)] {
        assert_eq!(digest(V9, &KEY, now, None).unwrap().expired, expired, "{now}");
    }
    assert_eq!(digested(FUNCTIONS).functions().count, 1);
    assert!(!digested(include_bytes!("given/v10-unchecked.rdb")).is_checked);
    assert_eq!(digested(include_bytes!("given/v10-empty.rdb")).key_count(), 0);
}

#[test]
fn each_difference_is_seen() {
    let v6 = digested(V6);
    for (from, to, title) in [
        (&b"plain list\x03\x01a"[..], &b"plain list\x03\x01b"[..], "lists"),
        (b"\x01a\xc0\x07\x00", b"\x01a\x00\xc0\x07", "lists"),
        (b"\x03foo\x03\x00bar", b"\x03foo\x03\x00baz", "hashes"),
        (b"\x03foo\x03\x00bar", b"\x03fop\x03\x00bar", "hashes"),
        (b"\x01a\x031.5", b"\x01a\x031.6", "sorted sets"),
        (b"\x01b\xff\x01c\xfe", b"\x01b\xfe\x01c\xff", "sorted sets"),
        (b"\x06zlhash", b"\x06zlhasi", "hashes"),
    ] {
        let changed = digested(&replaced(V6, from, to));
        let differing: Vec<_> =
            v6.keys().into_iter().filter(|(title, keys)| changed.keys().get(title) != Some(keys)).collect();
        assert_eq!(differing.len(), 1, "{differing:?}");
        assert_eq!(differing[0].0, format!("{title} in database 0"));
        assert_eq!(changed.expiries(), v6.expiries());
    }
    let later = 2_000_000_000_i32.to_le_bytes();
    let changed = digested(&replaced(V6, &later, &2_000_000_001_i32.to_le_bytes()));
    assert!(changed.keys() == v6.keys() && changed.expiries() != v6.expiries());
    // A field that expires, in a packed hash: its time is one of six bytes.
    let time = &4_102_444_900_123_u64.to_le_bytes()[..6];
    let at = FIELDS.windows(6).position(|window| window == time).unwrap();
    let mut changed = FIELDS.to_vec();
    changed[at] ^= 1;
    assert!(!same(FIELDS, &checked(changed)));
}

/// Each bit counts: for the checksum, and for whoever makes it right again.
#[test]
fn a_file_that_is_cut_or_changed_is_refused() {
    for file in [V6, FUNCTIONS, FIELDS, V10, VALKEY_FIELDS, V80] {
        let step = if file.len() > 1000 { 97 } else { 1 };
        for cut in (0..file.len()).step_by(step) {
            assert!(digest_like(&file[..cut], None).is_err(), "cut at {cut}");
        }
        for at in (0..file.len()).step_by(step) {
            let mut changed = file.to_vec();
            changed[at] ^= 0x10;
            assert!(digest_like(&changed, None).is_err(), "changed at {at}");
        }
        let more = [file, b"\0"].concat();
        assert!(said(&more).contains("behind its end"), "{}", said(&more));
    }
}

/// With a right checksum the reader meets all that a liar can write. It must end without a panic.
#[test]
fn lies_with_a_right_checksum_do_no_harm() {
    let (mut refused, mut read) = (0, 0);
    for file in [V6, FUNCTIONS, FIELDS, V9, V12, VALKEY_FIELDS, V80] {
        let step = if file.len() > 1000 { 127 } else { 1 };
        for at in (9..file.len() - 8).step_by(step) {
            for change in [0x01, 0x80, 0xff] {
                let mut changed = file.to_vec();
                changed[at] ^= change;
                match digest_like(&checked(changed), None) {
                    Ok(_) => read += 1,
                    Err(_) => refused += 1,
                }
            }
        }
    }
    assert!(refused > 500 && read > 100, "{refused} {read}");
}

/// A liar lets many entries have the fields of the first one, and gives these a long name.
#[test]
#[allow(clippy::disallowed_methods, reason = "it tells how long this takes")]
fn a_long_name_of_a_field_is_read_once_and_not_for_each_entry() {
    const ENTRIES: u32 = 200_000;
    let name = [b'n'; 1 << 20];
    // The entries of a listpack that are numbers below 128, each with its length behind it.
    let numbers = |numbers: &[u8]| numbers.iter().flat_map(|number| [*number, 1]).collect::<Vec<u8>>();
    // A number of 24 bits.
    let many = [&[0xf2][..], &ENTRIES.to_le_bytes()[..3], &[4]].concat();
    let long = [&[0xf0][..], &(name.len() as u32).to_le_bytes(), &name, &[64, 0x80, 0x85]].concat();
    // How many live and are deleted, how many fields, the name, the end; then each with the same
    // fields, the first one's time, its value, and how many numbers it has.
    let master = [many, numbers(&[0, 1]), long, numbers(&[0])].concat();
    let entries = numbers(&[2, 0, 0, 7, 4]).repeat(ENTRIES as usize);
    let total = (6 + master.len() + entries.len() + 1) as u32;
    let pack = [&total.to_le_bytes()[..], &[0xff; 2], &master, &entries, &[0xff]].concat();
    let length = |bytes: u32| [&[0x80][..], &bytes.to_be_bytes()].concat();
    let node = [&[1, 16][..], &[0; 15], &[1], &length(total), &pack].concat();
    let rest = [length(ENTRIES), vec![0, 1, 0, 1, 0, 0], length(ENTRIES), vec![0]].concat();
    let began = tokio::time::Instant::now();
    let digest = digested(&made(&[&b"\x15\x01k"[..], &node, &rest].concat()));
    assert_eq!(digest.key_count(), 1);
    // Hashed for each entry, it would be 200 GB.
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    // The module type `ReJSON-RL`, encoding version 3.
    let id = b"ReJSON-RL".iter().fold(0_u64, |id, letter| {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        id << 6 | letters.iter().position(|it| it == letter).unwrap() as u64
    }) << 10
        | 3;
    let id = [&[0x81][..], &id.to_be_bytes()].concat();
    for (content, named) in [
        ([b"\x07\x01k", &id[..]].concat(), "module type `ReJSON-RL`"),
        ([b"\x06\x01k", &id[..]].concat(), "module type `ReJSON-RL`"),
        ([b"\xf7", &id[..]].concat(), "module type `ReJSON-RL`"),
        (b"\xf6\x01x".to_vec(), "release candidate"),
        (b"\x08\x01k\x01v".to_vec(), "unknown type 8"),
        (b"\x16\x01k\x01v".to_vec(), "release candidate of Redis 7.4"),
        (b"\x63\x01k\x01v".to_vec(), "unknown type 99"),
        (b"\xfe\x80\x00\x00\x40\x00".to_vec(), "database 16384"),
        (b"\xfc\0\0\0\0\0\0\0\0".to_vec(), "an expiry has no key"),
        (b"\xfc\0\0\0\0\0\0\0\0\xfe\x00".to_vec(), "an expiry has no key"),
    ] {
        assert!(said(&made(&content)).contains(named), "{}", said(&made(&content)));
    }
    for (begin, named) in [
        (&b"REDIS0013"[..], "version 13"),
        (b"REDIS0004", "version 4"),
        (b"REDIS0080", "version 80"),
        (b"VALKEY081", "version 81"),
        (b"VALKEY079", "version 79"),
        (b"VALKEY011", "version 11"),
        (b"VALKEY08x", "does not begin"),
        (b"VALKEx080", "does not begin"),
        (b"REDIS00x2", "does not begin"),
        (b"REDIS+012", "does not begin"),
        (b"SQLite fo", "does not begin"),
    ] {
        let file = checked([begin, &made(b"")[9..]].concat());
        assert!(said(&file).contains(named), "{}", said(&file));
    }
    assert!(digest_like(&made(b"\x00\x01k\x01v"), None).is_ok());
}

/// By the same numbers Redis and Valkey mean different forms.
#[test]
fn what_only_the_other_product_writes_is_refused() {
    let expiring = b"\x16\x01k\x01\x01f\x01v\x00\x01\0\0\0\0\0\0";
    assert!(digest_like(&begun(b"VALKEY080", expiring), None).is_ok());
    for begin in [b"REDIS0011", b"REDIS0012"] {
        assert!(said(&begun(begin, expiring)).contains("release candidate of Redis 7.4"));
    }
    for (content, named) in [
        (&b"\x17\x01k\x01v"[..], "unknown type 23"),
        (b"\x18\x01k\x01v", "unknown type 24"),
        (b"\x19\x01k\x01v", "unknown type 25"),
        (b"\xf2\x01k\x01v", "unknown type 242"),
        (b"\xf3\x01k\x00", "slots of the cluster were moved"),
    ] {
        let file = begun(b"VALKEY080", content);
        assert!(said(&file).contains(named), "{}", said(&file));
    }
    assert!(said(&made(b"\xf3\x01k\x00")).contains("unknown type 243"));
}

/// Valkey writes the time of each field behind its value, and -1 for one that stays.
#[test]
fn each_field_of_valkey_counts_with_its_time() {
    let digest = digested(VALKEY_FIELDS);
    assert_eq!((digest.version, digest.key_count(), digest.functions().count), (80, 2, 1));
    for (from, to) in [
        (&4_102_444_800_123_i64.to_le_bytes(), &4_102_444_800_124_i64.to_le_bytes()),
        (&4_102_444_800_123_i64.to_le_bytes(), &(-1_i64).to_le_bytes()),
        (&(-1_i64).to_le_bytes(), &0_i64.to_le_bytes()),
        (&(-1_i64).to_le_bytes(), &4_102_444_800_124_i64.to_le_bytes()),
    ] {
        let changed = digested(&replaced(VALKEY_FIELDS, from, to));
        let [stored, again] = [&digest, &changed].map(|of| of.keys()["hashes in database 0"]);
        assert!(stored != again && stored.count == 2 && digest.expiries() == changed.expiries(), "{from:?} {to:?}");
    }
    // Times that two fields exchange differ, too.
    let at = |time: i64| VALKEY_FIELDS.windows(8).position(|window| window == time.to_le_bytes()).unwrap();
    let (soon, late) = (at(4_102_444_800_123), at(4_102_444_900_123));
    let mut exchanged = VALKEY_FIELDS.to_vec();
    (0..8).for_each(|byte| exchanged.swap(soon + byte, late + byte));
    assert!(!same(VALKEY_FIELDS, &checked(exchanged)));
    let never = replaced(VALKEY_FIELDS, &(-1_i64).to_le_bytes(), &(-2_i64).to_le_bytes());
    assert!(said(&never).contains("expires at no time"), "{}", said(&never));
    // A hash that says that it has more fields than the file has bytes costs no memory.
    let many = begun(b"VALKEY080", b"\x16\x01k\x81\x7f\xff\xff\xff\xff\xff\xff\xff");
    assert!(said(&many).contains("damaged"), "{}", said(&many));
    let empty = digested(&begun(b"VALKEY080", b"\x16\x01k\x00"));
    assert_eq!((empty.key_count(), empty.empty), (0, 1));
}

/// A server takes both zeros for one score, and loads no key without an element.
#[test]
fn what_is_the_same_to_a_server_is_the_same_here() {
    let zset = |score: f64| made(&[&b"\x05\x01k\x01\x01m"[..], &score.to_le_bytes()].concat());
    assert!(same(&zset(0.0), &zset(-0.0)) && !same(&zset(0.0), &zset(5e-324)));
    for empty in [&b"\x01\x01e\x00"[..], b"\x02\x01e\x00", b"\x04\x01e\x00", b"\x05\x01e\x00", b"\x12\x01e\x00"] {
        let digest = digested(&made(&[empty, b"\x00\x01k\x01v"].concat()));
        assert_eq!((digest.key_count(), digest.empty), (1, 1), "{empty:x?}");
    }
}

/// What another reader says when it fails is not the file's fault, and keeps its class.
#[test]
fn a_reader_that_fails_keeps_its_class() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other(Error::storage("the replica is gone").hint("wait")))
        }
    }
    let error = digest(b"REDIS0012".chain(Failing), &KEY, 0, None).unwrap_err();
    assert_eq!((error.class(), error.hint_text()), (lifeboat_base::Class::Storage, Some("wait")));
}
