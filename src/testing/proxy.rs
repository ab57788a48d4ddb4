//! A proxy that fails as networks do: it holds a request back, cuts it off before, amid or after, or
//! has it done and loses the reply.
//!
//! Speaks HTTP/1.1 without TLS, one request a connection. Bodies and, where a fault needs it, replies
//! are held in memory: it is for tests.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection is cut; nothing is forwarded.
    Cut,
    /// Half of the body (of the head, where there is none) is forwarded, then both ends are cut.
    CutRequest,
    /// The request is done, its reply read to the end and not given on.
    LoseReply,
    /// The request is done, half of its reply given on.
    CutReply,
    /// The request is not forwarded; the answer has this status and no body.
    Answer(u16),
    /// The request waits here until the gate is opened, then goes on as if nothing was.
    Hold(Gate),
    /// The connection is cut, and the request is done all the same, once the gate is opened: it lay
    /// somewhere on its way until after its sender had given it up.
    Late(Gate),
}

/// Where held requests wait.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    opened: Arc<Semaphore>,
    reached: Arc<Semaphore>,
    landed: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let none = || Arc::new(Semaphore::new(0));
        Self { opened: none(), reached: none(), landed: none() }
    }

    /// Lets through what waits and all that comes.
    pub(crate) fn open(&self) {
        self.opened.close();
    }

    /// Waits until a request waits.
    pub(crate) async fn reached(&self) {
        let permit = self.reached.acquire().await;
        permit.expect("never closed").forget();
    }

    /// Waits until a request that waited is done.
    pub(crate) async fn landed(&self) {
        let permit = self.landed.acquire().await;
        permit.expect("never closed").forget();
    }

    async fn pass(&self) {
        self.reached.add_permits(1);
        // Closed is opened: no permit is ever given.
        let _ = self.opened.acquire().await;
    }
}

/// A fault for one request.
struct Rule {
    /// What the request line, decoded, or the body has in it.
    needle: String,
    /// Matching requests that pass before.
    skip: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    requests: Vec<String>,
    fired: usize,
}

/// A proxy in front of one server. Dropped, it cuts every connection.
pub(crate) struct Proxy {
    url: String,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// In front of `url` (`http://host:port`).
    pub(crate) async fn to(url: &str) -> Self {
        let upstream = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound listener"));
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        let (upstream, state) = (upstream.clone(), shared.clone());
                        connections.spawn(async move {
                            // A cut connection is what it is for.
                            let _ = serve(stream, &upstream, &state).await;
                        });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { url, state, task }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the `nth` request from now on, from 0, meet `fault`.
    pub(crate) fn fail(&self, nth: usize, fault: Fault) {
        self.fail_on("", nth, fault);
    }

    /// The same of requests with `needle` in the request line, decoded, or in the body.
    pub(crate) fn fail_on(&self, needle: &str, nth: usize, fault: Fault) {
        self.state().rules.push(Rule { needle: needle.to_owned(), skip: nth, fault });
    }

    /// Forgets faults that were not met.
    pub(crate) fn heal(&self) {
        self.state().rules.clear();
    }

    /// Faults met so far.
    pub(crate) fn fired(&self) -> usize {
        self.state().fired
    }

    /// Every request so far: its line, decoded, and the beginning of its body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }
}

/// The fault that this request meets, if one does.
fn fault_of(state: &Mutex<State>, head: &[u8], body: &[u8]) -> Option<Fault> {
    let line = String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or_default());
    let line = decoded(&line);
    let body = String::from_utf8_lossy(body);
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.requests.push(format!("{line} {}", body.chars().take(200).collect::<String>()));
    let mut met = None;
    for (at, rule) in state.rules.iter_mut().enumerate() {
        if line.contains(&rule.needle) || body.contains(&rule.needle) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if met.is_none() {
                met = Some(at);
            }
        }
    }
    let rule = state.rules.remove(met?);
    state.fired += 1;
    Some(rule.fault)
}

/// `%41+b` as `A b`.
fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                out.push(value);
                rest = &after[2..];
                continue;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(byte),
        }
        rest = after;
    }
    String::from_utf8_lossy(&out).into_owned()
}

