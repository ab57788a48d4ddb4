//! A bucket of S3, or of what speaks like it.
//!
//! Reads, lists and uploads go through `object_store`. What it lacks is signed here and sent by the
//! same client: the conditional create, of which it reports a conflict as "already exists" though
//! nothing landed; an object's class and restore; the bucket's lifecycle.

#[cfg(test)]
pub(crate) mod tests;
mod upload;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpRequestBody, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, HeaderValue, ObjectStore, ObjectStoreExt, RetryConfig,
};

use self::upload::S3Upload;
use super::metrics::ColdMetrics;
use super::{
    Availability, Cold, ColdError, ObjectInfo, RestoreTier, StorageClass, Transition, Upload, lifecycle,
    ranges,
};
use crate::market::Timestamp;

/// Requests of one call that are under way at once, at most.
const REQUESTS_MAX: usize = 6;

/// How often a request is tried again, at most; a conditional create never is.
const RETRIES_MAX: usize = 4;

/// How long a request may take with its retries.
const RETRY_TIME_MAX: Duration = Duration::from_mins(1);

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Without a byte of the answer.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Where a bucket is, and who asks.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// The bucket.
    pub bucket: String,
    /// What the keys of all objects begin with: empty, or ending in `/`.
    pub prefix: String,
    /// The address of an S3 that is not Amazon's.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: String,
    /// Key and secret; `None`: from the environment, or the machine's role.
    pub keys: Option<(String, String)>,
}

