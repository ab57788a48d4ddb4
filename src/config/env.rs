//! The environment: which variables are settings, and which are meant for something else.

use super::SETTINGS;

/// Environment variables that are no settings, with what they do.
pub const RESERVED_ENV: &[(&str, &str)] = &[
    ("STK_CONFIG", "the configuration file, as --config"),
    ("STK_SERVER", "the server that commands talk to, as --server"),
    ("STK_FAIL_POINT", "the point at which the process dies as by SIGKILL, for crash tests"),
    ("STK_LOG", "what is logged to stderr, as RUST_LOG: `info`, `stk=debug`"),
    ("STK_KEY_ID", "the key that commands show to a server, as --key-id"),
    ("STK_SECRET_KEY", "the secret that commands show to a server, as --secret-key"),
];

/// Whether an `STK_*` variable that is not a setting is meant for something else: for this program in
/// another way, for its tests, or set by Kubernetes for a Service whose name is or begins with `stk`.
pub(super) fn is_of_others(name: &str, rest: &str, value: &str) -> bool {
    let is_ours = RESERVED_ENV.iter().any(|(reserved, _)| *reserved == name)
        || rest.starts_with("TEST_")
        || rest.starts_with("SERVICES_")
        || rest == "UPDATE";
    // A Service `stk-live` makes STK_LIVE_SERVICE_HOST, STK_LIVE_SERVICE_PORT_HTTP, STK_LIVE_PORT and
    // STK_LIVE_PORT_7878_TCP_ADDR.
    let words: Vec<&str> = rest.split('_').collect();
    let has = |first: &str, second: &dyn Fn(&str) -> bool| {
        words.windows(2).any(|pair| pair[0] == first && second(pair[1]))
    };
    let is_link = rest.ends_with("PORT") && value.contains("://");
    is_ours
        || rest.starts_with("PORT")
        || has("SERVICE", &|word| matches!(word, "HOST" | "PORT"))
        || has("PORT", &|word| word.parse::<u16>().is_ok())
        || is_link
}

/// The variable that sets `key`.
pub fn env_name(key: &str) -> String {
    format!("STK_{}", key.to_uppercase().replace('.', "_"))
}

/// The setting whose name is the most like `key`, if one is.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let distance = |other: &str| strsim::damerau_levenshtein(key, other);
    let last = |text: &str| text.rsplit('.').next().unwrap_or_default().to_owned();
    let best = SETTINGS.iter().map(|s| s.key).min_by_key(|known| distance(known))?;
    let same_name = SETTINGS.iter().map(|s| s.key).find(|known| last(known) == last(key));
    same_name.or_else(|| (distance(best) <= key.len() / 3 + 1).then_some(best))
}
