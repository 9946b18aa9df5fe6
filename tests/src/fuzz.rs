//! What the fuzz targets do with an input (`fuzz/src/`), by the target's name.

#[path = "../../fuzz/src/given/mod.rs"]
pub mod given;
#[path = "../../fuzz/src/stored/mod.rs"]
pub mod stored;

/// Does with an input what a target does; says whether the target's parser took it.
pub type Drive = fn(&[u8]) -> bool;

/// Every target.
pub const TARGETS: [(&str, Drive); 19] = [
    ("act", stored::act::drive),
    ("configuration", given::configuration::drive),
    ("document", stored::document::drive),
    ("extents", stored::extents::drive),
    ("identities", given::identities::drive),
    ("ids", stored::ids::drive),
    ("index", stored::index::drive),
    ("keyring", stored::keyring::drive),
    ("layout", stored::layout::drive),
    ("log", stored::log::drive),
    ("manifest", stored::manifest::drive),
    ("map", stored::map::drive),
    ("needs", stored::needs::drive),
    ("pack", stored::pack::drive),
    ("records", given::records::drive),
    ("root", stored::root::drive),
    ("signature", given::signature::drive),
    ("varint", stored::varint::drive),
    ("veto", stored::veto::drive),
];
