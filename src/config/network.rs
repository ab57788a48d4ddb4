//! A range of addresses as a setting names it.

use std::net::IpAddr;
use std::str::FromStr;

/// An address, or all that begin with the same bits: `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// How many of its first bits count.
    bits: u8,
}

impl Network {
    /// Whether `address` is one of these.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |mine: &[u8], theirs: &[u8]| {
            let bits = usize::from(self.bits);
            let (whole, rest) = (bits / 8, bits % 8);
            let differing = |at: usize| mine[at] ^ theirs[at];
            (0..whole).all(|at| differing(at) == 0) && (rest == 0 || differing(whole) >> (8 - rest) == 0)
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(mine), IpAddr::V4(theirs)) => same(&mine.octets(), &theirs.octets()),
            (IpAddr::V6(mine), IpAddr::V6(theirs)) => same(&mine.octets(), &theirs.octets()),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: Option<IpAddr> = address.parse().ok();
        let longest = address.map_or(0, |address| if address.is_ipv4() { 32 } else { 128 });
        let bits = bits.map_or(Some(longest), |bits| bits.parse().ok().filter(|bits| *bits <= longest));
        match (address, bits) {
            (Some(address), Some(bits)) => Ok(Self { address, bits }),
            _ => {
                Err(format!("\"{}\" is not an address or a network such as 10.0.0.0/8", text.escape_debug()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_that_begin_alike() {
        let has = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        assert!(has("10.0.0.0/8", "10.9.9.9") && !has("10.0.0.0/8", "11.0.0.0"));
        assert!(has("10.1.2.128/25", "10.1.2.200") && !has("10.1.2.128/25", "10.1.2.127"));
        assert!(has("127.0.0.1", "127.0.0.1") && !has("127.0.0.1", "127.0.0.2"));
        assert!(has("127.0.0.1", "::ffff:127.0.0.1"));
        assert!(has("2001:db8::/33", "2001:db8:7fff::1") && !has("2001:db8::/33", "2001:db8:8000::1"));
        assert!(has("0.0.0.0/0", "1.2.3.4") && !has("0.0.0.0/0", "::1"));
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "proxy", "10.0.0.0/", "10.0.0.0/x"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
