//! Good inputs for the fuzz targets: what lies in a small vault, opened as its owner opens it, and
//! what an operator writes.

use std::io::Cursor;
use std::path::Path;

use age::Identity;
use chrono::{DateTime, Utc};
use lifeboat_engine::base::secret::Secret;
use lifeboat_engine::clock::{Clock, SharedClock};
use lifeboat_engine::config::{Objectives, ProofLevel};
use lifeboat_engine::drill::{Drill, publish};
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::keys::{SharedIdentity, parse_identities};
use lifeboat_engine::restore::Selector;
use lifeboat_engine::root::{GrantedMachine, NewDrillHost, first_root};
use lifeboat_engine::stages::decrypt;
use lifeboat_engine::worker::WorkerPlace;
use lifeboat_format::extents::{Bounds, Extent, Extents, OLDER};
use lifeboat_format::id::{Digest, PackId, SnapshotId};
use lifeboat_format::info::VaultInfo;
use lifeboat_format::line::OwnerLine;
use lifeboat_format::log::{
    FailedLook, LogEvent, LogHead, LogName, LogRecord, LookedLock, RefusedMark, VetoedMark, WaitingMarks, WardenLook,
};
use lifeboat_format::manifest::{Manifest, MapEntry, MapPlace};
use lifeboat_format::map::StreamMap;
use lifeboat_format::needs::{NeedsBefore, SnapshotNeeds};
use lifeboat_format::requirements::Requirements;
use lifeboat_format::root::{Floors, Pattern};
use lifeboat_format::veto::Veto;
use lifeboat_format::{frames, layout, pack, varint};
use tokio_util::sync::CancellationToken;

use crate::fuzz::given::{configuration, signature};
use crate::fuzz::stored::{extents, manifest as fuzzed_manifest, map, pack as fuzzed_pack};
use crate::tools;
use crate::vault::{DATASET, MemorySource, TestVault, files_below, name};

/// The longest input that a target is given (`scripts/fuzz`).
pub const MAX_INPUT: usize = 64 << 10;
const MAX_PLAIN: usize = 64 << 20;
/// Rows of a table in the vault.
const ROWS: usize = 4000;
/// Rows of a table in the first snapshot of all, whose pack is a short one.
const FEW_ROWS: usize = 300;

/// A good input.
#[derive(Debug)]
pub struct Seed {
    /// Of which target.
    pub target: &'static str,
    /// Tells it from the others of its target.
    pub name: String,
    /// The input.
    pub data: Vec<u8>,
}

/// Makes a vault, and of it some inputs for each target.
///
/// # Panics
/// On any failure, as all of the harness does.
pub async fn seeds() -> Vec<Seed> {
    let vault = vault().await;
    let mut seeds = Seeds::default();
    stored(&vault, &mut seeds);
    given(&vault, &mut seeds);
    seeds.0
}

/// A vault with rows that changed, acts, a mark, a prune record and a drill report.
async fn vault() -> TestVault {
    let mut vault = TestVault::new(1, 1).await;
    let source = |rows: usize, version: usize| MemorySource {
        streams: vec![
            ("table/shop/public/orders".to_owned(), table(rows, version)),
            ("globals".to_owned(), b"CREATE ROLE shop;\n".to_vec()),
        ],
        ..MemorySource::default()
    };
    good(vault.backup(&source(FEW_ROWS, 0)).await);
    vault.config.datasets[0].retention.keep_last = 4;
    for version in 0..4 {
        good(vault.backup(&source(ROWS, version)).await);
    }
    good(vault.sweep().await);
    // The next one is marked, and no more.
    good(vault.backup(&source(ROWS, 1)).await);
    good(vault.prune().await);
    let reader = good(vault.open(vault.owner()).await);
    let mut settings = vault.config.datasets[0].drill.clone();
    settings.level = Some(ProofLevel::Fetched);
    let clock: SharedClock = vault.clock.clone();
    let drill = Drill {
        reader: &reader,
        dataset: &name(DATASET),
        selector: Selector::Latest,
        settings: &settings,
        past: &[],
        base: None,
        objectives: Objectives::default(),
        rehearses_loss: false,
        across: None,
        jobs: 1,
        environment: &tools::environment(),
        // A drill to `fetched` needs none.
        worker: &WorkerPlace::Program("/nonexistent".into()),
        scratch: vault.place.path().join("scratch"),
        clock,
        cancel: CancellationToken::new(),
    };
    let (report, error) = drill.run().await;
    assert!(error.is_none(), "{error:?}");
    good(publish(&reader, &report, &name("drill1"), &good(vault.keys()).signer).await);
    vault
}

