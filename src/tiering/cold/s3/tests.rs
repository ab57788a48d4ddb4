//! The bucket against an S3 with Glacier's behaviour.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::testing;
use crate::testing::proxy::{Fault, Proxy};
use crate::tiering::cold::conformance;

/// A new bucket of the S3 that tests have; `None` where there is none.
pub(crate) async fn bucket() -> Option<S3Cold> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let endpoint = testing::service("S3")?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("stk-{}-{}-{number}", std::process::id(), Timestamp::now().nanos());
    Some(below(&endpoint, &name, "").await)
}

async fn below(endpoint: &str, bucket: &str, prefix: &str) -> S3Cold {
    let url = format!("s3://{bucket}/{prefix}");
    let config = S3Config::parse(&url, Some(endpoint.to_owned()), "us-east-1".to_owned()).unwrap();
    let keys = Some(("stk".to_owned(), "secret".to_owned()));
    let cold = S3Cold::open(S3Config { keys, ..config }, ColdMetrics::default()).unwrap();
    let made = cold.send("", "PUT", "", &[], Bytes::new()).await.unwrap();
    assert!(matches!(made.status, 200 | 409), "{}", made.message());
    cold
}

impl S3Cold {
    /// The same bucket at another address.
    pub(crate) fn by(&self, endpoint: &str) -> Self {
        let config = S3Config { endpoint: Some(endpoint.to_owned()), ..self.0.config.clone() };
        Self::open(config, ColdMetrics::default()).unwrap()
    }

    /// Its address.
    pub(crate) fn endpoint(&self) -> &str {
        self.0.config.endpoint.as_deref().unwrap()
    }

    /// Moves an object to a class, as a lifecycle rule would.
    pub(crate) async fn move_to(&self, key: &str, class: StorageClass) {
        let source = format!("/{}{}", self.0.config.bucket, self.target(key));
        let headers =
            [("x-amz-copy-source", source.as_str()), ("x-amz-storage-class", lifecycle::class_name(class))];
        let moved = self.send(key, "PUT", &self.target(key), &headers, Bytes::new()).await.unwrap();
        assert_eq!(moved.status, 200, "{}", moved.message());
    }
}

#[tokio::test]
async fn a_bucket_is_a_cold_store() {
    let Some(cold) = bucket().await else { return };
    let (endpoint, name) = (cold.0.config.endpoint.clone().unwrap(), cold.0.config.bucket.clone());
    // All in one bucket, each below a prefix of its own: no case sees another's objects.
    conformance::all(async |case| Arc::new(below(&endpoint, &name, case).await) as Arc<dyn Cold>).await;
    let cold = below(&endpoint, &name, "classes").await;
    let mover = cold.clone();
    conformance::with_classes(Arc::new(cold), &move |key, class| {
        let (cold, key) = (mover.clone(), key.to_owned());
        Box::pin(async move { cold.move_to(&key, class).await })
    })
    .await;
}

#[tokio::test]
async fn requests_and_bytes_are_counted_and_near_ranges_are_one_request() {
    let Some(cold) = bucket().await else { return };
    let config = cold.0.config.clone();
    let metrics = ColdMetrics::default();
    let cold = S3Cold::open(config, metrics.clone()).unwrap();
    let requests = |method: &str| metrics.requests.get_or_create(&vec![("method", method.to_owned())]).get();
    cold.put("a", vec![7; 4 << 20].into()).await.unwrap();
    assert_eq!((requests("PUT"), metrics.bytes_sent.get()), (1, 4 << 20));
    cold.get_ranges("a", &[0..10, 1000..1010, 100_000..100_010]).await.unwrap();
    assert_eq!((requests("GET"), metrics.bytes_received.get()), (1, 100_010));
    cold.get_ranges("a", &[0..10, 3 << 20..(3 << 20) + 10]).await.unwrap();
    assert_eq!((requests("GET"), metrics.bytes_received.get()), (3, 100_030));
    cold.state("a").await.unwrap();
    assert_eq!(requests("HEAD"), 1);
    // Small uploads are one request, large ones begin, send each part, and end.
    let mut upload = cold.upload("b").await.unwrap();
    upload.write(vec![1; 1000].into()).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!((requests("PUT"), requests("POST")), (2, 0));
    let mut upload = cold.upload("c").await.unwrap();
    upload.write(vec![1; 13 << 20].into()).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!((requests("PUT"), requests("POST")), (5, 2));
}