impl S3Config {
    /// Reads `s3://bucket/prefix`.
    pub fn parse(url: &str, endpoint: Option<String>, region: String) -> Result<Self, ColdError> {
        let refused = |reason: &str| ColdError::Refused { store: url.to_owned(), reason: reason.to_owned() };
        let rest = url.strip_prefix("s3://").ok_or_else(|| refused("it does not begin with s3://"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || bucket.contains(|c: char| !c.is_ascii_alphanumeric() && !".-_".contains(c)) {
            return Err(refused("it names no bucket: write s3://bucket/prefix"));
        }
        let prefix = prefix.trim_matches('/');
        if Path::parse(prefix).is_err() {
            return Err(refused("its prefix has an empty part, or a character that keys should not have"));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { bucket: bucket.to_owned(), prefix, endpoint, region, keys: None })
    }
}

/// A bucket, below a prefix. Cheap to clone.
#[derive(Clone)]
pub struct S3Cold(Arc<Inner>);

struct Inner {
    name: String,
    config: S3Config,
    /// The bucket's address, without a slash at the end.
    address: String,
    store: AmazonS3,
    client: HttpClient,
}

impl S3Cold {
    /// Opens a bucket: asks it nothing yet.
    pub fn open(config: S3Config, metrics: ColdMetrics) -> Result<Self, ColdError> {
        // The client of this program is built without a choice of cryptography of its own. An error
        // says that it was chosen before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let name = format!("s3://{}/{}", config.bucket, config.prefix);
        let name = name.trim_end_matches('/').to_owned();
        let refused =
            |error: Error| ColdError::Refused { store: name.clone(), reason: reason_of(&error).to_string() };
        let host = match &config.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://s3.{}.amazonaws.com", config.region),
        };
        let options = ClientOptions::new()
            .with_allow_http(host.starts_with("http://"))
            .with_connect_timeout(CONNECT_TIME_MAX)
            .with_read_timeout(SILENCE_MAX)
            // An upload's part on a slow line.
            .with_timeout(RETRY_TIME_MAX);
        let connector = MeteredConnector { metrics };
        let client = connector.connect(&options).map_err(refused)?;
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&config.bucket)
            .with_region(&config.region)
            .with_client_options(options)
            .with_http_connector(connector)
            .with_endpoint(&host)
            .with_virtual_hosted_style_request(false)
            .with_retry(RetryConfig {
                backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
                max_retries: RETRIES_MAX,
                retry_timeout: RETRY_TIME_MAX,
            });
        if let Some((id, secret)) = &config.keys {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        let store = builder.build().map_err(refused)?;
        let address = format!("{host}/{}", encoded(&config.bucket));
        Ok(Self(Arc::new(Inner { name, config, address, store, client })))
    }

    fn path(&self, key: &str) -> Result<Path, ColdError> {
        let refused = |reason: String| ColdError::Refused { store: self.0.name.clone(), reason };
        // A path would be taken without them, and name another object.
        if key.is_empty() || key.starts_with('/') || key.ends_with('/') {
            return Err(refused(format!("no key can be \"{key}\": it begins or ends with an empty part")));
        }
        let path = Path::parse(format!("{}{key}", self.0.config.prefix));
        path.map_err(|error| refused(format!("no key can be \"{key}\": {error}")))
    }

    /// Sends one signed request, once. `target` is what follows the bucket's address.
    async fn send(
        &self,
        key: &str,
        method: &str,
        target: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Answer, ColdError> {
        let refused = |reason: String| ColdError::Refused { store: self.0.name.clone(), reason };
        let mut request = HttpRequest::new(HttpRequestBody::from(body));
        *request.method_mut() = method.parse().map_err(|error| refused(format!("{method}: {error}")))?;
        let url = format!("{}{target}", self.0.address);
        *request.uri_mut() = url.parse().map_err(|error| refused(format!("{url}: {error}")))?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|error| refused(format!("{name}: {error}")))?;
            request.headers_mut().insert(*name, value);
        }
        let credential = self.0.store.credentials().get_credential().await;
        let credential = credential.map_err(|error| self.error(key, &error))?;
        AwsAuthorizer::new(&credential, "s3", &self.0.config.region)
            .try_authorize(&mut request, None)
            .map_err(|error| self.error(key, &error))?;
        let no_answer = |error: HttpError| self.meant(key, None, None, &with_causes(&error));
        let response = self.0.client.execute(request).await.map_err(no_answer)?;
        let (parts, body) = response.into_parts();
        let body = body.bytes().await.map_err(no_answer)?;
        let header =
            |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Answer {
            status: parts.status.as_u16(),
            class: header("x-amz-storage-class"),
            restore: header("x-amz-restore"),
            archive_status: header("x-amz-archive-status"),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    fn target(&self, key: &str) -> String {
        format!("/{}", encoded(&format!("{}{key}", self.0.config.prefix)))
    }

    fn unexpected(&self, key: &str, answer: &Answer) -> ColdError {
        self.meant(key, Some(answer.status), answer.code(), &answer.message())
    }

    /// What an error of `object_store` means.
    fn error(&self, key: &str, error: &Error) -> ColdError {
        let reason = reason_of(error);
        let status = match error {
            Error::NotFound { .. } => Some(404),
            Error::AlreadyExists { .. } => Some(409),
            Error::Precondition { .. } => Some(412),
            Error::PermissionDenied { .. } => Some(403),
            Error::Unauthenticated { .. } => Some(401),
            Error::InvalidPath { .. } | Error::NotSupported { .. } | Error::NotImplemented { .. } => {
                Some(400)
            }
            _ => reason.status,
        };
        self.meant(key, status, reason.code.as_deref(), &reason.to_string())
    }

    /// What an answer means to the caller. `status` is `None` where there was no answer.
    fn meant(&self, key: &str, status: Option<u16>, code: Option<&str>, reason: &str) -> ColdError {
        let (store, key, reason) = (self.0.name.clone(), key.to_owned(), reason.to_owned());
        match (status, code) {
            (_, Some("InvalidObjectState")) => ColdError::Frozen { store, key },
            // A request that took too long to arrive, and a service that asks to be left alone.
            (_, Some("RequestTimeout" | "SlowDown" | "OperationAborted" | "ConditionalRequestConflict")) => {
                ColdError::Unknown { store, key, reason }
            }
            (_, Some("NoSuchBucket")) => {
                ColdError::Refused { store, reason: "there is no such bucket".to_owned() }
            }
            (Some(404), _) => ColdError::NotFound { store, key },
            (Some(416), _) => ColdError::Short { store, key },
            (None | Some(408 | 409 | 429 | 500..), _) => ColdError::Unknown { store, key, reason },
            (Some(301 | 307), _) => {
                ColdError::Refused { store, reason: format!("the bucket is in another region: {reason}") }
            }
            (Some(_), _) => ColdError::Refused { store, reason },
        }
    }

    async fn lifecycle_text(&self) -> Result<String, ColdError> {
        let answer = self.retried("", "GET", "?lifecycle=", &[], Bytes::new()).await?;
        match (answer.status, answer.code()) {
            (200, _) => Ok(answer.body),
            (404, Some("NoSuchLifecycleConfiguration")) => Ok(String::new()),
            _ => Err(self.unexpected("?lifecycle", &answer)),
        }
    }

    /// [`S3Cold::send`] for what may be sent twice: tried again while there is no answer, or one
    /// that asks for it.
    async fn retried(
        &self,
        key: &str,
        method: &str,
        target: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Answer, ColdError> {
        let mut wait = Duration::from_millis(100);
        for _ in 0..RETRIES_MAX {
            match self.send(key, method, target, headers, body.clone()).await {
                Ok(answer) if !matches!(answer.status, 429 | 500..) => return Ok(answer),
                Err(error) if !matches!(error, ColdError::Unknown { .. }) => return Err(error),
                Ok(_) | Err(_) => {}
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        self.send(key, method, target, headers, body).await
    }
}

/// What came back of a signed request.
struct Answer {
    status: u16,
    class: Option<String>,
    restore: Option<String>,
    archive_status: Option<String>,
    body: String,
}

impl Answer {
    fn code(&self) -> Option<&str> {
        lifecycle::element(&self.body, "Code").map(|(code, _)| code)
    }

    fn message(&self) -> String {
        let said = lifecycle::element(&self.body, "Message").map_or("", |(message, _)| message);
        match self.code() {
            Some(code) => format!("{} {code}: {said}", self.status),
            None => format!("it answered {}", self.status),
        }
    }

    fn availability(&self, class: StorageClass) -> Availability {
        let archived = class >= StorageClass::Glacier || self.archive_status.is_some();
        match &self.restore {
            Some(restore) if restore.contains("ongoing-request=\"true\"") => Availability::Restoring,
            Some(restore) => Availability::Restored { until: expiry(restore) },
            None if archived => Availability::Frozen,
            None => Availability::Ready,
        }
    }
}

/// The instant in `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`.
fn expiry(restore: &str) -> Option<Timestamp> {
    let (_, date) = restore.split_once("expiry-date=\"")?;
    let (date, _) = date.split_once('"')?;
    let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
    i64::try_from(parsed.as_nanosecond()).ok().map(Timestamp::from_nanos)
}

/// What an error of `object_store` says, picked out of its text and that of its causes.
struct Reason {
    status: Option<u16>,
    code: Option<String>,
    text: String,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn reason_of(error: &Error) -> Reason {
    let whole = with_causes(error);
    let status = whole.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)?.parse().ok());
    let code = lifecycle::element(&whole, "Code").map(|(code, _)| code.to_owned());
    let said = lifecycle::element(&whole, "Message").map(|(message, _)| message);
    let text = match (&code, said) {
        (Some(code), said) => format!("{code}: {}", said.unwrap_or_default()),
        (None, _) => whole.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    Reason { status, code, text }
}

/// An error and what caused it, each said once.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

/// `key` as it stands in a URL and in what is signed: all but unreserved characters as `%XX`.
fn encoded(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(byte.into());
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[async_trait::async_trait]
impl Cold for S3Cold {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<bool, ColdError> {
        self.path(key)?;
        let answer = self.send(key, "PUT", &self.target(key), &[("if-none-match", "*")], bytes).await?;
        match answer.status {
            200 => Ok(true),
            412 => Ok(false),
            // A conflict of two creates under way: nobody's object may be there.
            _ => Err(self.unexpected(key, &answer)),
        }
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ColdError> {
        let put = self.0.store.put(&self.path(key)?, bytes.into()).await;
        put.map(drop).map_err(|error| self.error(key, &error))
    }

    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>, ColdError> {
        Ok(Box::new(S3Upload::new(self.clone(), key, self.path(key)?)))
    }

    async fn get(&self, key: &str) -> Result<Bytes, ColdError> {
        let named = |error: Error| self.error(key, &error);
        self.0.store.get(&self.path(key)?).await.map_err(named)?.bytes().await.map_err(named)
    }

    async fn get_ranges(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ColdError> {
        let path = self.path(key)?;
        let requests = ranges::coalesce(ranges, ranges::Limits::FAR);
        let read: Vec<Bytes> = stream::iter(requests.iter().cloned().map(|request| {
            let (store, path) = (&self.0.store, &path);
            async move {
                let wanted = request.end - request.start;
                let bytes = store.get_range(path, request).await.map_err(|error| self.error(key, &error))?;
                if bytes.len() as u64 == wanted {
                    return Ok(bytes);
                }
                Err(ColdError::Short { store: self.0.name.clone(), key: key.to_owned() })
            }
        }))
        .buffered(REQUESTS_MAX)
        .try_collect()
        .await?;
        Ok(ranges::cut(&requests, &read, ranges))
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>, ColdError> {
        let root = &self.0.config.prefix;
        let whole = format!("{root}{prefix}");
        let folder = whole.rsplit_once('/').map(|(folder, _)| Path::parse(folder)).transpose();
        let folder = folder.map_err(|error| self.error(prefix, &Error::from(error)))?;
        let listed = match after {
            Some(after) => {
                let after = self.path(after.trim_matches('/'))?;
                self.0.store.list_with_offset(folder.as_ref(), &after)
            }
            None => self.0.store.list(folder.as_ref()),
        };
        let objects: Vec<_> = listed.try_collect().await.map_err(|error| self.error(prefix, &error))?;
        let mut found = Vec::new();
        for object in objects {
            let Some(key) = object.location.as_ref().strip_prefix(root.as_str()) else { continue };
            if key.starts_with(prefix) && after.is_none_or(|after| key > after) {
                let modified = object.last_modified.timestamp_nanos_opt().unwrap_or(0);
                found.push(ObjectInfo {
                    key: key.to_owned(),
                    bytes: object.size,
                    modified: Timestamp::from_nanos(modified),
                });
            }
        }
        found.sort_unstable_by(|left, right| left.key.cmp(&right.key));
        Ok(found)
    }

    async fn delete(&self, key: &str) -> Result<(), ColdError> {
        match self.0.store.delete(&self.path(key)?).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error(key, &error)),
        }
    }

    async fn state(&self, key: &str) -> Result<(StorageClass, Availability), ColdError> {
        self.path(key)?;
        let answer = self.retried(key, "HEAD", &self.target(key), &[], Bytes::new()).await?;
        if answer.status != 200 {
            return Err(self.unexpected(key, &answer));
        }
        let class = answer.class.as_deref().map_or(StorageClass::Standard, lifecycle::class_of);
        Ok((class, answer.availability(class)))
    }

    async fn restore(&self, key: &str, days: u32, tier: RestoreTier) -> Result<(), ColdError> {
        self.path(key)?;
        let tier = match tier {
            RestoreTier::Expedited => "Expedited",
            RestoreTier::Standard => "Standard",
            RestoreTier::Bulk => "Bulk",
        };
        let body = format!(
            "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Days>{days}</Days>\
             <GlacierJobParameters><Tier>{tier}</Tier></GlacierJobParameters></RestoreRequest>"
        );
        let target = format!("{}?restore=", self.target(key));
        let answer = self.retried(key, "POST", &target, &[], body.into()).await?;
        match (answer.status, answer.code()) {
            // Accepted, there already, on its way; or not archived, so that nothing has to be restored.
            (200 | 202, _) | (409, Some("RestoreAlreadyInProgress")) | (403, Some("InvalidObjectState")) => {
                Ok(())
            }
            _ => Err(self.unexpected(key, &answer)),
        }
    }

    async fn lifecycle(&self, prefix: &str) -> Result<Vec<Transition>, ColdError> {
        let whole = format!("{}{prefix}", self.0.config.prefix);
        Ok(lifecycle::transitions(&self.lifecycle_text().await?, &whole))
    }

    async fn set_lifecycle(&self, prefix: &str, transitions: &[Transition]) -> Result<(), ColdError> {
        let whole = format!("{}{prefix}", self.0.config.prefix);
        let text = lifecycle::replaced(&self.lifecycle_text().await?, &whole, transitions);
        let answer = if lifecycle::has_rules(&text) {
            let crc = crc32fast::hash(text.as_bytes());
            let sum = base64::engine::general_purpose::STANDARD.encode(crc.to_be_bytes());
            let headers = [("x-amz-checksum-crc32", sum.as_str()), ("content-type", "application/xml")];
            self.retried("", "PUT", "?lifecycle=", &headers, text.into()).await?
        } else {
            self.retried("", "DELETE", "?lifecycle=", &[], Bytes::new()).await?
        };
        match answer.status {
            200 | 204 => Ok(()),
            _ => Err(self.unexpected("?lifecycle", &answer)),
        }
    }
}

/// Makes clients that count what goes through them.
#[derive(Clone, Debug)]
struct MeteredConnector {
    metrics: ColdMetrics,
}

impl HttpConnector for MeteredConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Metered { inner, metrics: self.metrics.clone() }))
    }
}

#[derive(Debug)]
struct Metered {
    inner: HttpClient,
    metrics: ColdMetrics,
}

#[async_trait::async_trait]
impl HttpService for Metered {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let Self { inner, metrics } = self;
        let is_head = request.method().as_str() == "HEAD";
        let method = request.method().to_string();
        metrics.requests.get_or_create(&vec![("method", method)]).inc();
        metrics.bytes_sent.inc_by(request.body().content_length() as u64);
        let answer = inner.execute(request).await;
        match &answer {
            Ok(response) => {
                if matches!(response.status().as_u16(), 429 | 500..) {
                    metrics.failures.inc();
                }
                let length = response.headers().get("content-length").and_then(|value| value.to_str().ok());
                let bytes = length.and_then(|length| length.parse().ok()).filter(|_| !is_head);
                metrics.bytes_received.inc_by(bytes.unwrap_or(0));
            }
            Err(_) => {
                metrics.failures.inc();
            }
        }
        answer
    }
}
