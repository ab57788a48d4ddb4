//! What settings are taken and refused, and where values come from.

use super::*;

fn from_file(text: &str) -> Result<Resolved, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stk.toml");
    std::fs::write(&path, text).unwrap();
    Resolved::new(Some(&path), [], &[])
}

fn refusal(text: &str) -> String {
    let message = from_file(text).unwrap_err().to_string();
    let (_, reason) = message.split_once("stk.toml: ").expect("the file is named");
    reason.to_owned()
}

#[test]
fn the_table_is_sound() {
    for setting in SETTINGS {
        assert!(setting.key.split_once('.').is_some(), "{}", setting.key);
        assert!(setting.doc.ends_with('.'), "{}", setting.key);
        assert_eq!(SETTINGS.iter().filter(|s| s.key == setting.key).count(), 1, "{}", setting.key);
    }
    let defaults = Resolved::new(None, [], &[]).unwrap();
    let as_flags: Vec<_> = defaults.iter().map(|(s, value, _)| (s.key, value.to_owned(), "--x")).collect();
    Resolved::new(None, [], &as_flags).expect("every default is a value its setting takes");
}

#[test]
fn the_sample_file_is_the_defaults() {
    let live: String = sample_file()
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|l| l.contains(" = ")).unwrap_or(line).to_owned() + "\n")
        .collect();
    let resolved = from_file(&live).unwrap();
    for (setting, value, origin) in resolved.iter() {
        assert_eq!(value, setting.default, "{}", setting.key);
        assert!(matches!(origin, Origin::File(_)), "{} stands in the sample", setting.key);
    }
}

#[test]
fn later_sources_win_and_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stk.toml");
    std::fs::write(&path, "[log]\npartitions = 8\nsync_interval_ms = 20\nretention_hours = 1\n").unwrap();
    let env = [("STK_LOG_SYNC_INTERVAL_MS", "30"), ("STK_LOG_RETENTION_HOURS", "2"), ("HOME", "/x")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let resolved =
        Resolved::new(Some(&path), env, &[("log.retention_hours", "3".into(), "--retention")]).unwrap();
    let shown = |key: &str| {
        let (_, value, origin) = resolved.iter().find(|(s, ..)| s.key == key).unwrap();
        format!("{value} {}", origin.to_string().replace(&path.display().to_string(), "FILE"))
    };
    assert_eq!(shown("log.partitions"), "8 FILE");
    assert_eq!(shown("log.sync_interval_ms"), "30 STK_LOG_SYNC_INTERVAL_MS");
    assert_eq!(shown("log.retention_hours"), "3 --retention");
    assert_eq!(shown("log.durability"), "interval default");
    assert_eq!(resolved.config().retention_age, Duration::from_hours(3));
}

#[test]
fn blocks_are_larger_where_warm_is_clickhouse() {
    let rows = |text: &str| from_file(text).unwrap().config().rows_max;
    let clickhouse = "[warm]\nclickhouse_url = \"http://127.0.0.1:8123\"\n";
    assert_eq!((rows(""), rows(clickhouse)), (500_000, 4_000_000));
    assert_eq!(rows(&format!("{clickhouse}[processor]\nrows_max = 1000\n")), 1_000);
}

#[test]
fn a_public_address_needs_keys_or_consent() {
    let access = |text: &str| from_file(text).unwrap().check_access();
    let public = "[server]\nlisten = \"0.0.0.0:7878\"\n";
    let refused = access(public).unwrap_err().to_string();
    assert!(refused.contains("`server.listen` is \"0.0.0.0:7878\""), "{refused}");
    assert!(access("[server]\nlisten = \"[::]:7878\"\n").is_err());
    for more in ["keys = [\"a:b\"]", "allow_anonymous = \"yes\"", "roles = [\"archiver\"]"] {
        assert_eq!(access(&format!("{public}{more}\n")), Ok(()), "{more}");
    }
    for local in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert_eq!(access(&format!("[server]\nlisten = \"{local}\"\n")), Ok(()), "{local}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    assert_eq!(
        refusal("[log]\npartition = 4\n"),
        "there is no setting `log.partition`; did you mean `log.partitions`?"
    );
    assert_eq!(refusal("listen = \"x\"\n"), "there is no setting `listen`; did you mean `server.listen`?");
    assert_eq!(refusal("[zebra]\nx = 1\n"), "there is no setting `zebra.x`");
    assert_eq!(
        refusal("[processor]\nrows_max = 999\n"),
        "`processor.rows_max` is \"999\": it takes 0, or at least 1000: each block is a durable commit"
    );
    assert_eq!(
        refusal("[log]\npartitions = 0\n"),
        "`log.partitions` is \"0\": it takes a whole number from 1 to 64"
    );
    assert_eq!(
        refusal("[log]\ndurability = \"never\"\n"),
        "`log.durability` is \"never\": it takes one of interval, always"
    );
    assert!(refusal("[log\n").starts_with("line 1: "));
    assert!(refusal("[server]\nlisten = \"here\"\n").contains("it takes an address and a port"));
    assert!(refusal("[server]\ningest_listen = \"0.0.0.0:1\"\n").contains("loopback"));
}