#[tokio::test]
async fn an_upload_in_parts_is_whole_or_not_there_whatever_request_is_lost() {
    let Some(cold) = bucket().await else { return };
    let bytes: Bytes = (0..13_u32 << 20).map(|at| (at >> 7).wrapping_mul(31) as u8).collect();
    let mut done = 0;
    for fault in [Fault::LoseReply, Fault::Cut, Fault::CutReply] {
        // The beginning, three parts, the end.
        for nth in 0..5 {
            let proxy = Proxy::to(cold.endpoint()).await;
            let key = format!("{fault:?}/{nth}");
            proxy.fail(nth, fault.clone());
            let mut upload = cold.by(proxy.url()).upload(&key).await.unwrap();
            let uploaded = match upload.write(bytes.clone()).await {
                Ok(()) => upload.finish().await,
                error => error,
            };
            assert_eq!(proxy.fired(), 1, "{key}");
            match uploaded {
                Ok(()) => {
                    done += 1;
                    assert_eq!(cold.get(&key).await.unwrap(), bytes, "{key}");
                }
                // Whoever uploads begins anew, under another key.
                Err(error) => {
                    assert!(matches!(error, ColdError::Unknown { .. }), "{key}: {error}");
                    let left = cold.get(&key).await;
                    assert!(matches!(left, Err(ColdError::NotFound { .. })), "{key}");
                }
            }
        }
    }
    assert!(done >= 12, "{done} of 15 were made good");
}

#[tokio::test]
async fn what_is_refused_for_good_is_told_apart_from_what_may_pass() {
    let Some(cold) = bucket().await else { return };
    let endpoint = cold.0.config.endpoint.clone().unwrap();
    let open = |url: &str, endpoint: &str| {
        let config = S3Config::parse(url, Some(endpoint.to_owned()), "us-east-1".to_owned()).unwrap();
        let keys = Some(("stk".to_owned(), "secret".to_owned()));
        S3Cold::open(S3Config { keys, ..config }, ColdMetrics::default()).unwrap()
    };
    let nowhere = open("s3://no-such-bucket-here", &endpoint);
    for error in [
        nowhere.get("a").await.unwrap_err(),
        nowhere.put("a", "x".into()).await.unwrap_err(),
        nowhere.create("a", "x".into()).await.unwrap_err(),
        nowhere.list("", None).await.unwrap_err(),
    ] {
        assert!(matches!(error, ColdError::Refused { .. }), "{error}");
        assert_eq!(error.to_string(), "s3://no-such-bucket-here: there is no such bucket");
    }
    // Nobody listens there any more: whether a write happened can't be known.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let gone = open("s3://bucket", &address);
    let error = gone.create("a", "x".into()).await.unwrap_err();
    assert!(matches!(error, ColdError::Unknown { .. }), "{error}");
}

#[tokio::test]
async fn a_conflict_is_not_taken_for_an_object_that_is_there() {
    let metrics = ColdMetrics::default();
    let config =
        S3Config::parse("s3://bucket", Some("http://127.0.0.1:1".to_owned()), "eu-west-1".to_owned())
            .unwrap();
    let cold = S3Cold::open(config, metrics).unwrap();
    let answer = |status: u16, code: &str| Answer {
        status,
        class: None,
        restore: None,
        archive_status: None,
        body: format!("<Error><Code>{code}</Code><Message>as it is</Message></Error>"),
    };
    let meant = |status, code| cold.unexpected("m/0000.json", &answer(status, code));
    assert!(matches!(meant(409, "ConditionalRequestConflict"), ColdError::Unknown { .. }));
    assert!(matches!(meant(503, "SlowDown"), ColdError::Unknown { .. }));
    assert!(matches!(meant(400, "RequestTimeout"), ColdError::Unknown { .. }));
    assert!(matches!(meant(500, "InternalError"), ColdError::Unknown { .. }));
    assert!(matches!(meant(403, "AccessDenied"), ColdError::Refused { .. }));
    assert!(matches!(meant(400, "InvalidArgument"), ColdError::Refused { .. }));
    assert!(matches!(meant(404, "NoSuchKey"), ColdError::NotFound { .. }));
    assert!(matches!(meant(403, "InvalidObjectState"), ColdError::Frozen { .. }));
    let refused = meant(403, "AccessDenied").to_string();
    assert_eq!(refused, "s3://bucket: 403 AccessDenied: as it is");
}

#[test]
fn urls_name_a_bucket_and_a_prefix() {
    let parse = |url: &str| S3Config::parse(url, None, "us-east-1".to_owned());
    let named = |url: &str| parse(url).map(|config| (config.bucket, config.prefix)).unwrap();
    assert_eq!(named("s3://b"), ("b".to_owned(), String::new()));
    assert_eq!(named("s3://b/"), ("b".to_owned(), String::new()));
    assert_eq!(named("s3://b/ticks/of/stk/"), ("b".to_owned(), "ticks/of/stk/".to_owned()));
    for url in ["s3://", "s3:///x", "s3://a b/x", "/srv/cold", "s3://b/x//y"] {
        assert!(matches!(parse(url), Err(ColdError::Refused { .. })), "{url}");
    }
}

#[test]
fn a_restored_copy_tells_until_when_it_is_there() {
    let until = expiry("ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"").unwrap();
    assert_eq!(until.to_string(), "2012-12-21T00:00:00Z");
    assert_eq!(expiry("ongoing-request=\"true\""), None);
}
