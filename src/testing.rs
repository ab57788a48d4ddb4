//! What tests that need a real service share.

pub(crate) mod address;
pub(crate) mod proxy;

/// Where the service `name` (`S3`, `KAFKA`, …) is: what `STK_TEST_<NAME>` says. Where it is not set
/// the test says so and is skipped; under CI that takes `STK_TEST_<NAME>_SKIP`, the reason.
pub(crate) fn service(name: &str) -> Option<String> {
    let variable = format!("STK_TEST_{name}");
    if let Ok(address) = std::env::var(&variable)
        && !address.is_empty()
    {
        return Some(address);
    }
    let reason = std::env::var(format!("{variable}_SKIP")).ok();
    assert!(
        reason.is_some() || std::env::var_os("CI").is_none(),
        "{variable} is not set: `scripts/services up` starts the service"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {test}: {}", reason.unwrap_or_else(|| format!("{variable} is not set")));
    None
}

/// The same of what takes a build with the feature `kafka-tls`, too.
pub(crate) fn tls_service(name: &str) -> Option<String> {
    let address = service(name)?;
    if cfg!(feature = "kafka-tls") {
        return Some(address);
    }
    assert!(std::env::var_os("CI").is_none(), "the tests of {name} take `--features kafka-tls`");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {test}: this build lacks the feature kafka-tls");
    None
}
