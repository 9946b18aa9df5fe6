//! Credentials from the `[default]` section of a file in the format of AWS's shared credentials.

use aws_sdk_s3::config::Credentials;
use lifeboat_base::secret::SecretRef;
use lifeboat_base::{Error, Result};

/// Reads and parses the file. Errors name the file and what is missing, never a value.
pub(super) fn parse(file: &SecretRef) -> Result<Credentials> {
    let secret = file.read()?;
    let refuse = |what: &str| {
        Error::keys(format!("credential file {} {what}", file.path().display()))
            .hint("write [default] into it, then the lines `aws_access_key_id = …` and `aws_secret_access_key = …`")
    };
    let text = std::str::from_utf8(secret.expose()).map_err(|_| refuse("is not text"))?;
    let value = |key| default_value(text, key);
    let access_key = value("aws_access_key_id").ok_or_else(|| refuse("has no aws_access_key_id in [default]"))?;
    let secret_key =
        value("aws_secret_access_key").ok_or_else(|| refuse("has no aws_secret_access_key in [default]"))?;
    let token = value("aws_session_token").map(str::to_owned);
    Ok(Credentials::new(access_key, secret_key, token, None, "credential file"))
}

/// The value of `key` in `[default]`.
fn default_value<'text>(text: &'text str, key: &str) -> Option<&'text str> {
    let is_section = |line: &str| line.starts_with('[');
    text.lines()
        .map(str::trim)
        .skip_while(|line| *line != "[default]")
        .skip(1)
        .take_while(|line| !is_section(line))
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_default_section_only() {
        let text = "[other]\naws_access_key_id = wrong\n\n[default]\n# a comment = x\n aws_access_key_id=AKIA\n\
                    aws_secret_access_key = a/b=c+d==\naws_session_token =\n[more]\naws_session_token = wrong\n";
        assert_eq!(default_value(text, "aws_access_key_id"), Some("AKIA"));
        assert_eq!(default_value(text, "aws_secret_access_key"), Some("a/b=c+d=="));
        assert_eq!(default_value(text, "aws_session_token"), None);
        assert_eq!(default_value("aws_access_key_id = no section", "aws_access_key_id"), None);
    }
}