/// Rows, some of which are others in each version.
fn table(rows: usize, version: usize) -> Vec<u8> {
    let row = |n: usize| {
        let version = if n * 7919 % 100 < version { version } else { 0 };
        let mixed = (n * 1_000_003 + version * 7_777_777).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        format!("{n}\tcustomer {}\t{mixed:016x}\tstreet {}\t{version}\n", mixed % 9973, mixed % 577)
    };
    (0..rows).map(row).collect::<String>().into_bytes()
}

#[derive(Default)]
struct Seeds(Vec<Seed>);

impl Seeds {
    /// One more, unless it is too long.
    fn add(&mut self, target: &'static str, name: &str, data: impl Into<Vec<u8>>) {
        let data = data.into();
        if data.len() <= MAX_INPUT {
            self.0.push(Seed { target, name: name.replace('/', "-"), data });
        }
    }
}

fn good<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error:?}"))
}

fn open(identities: &[SharedIdentity], ciphertext: &[u8]) -> Vec<u8> {
    good(decrypt(identities.iter().map(|identity| identity.as_ref() as &dyn Identity), ciphertext, MAX_PLAIN))
}

/// The first root of the vault.
fn root_of(vault: &TestVault) -> Vec<u8> {
    let signer = || good(Signer::generate()).public().to_string();
    let owner = OwnerLine { name: name("ann"), recipient: "age1ann".to_owned(), signer: signer() };
    let host = GrantedMachine {
        name: name("db1"),
        signer: signer(),
        operations: "age1db1".to_owned(),
        datasets: vec![Pattern::of(&name(DATASET)), good("eu-*".parse())],
    };
    let drill = NewDrillHost {
        name: name("drill"),
        recipient: "age1drill".to_owned(),
        signer: signer(),
        datasets: vec![Pattern::all()],
    };
    let (id, now) = (&vault.init.vault, vault.clock.now());
    let root = first_root(id, (&[owner], 1), Vec::new(), (vec![host], vec![drill]), Floors::default(), (now, now));
    good(good(root).to_json())
}

/// A record of a log.
fn record_of(vault: &TestVault, own: &str, event: LogEvent) -> Vec<u8> {
    let [own, other]: [LogName; 2] = [own, "hosts/db1"].map(|log| good(log.parse()));
    let head = LogHead { kind: other.kind, name: other.name, number: 3, blake3: Digest::of(b"3") };
    let record = LogRecord {
        requires: Requirements::default(),
        vault: vault.init.vault.clone(),
        kind: own.kind,
        principal: own.name.clone(),
        number: 2,
        previous: Some(Digest::of(b"1")),
        time: vault.clock.now(),
        event,
        why: Some("the disk is broken".to_owned()),
        heads: vec![head],
        acts: Vec::new(),
    };
    signed(good(record.to_line()), &record.vault, &layout::log_record(&own, 2))
}

/// A restore, as an owner records it.
fn restored() -> LogEvent {
    LogEvent::Restore {
        dataset: name(DATASET),
        snapshot: "latest".to_owned(),
        target: "a directory".to_owned(),
        user: "root (uid 0)".to_owned(),
        unrecorded: false,
    }
}

/// A look, as a warden records it.
fn looked(now: DateTime<Utc>) -> LogEvent {
    let (shop, mark, because) = (name(DATASET), SnapshotId::new(now, 7), "the newest of its day".to_owned());
    LogEvent::Warden(WardenLook {
        looked: vec![shop.clone()],
        waiting: vec![WaitingMarks { dataset: shop.clone(), marks: 2, until: now, since: now, delay: 604_800 }],
        refused: vec![RefusedMark { dataset: shop.clone(), mark: mark.clone(), because: because.clone() }],
        vetoed: vec![VetoedMark { dataset: shop.clone(), mark, by: vec![name("ann")] }],
        failed: vec![FailedLook { dataset: shop.clone(), because }],
        locks: vec![LookedLock { dataset: shop, replica: name("r1"), period: 86_400, at_most: None, since: Some(now) }],
    })
}

/// A veto of a mark.
fn veto_of(vault: &TestVault) -> Vec<u8> {
    let veto = Veto {
        requires: Requirements::default(),
        vault: vault.init.vault.clone(),
        dataset: name(DATASET),
        mark: SnapshotId::new(vault.clock.now(), 7),
        blake3: Digest::of(b"a mark"),
        principal: name("ann"),
        time: vault.clock.now(),
        why: "we are sued".to_owned(),
    };
    signed(good(veto.to_line()), &veto.vault, &layout::veto(&veto.dataset, &veto.mark, &veto.principal))
}

