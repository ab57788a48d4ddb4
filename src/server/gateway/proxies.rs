//! Who a client is where it comes through a proxy: the PROXY protocol (HAProxy's, versions 1 and 2), and
//! `Forwarded` (RFC 7239) or `X-Forwarded-For`. Only proxies that are trusted are believed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use axum::http::HeaderMap;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::config::Network;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version, family and length.
const V2_HEAD_BYTES: usize = 16;
const V1_BYTES_MAX: usize = 107;
/// The longest head that is read: addresses, and what proxies add to them.
const HEAD_BYTES_MAX: usize = 4096;
/// How long a proxy may take over it.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// Whether `address` is one of `networks`.
pub(super) fn is_trusted(networks: &[Network], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// No PROXY protocol: a request.
    None,
    /// More bytes are needed to tell.
    Incomplete,
    /// A head of so many bytes, with the client's address unless the proxy speaks for itself.
    Proxy(Option<IpAddr>, usize),
    /// It begins like a head and is none.
    Malformed,
}

/// Reads the PROXY protocol's head, where a trusted proxy sends one: the client's address, and what
/// was read beyond it.
pub(super) async fn read_head(stream: &mut TcpStream) -> io::Result<(Option<IpAddr>, Vec<u8>)> {
    let mut bytes = Vec::new();
    let read = async {
        loop {
            match parse(&bytes) {
                Head::None => return Ok((None, std::mem::take(&mut bytes))),
                Head::Proxy(address, length) => return Ok((address, bytes.split_off(length))),
                Head::Malformed => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a malformed PROXY head"));
                }
                Head::Incomplete => {}
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    tokio::time::timeout(HEAD_MAX, read).await.map_err(|_| io::ErrorKind::TimedOut)?
}

fn parse(bytes: &[u8]) -> Head {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        return if bytes.len() < V2_HEAD_BYTES { Head::Incomplete } else { parse_v2(bytes) };
    }
    if begins(b"PROXY ") {
        return parse_v1(bytes);
    }
    Head::None
}

fn parse_v1(bytes: &[u8]) -> Head {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_BYTES_MAX { Head::Incomplete } else { Head::Malformed };
    };
    let Ok(line) = std::str::from_utf8(&bytes[..end]) else { return Head::Malformed };
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Head::Proxy(None, end + 2),
        ["PROXY", "TCP4" | "TCP6", source, _, _, _] => match source.parse::<IpAddr>() {
            Ok(address) => Head::Proxy(Some(address.to_canonical()), end + 2),
            Err(_) => Head::Malformed,
        },
        _ => Head::Malformed,
    }
}

fn parse_v2(bytes: &[u8]) -> Head {
    let (version, family) = (bytes[12], bytes[13]);
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if version >> 4 != 2 || V2_HEAD_BYTES + length > HEAD_BYTES_MAX {
        return Head::Malformed;
    }
    let Some(rest) = bytes.get(V2_HEAD_BYTES..V2_HEAD_BYTES + length) else { return Head::Incomplete };
    // Command LOCAL: the proxy asks for itself, such as whether the server lives.
    let address = match (version & 0x0f, family >> 4) {
        (1, 1) => rest.first_chunk::<4>().map(|octets| IpAddr::from(Ipv4Addr::from(*octets))),
        (1, 2) => rest.first_chunk::<16>().map(|octets| IpAddr::from(Ipv6Addr::from(*octets)).to_canonical()),
        _ => return Head::Proxy(None, V2_HEAD_BYTES + length),
    };
    address.map_or(Head::Malformed, |address| Head::Proxy(Some(address), V2_HEAD_BYTES + length))
}

/// The client's address: `peer`, or behind trusted proxies the last address in the headers that is
/// not a trusted proxy's own. Most proxies write one of the two headers and pass the other on as the
/// client sent it: where both stand and name different clients, neither is believed.
pub(super) fn client(networks: &[Network], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    if !is_trusted(networks, peer) {
        return peer;
    }
    let values = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(|hop| hop.trim().to_owned()).collect()
    };
    let forwarded: Vec<String> = values("forwarded").iter().map(|hop| forwarded_for(hop)).collect();
    let named = [forwarded, values("x-forwarded-for")].map(|hops| last_untrusted(networks, peer, &hops));
    match named {
        [Some(client), None] | [None, Some(client)] => client,
        [Some(client), Some(other)] if client == other => client,
        _ => peer,
    }
}

