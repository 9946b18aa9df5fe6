use super::*;
use crate::extents::OLDER;

fn manifest(extents: &[Extent], length: u64) -> Result<Manifest> {
    let extents = Extents::of(extents.iter().copied())?;
    let stream = |name: &str| StreamEntry {
        name: name.to_owned(),
        length,
        blake3: Digest::of(b""),
        exit: 0,
        extents: extents.bytes().clone(),
        map: None,
    };
    let pack = |name: &[u8], content| PackRef { id: Digest::of(name), size: 100, content, generation: 1 };
    Ok(Manifest {
        format: Format::Two,
        requires: Requirements::default(),
        vault: "v".to_owned(),
        dataset: "shop".parse()?,
        snapshot: "20261123T183244123Z-9f2c81aa".parse()?,
        sequence: 1,
        previous: None,
        host: "db1".parse()?,
        started: DateTime::UNIX_EPOCH,
        finished: DateTime::UNIX_EPOCH,
        group: None,
        source: SourceFacts::default(),
        packs: vec![pack(b"a", 1000), pack(b"b", 50)],
        streams: vec![stream("globals")],
        accounting: Accounting::default(),
    })
}

fn parse(manifest: &Manifest, vault: &str) -> Result<Manifest> {
    Manifest::parse(manifest.to_plaintext()?, vault, &"shop".parse()?, &"20261123T183244123Z-9f2c81aa".parse()?)
}

/// All extents that it has.
fn extents(manifest: &Manifest) -> Result<Vec<Extent>> {
    manifest.check_extents()?;
    let stream = &manifest.streams[0];
    let mut all: Vec<Extent> = manifest.extents(stream, &manifest.contents())?.iter().collect();
    if let Some(map) = &stream.map {
        all.extend(manifest.map_extents(map)?.iter().map(|(_, extent)| extent));
    }
    Ok(all)
}

/// The rule of which a reader of `changed` complains.
fn broken(change: impl FnOnce(&mut Manifest)) -> Result<Option<String>> {
    let mut changed = manifest(&[Extent { pack: 1, offset: 0, length: 50 }], 50)?;
    change(&mut changed);
    Ok(parse(&changed, "v").err().map(|error| error.chain()))
}

#[test]
fn comes_back_with_its_extents() -> Result<()> {
    let extents = [Extent { pack: 0, offset: 0, length: 1000 }, Extent { pack: 1, offset: 5, length: 45 }];
    let manifest = manifest(&extents, 1045)?;
    assert_eq!(manifest.to_plaintext()?.len(), 64 << 10);
    assert_eq!(parse(&manifest, "v")?, manifest);
    assert_eq!(self::extents(&manifest)?, extents);
    Ok(())
}

#[test]
fn stock_tools_show_its_json() -> Result<()> {
    let plaintext = manifest(&[Extent { pack: 1, offset: 5, length: 45 }], 45)?.to_plaintext()?;
    let shown = crate::frames::decompress_document(&plaintext[..], 0, 1 << 20)?;
    let line = shown.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    assert_eq!(json["packs"][1], serde_json::json!([Digest::of(b"b"), 100, 50, 1]));
    assert!(json["streams"][0]["extents"].is_u64());
    Ok(())
}

#[test]
fn refuses_extents_that_it_has_no_pack_for() -> Result<()> {
    let beyond = Extent { pack: 1, offset: 5, length: 46 };
    assert!(extents(&manifest(&[beyond], 46)?).is_err());
    Ok(())
}

#[test]
fn refuses_an_older_stream_without_a_map() -> Result<()> {
    let mut mapped = manifest(&[Extent { pack: OLDER, offset: 5, length: 45 }], 45)?;
    assert!(extents(&mapped).is_err(), "no map");
    for (covers, good) in [(50, true), (49, false)] {
        let place = MapPlace::Packs(vec![1]);
        mapped.streams[0].map = Some(MapEntry { covers, blake3: Digest::of(b""), place });
        assert_eq!(extents(&parse(&mapped, "v")?).is_ok(), good, "{covers}");
    }
    Ok(())
}

#[test]
fn a_map_lies_in_packs_that_there_are() -> Result<()> {
    let map = |packs: &[u32], covers| {
        let place = MapPlace::Packs(packs.to_vec());
        broken(|manifest| manifest.streams[0].map = Some(MapEntry { covers, blake3: Digest::of(b""), place }))
    };
    assert_eq!(map(&[1, 0], 50)?, None);
    for (packs, covers) in [(&[][..], 50), (&[2], 50), (&[1, 1], 50), (&[1], 0), (&[u32::MAX - 1], 50)] {
        assert!(map(packs, covers)?.is_some_and(|why| why.contains("map")), "{packs:?}");
    }
    Ok(())
}

#[test]
fn a_map_is_as_long_as_format_md_allows() -> Result<()> {
    for (packs, good) in [(8, true), (9, false)] {
        let mut manifest = manifest(&[Extent { pack: 1, offset: 0, length: 50 }], 50)?;
        let pack = |n: u8| PackRef { id: Digest::of(&[n]), size: 100, content: 32 << 20, generation: 1 };
        manifest.packs.extend((0..packs).map(pack));
        let place = MapPlace::Packs((2..2 + u32::from(packs)).collect());
        manifest.streams[0].map = Some(MapEntry { covers: 50, blake3: Digest::of(b""), place });
        assert_eq!(parse(&manifest, "v").is_ok(), good, "{packs} packs of 32 MiB");
    }
    Ok(())
}