/// What a snapshot needs, as a host tells a warden.
fn needs_of(manifest: &Manifest) -> Vec<u8> {
    let mut packs: Vec<_> = manifest.packs.iter().map(|pack| (pack.id, pack.size)).collect();
    packs.sort_unstable();
    packs.dedup_by_key(|(id, _)| *id);
    let (packs, sizes) = packs.into_iter().unzip();
    let needs = SnapshotNeeds {
        requires: Requirements::default(),
        vault: manifest.vault.clone(),
        dataset: manifest.dataset.clone(),
        snapshot: manifest.snapshot.clone(),
        manifest: Digest::of(b"a manifest"),
        sequence: manifest.sequence,
        previous: Some(NeedsBefore { snapshot: SnapshotId::new(manifest.started, 7), blake3: None }),
        started: manifest.started,
        finished: manifest.finished,
        partial: false,
        generations: manifest.generations().into_iter().collect(),
        packs,
        sizes,
    };
    signed(good(needs.to_line()), &needs.vault, &layout::needs(&needs.dataset, &needs.snapshot))
}

/// A line with its signature behind it, by nobody who is known.
fn signed(mut line: Vec<u8>, vault: &str, key: &str) -> Vec<u8> {
    let signature = good(good(Signer::generate()).sign(&line, &layout::trusted_comment(vault, key)));
    line.extend_from_slice(signature.as_bytes());
    line
}

/// What lies in the vault.
fn stored(vault: &TestVault, seeds: &mut Seeds) {
    let root = vault.replica_path(1);
    let read = |key: &str| good(std::fs::read(root.join(key)));
    let keys = files_below(&root);
    let keys: Vec<&str> = keys.iter().filter_map(|file| file.strip_prefix(&root).ok()?.to_str()).collect();
    let shop = name(DATASET);
    let master = vault.master_identities();
    let secrets = open(&master, &read(&layout::keyring_generation(&shop, 1)));
    let owner = good(parse_identities(&Secret::new(secrets.clone()), "the keyring"));
    seeds.add("keyring", "shop-1", secrets);

    seeds.add("root", "first", root_of(vault));
    seeds.add("log", "restore", record_of(vault, "owners/ann", restored()));
    seeds.add("log", "warden", record_of(vault, "wardens/warden1", looked(vault.clock.now())));
    seeds.add("veto", "ann", veto_of(vault));
    let id = SnapshotId::new(vault.clock.now(), 7);
    seeds.add("layout", "needs", layout::needs(&shop, &id));
    seeds.add("layout", "veto", layout::veto(&shop, &id, &name("ann")));

    let folders = [layout::drills(&shop), layout::prunes(&shop), layout::marks(&shop)];
    let mut ids = vec!["shop".to_owned(), "db1".to_owned()];
    for key in keys.iter().filter(|key| !layout::is_signature(key)) {
        let named = folders.iter().find_map(|folder| layout::parse_json(folder, key));
        if let Some(snapshot) = layout::parse_manifest(&shop, key) {
            let plaintext = open(&owner, &read(key));
            let told = good(VaultInfo::parse(&read(layout::VAULT), &name("r1"))).vault;
            let manifest = good(Manifest::parse(plaintext.clone(), &told, &shop, &snapshot));
            seeds.add("document", key, plaintext);
            seeds.add("needs", key, needs_of(&manifest));
            add_manifest(key, &manifest, seeds);
            of_manifest(&snapshot, &manifest, seeds);
            ids.push(snapshot.to_string());
        } else if layout::parse_index(&shop, key).is_some() {
            let plaintext = open(&owner, &read(key));
            seeds.add("index", key, good(frames::take_frame(&plaintext, MAX_PLAIN)).0);
        } else if let Some(id) = layout::parse_pack(&shop, key) {
            let plaintext = open(&owner, &read(key));
            seeds.add("pack", &format!("{id}-unpadded"), without_padding(&plaintext));
            seeds.add("pack", &id.to_string(), plaintext);
            ids.push(id.to_string());
        } else if layout::parse_act(&shop, key).is_some() {
            seeds.add("act", key, read(key));
        } else if named.is_some() || *key == layout::VAULT || key.starts_with(layout::HOSTS) {
            seeds.add("records", key, read(key));
        }
        let is_known = named.is_some() || key.starts_with(layout::DATASETS) || key.starts_with(&layout::keyring(&shop));
        if is_known {
            seeds.add("layout", key, *key);
        }
    }
    seeds.add("ids", "all", ids.join("\n"));
    let mut numbers = Vec::new();
    (0..64).for_each(|bits| varint::put(&mut numbers, u64::MAX >> bits));
    seeds.add("varint", "all", numbers);
}

fn without_padding(plaintext: &[u8]) -> Vec<u8> {
    let entries = good(pack::read_table(&mut Cursor::new(plaintext)));
    let table: usize = entries.iter().map(|entry| entry.frame as usize).sum();
    let length = plaintext[table + 4..].first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
    fuzzed_pack::input(table as u32, &plaintext[..table + 8 + length as usize])
}