/// The last of `hops` that is not a trusted proxy; `None` where there are no hops.
fn last_untrusted(networks: &[Network], peer: IpAddr, hops: &[String]) -> Option<IpAddr> {
    let mut client = peer;
    for hop in hops.iter().rev() {
        // What stands before a hop that is hidden or garbled is the client's own word.
        let Some(address) = address_of(hop) else { break };
        client = address;
        if !is_trusted(networks, client) {
            break;
        }
    }
    (!hops.is_empty()).then_some(client)
}

/// The node after `for=` of one element of `Forwarded`; empty where there is none.
fn forwarded_for(element: &str) -> String {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let node = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for")).map(|(_, node)| node);
    node.map(|node| node.trim().trim_matches('"').to_owned()).next().unwrap_or_default()
}

/// Reads `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(text, |(host, _)| host);
    let address = bare.parse::<IpAddr>().ok();
    address
        .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|at| at.ip()))
        .map(|at| at.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn heads_of_both_versions_are_read_however_they_are_cut() {
        let v2 = |command: u8, family: u8, address: &[u8]| {
            let mut head = SIGNATURE.to_vec();
            head.extend([0x20 | command, family]);
            head.extend((address.len() as u16).to_be_bytes());
            head.extend(address);
            head
        };
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0, 80, 0, 81];
        let v6: Vec<u8> = [[0x20, 1, 0xd, 0xb8].as_slice(), &[0; 11], &[9], &[0; 20]].concat();
        let heads = [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 5 80\r\n".to_vec(), Some("192.0.2.7")),
            (b"PROXY TCP6 2001:db8::9 ::1 5 80\r\n".to_vec(), Some("2001:db8::9")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (v2(1, 0x11, &v4), Some("192.0.2.7")),
            (v2(1, 0x21, &v6), Some("2001:db8::9")),
            (v2(0, 0, &[]), None),
        ];
        for (head, address) in heads {
            for cut in 0..head.len() {
                assert_eq!(parse(&head[..cut]), Head::Incomplete, "{head:?} cut at {cut}");
            }
            let whole = [head.as_slice(), b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&whole), Head::Proxy(address.map(ip), head.len()), "{head:?}");
        }
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Head::None);
        assert_eq!(parse(b"POST /"), Head::None);
        for bad in [&b"PROXY TCP4 x y 1 2\r\n"[..], b"PROXY \r\n", v2(1, 0x11, &[1]).as_slice()] {
            assert!(matches!(parse(bad), Head::Malformed | Head::Incomplete), "{bad:?}");
        }
        assert_eq!(parse(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()), Head::Malformed);
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: Vec<Network> = ["10.0.0.0/8", "::1"].map(|text| text.parse().unwrap()).to_vec();
        let seen = |peer: &str, name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            client(&trusted, ip(peer), &headers).to_string()
        };
        let xff = "x-forwarded-for";
        assert_eq!(seen("192.0.2.1", xff, "1.1.1.1"), "192.0.2.1", "not a proxy of ours");
        assert_eq!(seen("10.0.0.1", xff, "6.6.6.6, 1.1.1.1, 10.2.2.2"), "1.1.1.1", "the rest is hearsay");
        assert_eq!(seen("::1", xff, "10.3.3.3"), "10.3.3.3");
        assert_eq!(seen("10.0.0.1", xff, "1.1.1.1, unknown"), "10.0.0.1");
        let forwarded = "for=6.6.6.6;proto=https, For=\"[2001:db8::1]:4711\";by=10.0.0.1";
        assert_eq!(seen("10.0.0.1", "forwarded", forwarded), "2001:db8::1");
        assert_eq!(seen("10.0.0.1", "forwarded", "for=1.2.3.4:99"), "1.2.3.4");
        assert_eq!(seen("10.0.0.1", "forwarded", "by=1.2.3.4"), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", "accept", "*/*"), "10.0.0.1");
        // One header is the proxy's, the other may be the client's own invention.
        let both = |forwarded: &str, x_forwarded_for: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("forwarded", forwarded.parse().unwrap());
            headers.insert(xff, x_forwarded_for.parse().unwrap());
            client(&trusted, ip("10.0.0.1"), &headers).to_string()
        };
        assert_eq!(both("for=6.6.6.6", "1.1.1.1"), "10.0.0.1");
        assert_eq!(both("for=6.6.6.6, for=1.1.1.1", "1.1.1.1"), "1.1.1.1");
    }
}