#[test]
fn refuses_a_manifest_of_another_vault() -> Result<()> {
    assert!(parse(&manifest(&[], 0)?, "w").is_err());
    Ok(())
}

#[test]
fn each_broken_rule_is_told() -> Result<()> {
    let before =
        |snapshot: &str| Ok::<_, Error>(Previous { snapshot: snapshot.parse()?, blake3: Some(Digest::of(b"")) });
    let (earlier, own) = (before("20261123T183244122Z-9f2c81aa")?, before("20261123T183244123Z-9f2c81aa")?);
    assert_eq!(broken(|_| {})?, None);
    assert_eq!(broken(|m| (m.sequence, m.previous) = (2, Some(earlier.clone())))?, None);
    for (why, broken) in [
        ("sequence", broken(|m| m.sequence = 0)?),
        ("sequence", broken(|m| m.sequence = 2)?),
        ("sequence", broken(|m| m.previous = Some(earlier))?),
        ("sequence", broken(|m| (m.sequence, m.previous) = (2, Some(own)))?),
        ("pack twice", broken(|m| m.packs[0] = m.packs[1])?),
        ("cannot be", broken(|m| m.packs[0].content = 0)?),
        ("cannot be", broken(|m| m.packs[0].content = (32 << 20) + 1)?),
        ("cannot be", broken(|m| m.packs[0].size = (64 << 20) + 1)?),
        ("cannot be", broken(|m| m.packs[0].generation = 0)?),
        ("name", broken(|m| m.streams[0].name = "../x".to_owned())?),
        ("name", broken(|m| m.streams.push(m.streams[0].clone()))?),
        ("requires `holograms`", broken(|m| m.requires.0.push("holograms".to_owned()))?),
    ] {
        assert!(broken.as_ref().is_some_and(|told| told.contains(why)), "{why}: {broken:?}");
    }
    Ok(())
}

#[test]
fn as_many_packs_and_streams_as_format_md_allows() -> Result<()> {
    let many = |packs: u32, streams: u32| {
        let mut manifest = manifest(&[Extent { pack: 1, offset: 0, length: 50 }], 50)?;
        let (pack, stream) = (manifest.packs[1], manifest.streams.remove(0));
        manifest.packs.extend((2..packs).map(|n| PackRef { id: Digest::of(&n.to_le_bytes()), ..pack }));
        manifest.streams.extend((0..streams).map(|n| StreamEntry { name: n.to_string(), ..stream.clone() }));
        Ok::<_, Error>(manifest.broken_rule())
    };
    assert_eq!(many(1 << 20, 1)?, None);
    assert_eq!(many(2, 131_072)?, None);
    assert_eq!(many((1 << 20) + 1, 1)?, Some("it names too many packs"));
    assert_eq!(many(2, 131_073)?, Some("it has too many streams"));
    Ok(())
}

#[test]
fn what_is_not_known_is_overlooked_and_what_is_required_is_named() -> Result<()> {
    let mut newer = manifest(&[Extent { pack: 1, offset: 5, length: 45 }], 45)?;
    newer.requires.0.push("holograms".to_owned());
    let (dataset, snapshot) = (newer.dataset.clone(), newer.snapshot.clone());
    let head = Manifest::parse_head(newer.to_plaintext()?, "v", &dataset, &snapshot)?;
    assert_eq!((head.sequence, head.requires.unknown()), (1, Some("holograms")));
    assert!(Manifest::parse_head(newer.to_plaintext()?, "w", &dataset, &snapshot).is_err());
    Ok(())
}

#[test]
fn tells_the_moment_of_its_group_which_may_be_missing_and_must_be_possible() -> Result<()> {
    let group = |members: &[&str]| -> Result<GroupMoment> {
        Ok(GroupMoment {
            name: "web".parse()?,
            members: members.iter().map(|member| member.parse()).collect::<Result<_>>()?,
            moment: "20261123T183244000Z-00000001".parse()?,
            at: DateTime::UNIX_EPOCH,
        })
    };
    let grouped = Manifest { group: Some(group(&["shop", "files"])?), ..manifest(&[], 0)? };
    assert_eq!(parse(&grouped, "v")?, grouped);
    assert!(!serde_json::to_string(&manifest(&[], 0)?).unwrap_or_default().contains("group"));
    for members in [&["shop"][..], &["shop", "shop"], &["db", "files"]] {
        let group = group(members)?;
        let said = broken(|manifest| manifest.group = Some(group))?;
        assert!(said.as_ref().is_some_and(|said| said.contains("its group cannot be")), "{members:?}: {said:?}");
    }
    let many: Vec<String> = (0..=MAX_GROUP_MEMBERS).map(|number| format!("m{number}")).collect();
    let many = group(&many.iter().map(String::as_str).chain(["shop"]).collect::<Vec<_>>())?;
    assert!(broken(|manifest| manifest.group = Some(many))?.is_some());
    Ok(())
}