async fn serve(mut client: TcpStream, upstream: &str, state: &Mutex<State>) -> std::io::Result<()> {
    let Some((head, body)) = read_request(&mut client).await? else { return Ok(()) };
    let fault = fault_of(state, &head, &body);
    let mut head = head;
    close_after(&mut head);
    match &fault {
        Some(Fault::Cut) => return Ok(()),
        Some(Fault::Answer(status)) => {
            let answer = format!("HTTP/1.1 {status} Fault\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            client.write_all(answer.as_bytes()).await?;
            return client.shutdown().await;
        }
        Some(Fault::CutRequest) => {
            let mut server = TcpStream::connect(upstream).await?;
            let half = if body.is_empty() { &head[..head.len() / 2] } else { &head };
            server.write_all(half).await?;
            server.write_all(&body[..body.len() / 2]).await?;
            server.shutdown().await?;
            // What the server says to that, so that it has noticed.
            let mut said = Vec::new();
            server.read_to_end(&mut said).await?;
            return Ok(());
        }
        Some(Fault::Hold(gate)) => {
            gate.pass().await;
            // Also of a client that has gone meanwhile.
            let mut reply = forwarded(upstream, &head, &body).await?;
            gate.landed.add_permits(1);
            close_after(&mut reply);
            client.write_all(&reply).await?;
            return client.shutdown().await;
        }
        Some(Fault::Late(gate)) => {
            drop(client);
            gate.pass().await;
            forwarded(upstream, &head, &body).await?;
            gate.landed.add_permits(1);
            return Ok(());
        }
        Some(Fault::LoseReply | Fault::CutReply) | None => {}
    }
    if matches!(fault, Some(Fault::LoseReply | Fault::CutReply)) {
        let reply = forwarded(upstream, &head, &body).await?;
        if matches!(fault, Some(Fault::CutReply)) {
            client.write_all(&reply[..reply.len() / 2]).await?;
        }
        return Ok(());
    }
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(&head).await?;
    server.write_all(&body).await?;
    let mut reply_head = read_head(&mut server).await?;
    close_after(&mut reply_head);
    client.write_all(&reply_head).await?;
    // Either end may go: a client that has had enough ends the server's work, too.
    let mut ignored = [0; 1];
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, _to_server) = server.split();
    tokio::select! {
        copied = tokio::io::copy(&mut from_server, &mut to_client) => {
            copied?;
            to_client.shutdown().await
        }
        _ = from_client.read(&mut ignored) => Ok(()),
    }
}

/// Has a request done: the whole reply.
async fn forwarded(upstream: &str, head: &[u8], body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(head).await?;
    server.write_all(body).await?;
    let mut reply = Vec::new();
    server.read_to_end(&mut reply).await?;
    Ok(reply)
}

/// The head up to and with its empty line, and what of the rest has come with it, in one.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while head_len(&bytes).is_none() {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes)
}

fn head_len(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Tells both ends that the connection is for this one request.
fn close_after(head: &mut Vec<u8>) {
    let Some(len) = head_len(head) else { return };
    let text = String::from_utf8_lossy(&head[..len - 4]).into_owned();
    let mut lines: Vec<&str> =
        text.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("connection:")).collect();
    lines.push("connection: close\r\n\r\n");
    let rest = head.split_off(len);
    *head = lines.join("\r\n").into_bytes();
    head.extend(rest);
}

/// A request's head and body, the body as it is on the wire. `None`: the client had none.
async fn read_request(client: &mut TcpStream) -> std::io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let Ok(mut head) = read_head(client).await else { return Ok(None) };
    let len = head_len(&head).unwrap_or(head.len());
    let mut body = head.split_off(len);
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name).map(str::trim));
    if field("expect:").is_some() {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let chunked = field("transfer-encoding:").is_some_and(|value| value.contains("chunked"));
    let length: usize = field("content-length:").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut seen = 0;
    while if chunked { !chunks_end(&body, &mut seen) } else { body.len() < length } {
        if client.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some((head, body)))
}

/// Whether the last chunk has come. `seen` is where the next chunk begins.
fn chunks_end(body: &[u8], seen: &mut usize) -> bool {
    loop {
        let rest = body.get(*seen..).unwrap_or_default();
        let Some(line) = rest.windows(2).position(|window| window == b"\r\n") else { return false };
        let size = std::str::from_utf8(&rest[..line]).ok().and_then(|size| {
            usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16).ok()
        });
        let Some(size) = size else { return true };
        let end = *seen + line + 2 + size + 2;
        if body.len() < end {
            return false;
        }
        *seen = end;
        if size == 0 {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_are_decoded() {
        assert_eq!(decoded("POST /?q=INSERT+INTO%20a%2"), "POST /?q=INSERT INTO a%2");
    }

    #[test]
    fn chunked_bodies_end_with_their_last_chunk() {
        let body = b"4\r\nab\r\n\r\n3;x=y\r\n0\r\n\r\n0\r\n\r\n";
        for len in 0..body.len() {
            assert!(!chunks_end(&body[..len], &mut 0), "{len}");
        }
        assert!(chunks_end(body, &mut 0));
    }

    #[test]
    fn connections_are_for_one_request() {
        let mut head = b"GET / HTTP/1.1\r\nConnection: keep-alive\r\nhost: x\r\n\r\nrest".to_vec();
        close_after(&mut head);
        assert_eq!(head, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\nrest");
    }
}