fn add_manifest(named: &str, manifest: &Manifest, seeds: &mut Seeds) {
    let extents: Vec<u8> = manifest.streams.iter().flat_map(|stream| stream.extents.to_vec()).collect();
    seeds.add("manifest", named, fuzzed_manifest::input(&good(serde_json::to_vec(manifest)), &extents));
}

/// Its extents; and as they would be some snapshots later, when a map tells of them.
fn of_manifest(snapshot: &SnapshotId, manifest: &Manifest, seeds: &mut Seeds) {
    let packs = manifest.contents();
    let ids: Vec<PackId> = manifest.packs.iter().map(|pack| pack.id).collect();
    for (at, stream) in manifest.streams.iter().enumerate() {
        let header = extents::header(stream.length, &Bounds { packs: packs.clone(), older: 0 });
        let named = format!("{snapshot}-{at}");
        seeds.add("extents", &named, [&header[..], &stream.extents].concat());

        let own = good(manifest.extents(stream, &packs));
        let older = good(StreamMap::of(own.iter(), &ids));
        let half = stream.length / 2;
        let newer = [
            Extent { pack: OLDER, offset: 0, length: half },
            Extent { pack: 0, offset: 0, length: 1 },
            Extent { pack: OLDER, offset: half, length: stream.length - half },
        ];
        let (newer, length) = (good(Extents::of(newer)), stream.length + 1);
        let header = extents::header(length, &Bounds { packs: packs.clone(), older: stream.length });
        seeds.add("extents", &format!("{named}-newer"), [&header[..], newer.bytes()].concat());
        let bytes = older.to_bytes();
        // Packs that the target does not know begin with 0xff.
        if older.packs.iter().all(|pack| pack.0[0] != 0xff) {
            seeds.add("map", &named, map::input(stream.length, &bytes, &header, newer.bytes()));
        }
        // A map lies in a pack; here it is said to lie where there is something else.
        let mut mapped = manifest.clone();
        mapped.streams.truncate(at + 1);
        mapped.streams[at].length = length;
        mapped.streams[at].extents = newer.bytes().clone();
        let place = MapPlace::Packs(vec![0]);
        mapped.streams[at].map = Some(MapEntry { covers: stream.length, blake3: PackId::of(&bytes), place });
        add_manifest(&format!("{named}-mapped"), &mapped, seeds);
    }
}

/// What an operator gives, and what is signed.
fn given(vault: &TestVault, seeds: &mut Seeds) {
    let keys = good(vault.keys());
    let key = layout::prune(&name(DATASET), &SnapshotId::new(vault.clock.now(), 7));
    let (comment, object) = (layout::trusted_comment(&keys.vault, &key), "{\"version\": 1}");
    let signed = good(keys.signer.sign(object.as_bytes(), &comment));
    seeds.add("signature", "object", signature::input(keys.signer.public().as_str(), &comment, object, &signed));
    seeds.add("identities", "master", good(std::fs::read(&vault.master)));
    let recipient = good(vault.keys()).operations.to_public().to_string();
    seeds.add("identities", "recipients", format!("{recipient}\n{recipient}\n"));

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let examples = files_below(&folder).into_iter().filter(|file| file.extension().is_some_and(|end| end == "toml"));
    for file in examples {
        let text = good(std::fs::read_to_string(&file));
        let shown = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let plain = with_directory(&with_lines(&text, |line| (!line.starts_with('#')).then_some(line)));
        seeds.add("configuration", &shown, plain.clone());
        // `#key = value` shows a default.
        let default =
            |line: &str| line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        let all = with_lines(&text, |line| match line.strip_prefix('#') {
            Some(rest) if default(line) => Some(rest),
            Some(_) => None,
            None => Some(line),
        });
        seeds.add("configuration", &format!("{shown}-all"), all);
        let secret = format!("\"credential:{}\"", configuration::PASSWORD);
        for key in ["host_key", "drill_signer"] {
            let text = plain.replacen("[keys]\n", &format!("[keys]\n{key} = {secret}\n"), 1);
            seeds.add("configuration", &format!("{shown}-{key}"), text);
        }
    }
}

/// The lines that `keep` gives, of those that say something.
fn with_lines<'t>(text: &'t str, keep: impl Fn(&'t str) -> Option<&'t str>) -> String {
    text.lines().filter_map(keep).filter(|line| !line.is_empty()).flat_map(|line| [line, "\n"]).collect()
}

/// Key files of this machine must play no part.
fn with_directory(text: &str) -> String {
    text.replace("[keys]\n", "[keys]\ndirectory = \"/nonexistent/keys\"\n")
}
