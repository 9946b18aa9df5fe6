//! Signatures: one that is accepted fits one key, one object and one comment.

use lifeboat_engine::base::secret::Secret;
use lifeboat_engine::keys::sign::{Signer, SignerKey, verify};

/// An input: the signer's key, the trusted comment, and the object, each on a line; the signature.
#[must_use]
pub fn input(key: &str, comment: &str, object: &str, signature: &str) -> Vec<u8> {
    [key, comment, object, signature].join("\n").into_bytes()
}

/// Takes `data` for what [`input`] makes.
pub fn drive(data: &[u8]) -> bool {
    // A signing key would be given as such a text, too.
    if let Ok(signer) = Signer::parse(&Secret::new(data.to_vec())) {
        assert!(SignerKey::parse(signer.public().as_str()).is_ok_and(|key| key == signer.public()));
    }
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let (Some(key), Some(comment), Some(object)) = (text(), text(), text()) else { return false };
    let signature = parts.next().unwrap_or_default();
    let Ok(key) = SignerKey::parse(key) else {
        assert!(verify(&[], object.as_bytes(), signature, comment).is_err(), "nobody signed it");
        return false;
    };
    assert!(SignerKey::parse(key.as_str()).is_ok_and(|again| again == key), "written again it is another key");
    let accepts = |object: &str, comment: &str| {
        let signer = verify(std::slice::from_ref(&key), object.as_bytes(), signature, comment).ok();
        signer.inspect(|signer| assert_eq!(*signer, key)).is_some()
    };
    if !accepts(object, comment) {
        return false;
    }
    assert!(String::from_utf8_lossy(signature).contains(comment), "the comment is not in the signature");
    assert!(!accepts(&format!("{object}x"), comment), "fits another object");
    assert!(!accepts(object, &format!("{comment}x")), "fits another comment");
    assert!(verify(&[], object.as_bytes(), signature, comment).is_err(), "nobody is trusted");
    true
}
