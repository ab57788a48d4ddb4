//! Values that must not be shown: passwords, and addresses that may contain one.

use std::fmt;

/// A value whose `Display` and `Debug` leave out what is secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret {
    value: String,
    shown: String,
}

impl Secret {
    /// A password: nothing of it is shown.
    pub fn new(value: impl Into<String>) -> Self {
        let value = value.into();
        let shown = if value.is_empty() { String::new() } else { HIDDEN.to_owned() };
        Self { value, shown }
    }

    /// One or more addresses, separated by commas: shown without user, password and query.
    pub fn url(value: impl Into<String>) -> Self {
        let value = value.into();
        let shown = redacted(&value);
        Self { value, shown }
    }

    /// The value itself, for the one who must use it.
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.shown)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.shown)
    }
}

/// What stands for a secret.
const HIDDEN: &str = "…";

/// Addresses separated by commas, without what may be secret in them.
fn redacted(value: &str) -> String {
    // A password may contain a comma, or anything else: from the first to the last `@` of a text
    // that is not clearly a list of addresses, nothing is shown.
    let is_list = value.split(',').all(|part| part.matches('@').count() <= 1 && part.contains("://"));
    if is_list {
        return value.split(',').map(redacted_one).collect::<Vec<_>>().join(",");
    }
    redacted_one(value)
}

fn redacted_one(address: &str) -> String {
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), address),
    };
    let (hidden, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => (format!("{HIDDEN}@"), rest),
        None => (String::new(), rest),
    };
    match rest.split_once(['?', '#']) {
        Some((rest, _)) => format!("{scheme}{hidden}{rest}?{HIDDEN}"),
        None => format!("{scheme}{hidden}{rest}"),
    }
}

/// Whether an address contains a user, a password or a query, none of which belongs into it.
pub fn has_credentials(address: &str) -> bool {
    address.contains(['@', '?', '#'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        let password = Secret::new("sesame");
        assert_eq!(format!("{password} {password:?} {:?}", Secret::new("")), "… Secret(…) Secret()");
        assert_eq!(password.expose(), "sesame");
        for (address, shown) in [
            ("http://ch:8123", "http://ch:8123"),
            ("http://me:sesame@ch:8123", "http://…@ch:8123"),
            ("http://me:ses@me@ch:8123/", "http://…@ch:8123/"),
            ("http://me:sesa,me@ch:8123", "http://…@ch:8123"),
            ("http://a:sesame@one,http://b:sesame@two", "http://…@one,http://…@two"),
            ("redis://:sesame@r:6379/1", "redis://…@r:6379/1"),
            ("redis+unix:///run/r.sock?pass=sesame", "redis+unix:///run/r.sock?…"),
            ("http://ch:8123/?user=me&password=sesame", "http://ch:8123/?…"),
            ("me:sesame@ch:8123", "…@ch:8123"),
            ("http://me:ses?ame@ch:8123", "http://…@ch:8123"),
        ] {
            let url = Secret::url(address);
            assert_eq!(url.to_string(), shown, "{address}");
            assert_eq!((url.expose(), has_credentials(address)), (address, shown != address), "{address}");
        }
    }
}
