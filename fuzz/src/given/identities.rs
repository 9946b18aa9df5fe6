//! Identities and recipients: what is refused is not told, for it may be a secret.

use lifeboat_engine::base::secret::Secret;
use lifeboat_engine::keys::{parse_identities, parse_recipients};

/// How the line of an identity begins; errors may say so, but nothing more of it.
const BEGINNING: &str = "AGE-SECRET-KEY-1";

/// Takes `data` for an identity file, and for recipients line by line.
pub fn drive(data: &[u8]) -> bool {
    let identities = parse_identities(&Secret::new(data.to_vec()), "the file");
    let Ok(text) = std::str::from_utf8(data) else { return identities.is_ok() };
    let recipients: Vec<String> = text.lines().map(str::to_owned).collect();
    let wrapped = parse_recipients(&recipients);
    assert!(wrapped.as_ref().is_ok_and(|wrapped| wrapped.len() <= recipients.len()) || wrapped.is_err());
    if let Err(error) = &identities {
        let told = format!("{error:?}");
        let mut secrets = text.lines().map(str::trim).filter(|line| line.len() > BEGINNING.len());
        assert!(!secrets.any(|line| line.starts_with(BEGINNING) && told.contains(line)), "{told}");
    }
    assert!(identities.as_ref().is_ok_and(|identities| !identities.is_empty()) || identities.is_err());
    identities.is_ok() || wrapped.is_ok_and(|wrapped| !wrapped.is_empty())
}
