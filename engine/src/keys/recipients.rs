//! Parses recipients: `age1…`, `ssh-ed25519 …`, and plugins (`age1NAME1…`).

use std::collections::BTreeMap;

use age::plugin::{Recipient as PluginRecipient, RecipientPluginV1};
use age::{NoCallbacks, Recipient};
use lifeboat_base::{Class, Context, Error, Result};

use super::ssh::{self, SshRecipient};

/// Parses recipients. All recipients of one plugin share one process of it.
///
/// # Errors
/// [`Class::Configuration`] if a text is not a recipient. [`Class::Keys`] if a plugin is not
/// installed.
pub fn parse_recipients(texts: &[String]) -> Result<Vec<Box<dyn Recipient + Send + Sync>>> {
    let mut recipients: Vec<Box<dyn Recipient + Send + Sync>> = Vec::new();
    let mut plugins: BTreeMap<String, Vec<PluginRecipient>> = BTreeMap::new();
    for text in texts {
        if let Ok(native) = text.parse::<age::x25519::Recipient>() {
            recipients.push(Box::new(native));
        } else if let Some(ssh) = SshRecipient::parse(text) {
            recipients.push(Box::new(ssh));
        } else if let Ok(plugin) = text.parse::<PluginRecipient>() {
            plugins.entry(plugin.plugin().to_owned()).or_default().push(plugin);
        } else if ssh::is_rsa(text) {
            return Err(Error::configuration(format!("`{text}`: {}", ssh::NO_RSA)).hint(ssh::NO_RSA_HINT));
        } else {
            return Err(Error::configuration(format!("`{text}` is not an age recipient"))
                .hint("use age1…, an ssh-ed25519 public key, or the recipient of an age plugin"));
        }
    }
    for (name, of_plugin) in plugins {
        let plugin = RecipientPluginV1::new(&name, &of_plugin, &[], NoCallbacks)
            .context(Class::Keys, || format!("cannot use the recipients of the age plugin {name}"))
            .map_err(|error| error.hint(format!("install age-plugin-{name} in a directory of $PATH")))?;
        recipients.push(Box::new(plugin));
    }
    Ok(recipients)
}