#[test]
fn variables_of_others_are_ignored() {
    let warned = |name: &str, value: &str| {
        Resolved::new(None, [(name.to_owned(), value.to_owned())], &[]).unwrap().warnings
    };
    for (name, value) in [
        ("STK_SERVICE_HOST", "10.0.0.1"),
        ("STK_SERVICE_PORT", "7878"),
        ("STK_SERVICE_PORT_HTTP", "7878"),
        ("STK_PORT", "tcp://10.0.0.1:7878"),
        ("STK_PORT_7878_TCP", "tcp://10.0.0.1:7878"),
        ("STK_PORT_7878_TCP_ADDR", "10.0.0.1"),
        ("STK_LIVE_SERVICE_HOST", "10.0.0.1"),
        ("STK_LIVE_SERVICE_PORT_HTTP", "7878"),
        ("STK_LIVE_PORT", "tcp://10.0.0.1:7878"),
        ("STK_LIVE_PORT_7878_TCP_PROTO", "tcp"),
        ("STK_TEST_KAFKA", "x"),
        ("STK_FAIL_POINT", "x"),
        ("STK_SERVER", "x:1"),
        ("HOME", "/x"),
    ] {
        assert_eq!(warned(name, value), Vec::<String>::new(), "{name}");
    }
    assert_eq!(
        warned("STK_GATEWAY_LISTEN", "x"),
        ["STK_GATEWAY_LISTEN in the environment is not a setting; did you mean STK_SERVER_LISTEN?"]
    );
    assert_eq!(
        warned("STK_LOG_PARTITION", "sesame"),
        ["STK_LOG_PARTITION in the environment is not a setting; did you mean STK_LOG_PARTITIONS?"]
    );
    assert_eq!(warned("STK_ZEBRA", "1"), ["STK_ZEBRA in the environment is not a setting"]);
}

#[test]
fn nothing_secret_is_shown_or_ignored() {
    for (text, instead) in [
        ("[warm]\nclickhouse_url = \"http://me:sesame@ch:8123\"\n", "warm.clickhouse_password"),
        ("[warm]\nclickhouse_url = \"http://ch:8123/?password=sesame\"\n", "warm.clickhouse_password"),
        ("[archive]\ns3_endpoint = \"http://me:sesame@s3:9000\"\n", "AWS_SECRET_ACCESS_KEY"),
        ("[archive]\nurl = \"s3://me:sesame@bucket/x\"\n", "AWS_SECRET_ACCESS_KEY"),
        ("[log]\nkafka_brokers = \"me:sesame@b:9092\"\n", "sasl.password"),
        ("[log]\nkafka_properties = [\"sesame\"]\n", "`name=value`"),
        ("[server]\nkeys = [\"sesame\"]\n", "`id:secret`"),
        ("[server]\nadmin_keys = [\"sesame\"]\n", "`id:secret`"),
        ("[server]\nkeys = [\"me:\"]\n", "neither part is empty"),
        ("[server]\nadmin_keys = [\":sesame\"]\n", "neither part is empty"),
    ] {
        let refused = refusal(text);
        assert!(refused.contains(instead) && !refused.contains("sesame"), "{refused}");
    }
    let resolved = from_file(
        "[server]\nkeys = [\"me:sesame\"]\nadmin_keys = [\"op:sesame\"]\n\
         [log]\nkafka_brokers = \"b:1\"\nkafka_properties = [\"sasl.password=sesame\"]\n\
         [hot]\nredis_url = \"redis://me:sesame@r:1\"\n\
         [warm]\nclickhouse_url = \"http://ch:1\"\nclickhouse_password = \"sesame\"\n",
    )
    .unwrap();
    let shown: Vec<String> = resolved.iter().map(|(setting, value, _)| setting.shown(value)).collect();
    let (shown, typed) = (shown.join("\n"), format!("{:?}", resolved.config()));
    assert!(!shown.contains("sesame") && !typed.contains("sesame"), "{shown}\n{typed}");
    assert!(shown.contains("redis://…@r:1") && shown.contains("(1 key)"), "{shown}");
    assert_eq!(resolved.config().redis.unwrap().url.expose(), "redis://me:sesame@r:1");
}
