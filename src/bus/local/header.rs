//! The header of a segment: which part of the log its keyspace holds.

/// Of the header, after every record of a segment.
pub(super) const HEADER_KEY: [u8; 2] = [0xff, 0xff];

/// Version 1 had a keyspace for each segment, whose name told the id. Earlier programs refuse this one.
const VERSION: u8 = 2;
const SEGMENT: u8 = 0;
const DROPPED: u8 = 1;

/// Which part of the log a keyspace holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Counted over all segments, from 0.
    pub(super) id: u64,
    /// When it was begun, ms since the epoch.
    pub(super) created_ms: u64,
    /// Bytes of all records ever appended before it.
    pub(super) bytes_before: u64,
    /// By partition, the offset of its first record here.
    pub(super) starts: Vec<u64>,
}

impl Header {
    /// `u8` version, `u8` kind, `u64` id, `u64` created, `u64` bytes before, `u16` partitions, each `u64`
    /// start; little-endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, SEGMENT];
        out.extend(self.id.to_le_bytes());
        out.extend(self.created_ms.to_le_bytes());
        out.extend(self.bytes_before.to_le_bytes());
        out.extend((self.starts.len() as u16).to_le_bytes());
        self.starts.iter().for_each(|start| out.extend(start.to_le_bytes()));
        out
    }

    /// What stands in the place of the header of segment `id` once it is dropped: `u8` version, `u8` kind,
    /// `u64` id.
    pub(super) fn dropped(id: u64) -> Vec<u8> {
        let mut out = vec![VERSION, DROPPED];
        out.extend(id.to_le_bytes());
        out
    }

    /// The header, or the id of the segment that was dropped from the keyspace; `named` is the id in the
    /// keyspace's name.
    pub(super) fn decode(bytes: &[u8], named: u64) -> Result<Result<Self, u64>, String> {
        let damaged = || "the header of a segment is damaged".to_owned();
        let u64_of = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let (&version, mut rest) = bytes.split_first().ok_or_else(damaged)?;
        let mut id = named;
        match version {
            1 => {}
            VERSION => {
                let (&kind, of_kind) = rest.split_first().ok_or_else(damaged)?;
                let (bytes, after) = of_kind.split_first_chunk().ok_or_else(damaged)?;
                (id, rest) = (u64_of(bytes), after);
                match kind {
                    SEGMENT => {}
                    DROPPED if rest.is_empty() => return Ok(Err(id)),
                    _ => return Err(damaged()),
                }
            }
            _ => {
                return Err(format!(
                    "it is of version {version}; this program reads up to version {VERSION}: use a newer stk"
                ));
            }
        }
        let (created_ms, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (bytes_before, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (partitions, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (starts, rest) = rest.as_chunks();
        if !rest.is_empty() || starts.len() != usize::from(u16::from_le_bytes(*partitions)) {
            return Err(damaged());
        }
        let (created_ms, bytes_before) = (u64_of(created_ms), u64_of(bytes_before));
        Ok(Ok(Self { id, created_ms, bytes_before, starts: starts.iter().map(u64_of).collect() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_both_versions_are_read_and_later_ones_refused() {
        let header = Header { id: 7, created_ms: 1_000, bytes_before: 5_000, starts: vec![3, 0, 9] };
        assert_eq!(Header::decode(&header.encode(), 3), Ok(Ok(header.clone())));
        assert_eq!(Header::decode(&Header::dropped(6), 3), Ok(Err(6)));
        let mut first = header.encode();
        first.splice(..10, [1]);
        assert_eq!(Header::decode(&first, 7), Ok(Ok(header.clone())));
        let mut later = header.encode();
        later[0] = 3;
        let refused = Header::decode(&later, 7).unwrap_err();
        assert!(refused.contains("use a newer stk"), "{refused}");
        for end in 0..header.encode().len() {
            assert!(Header::decode(&header.encode()[..end], 7).is_err(), "cut at byte {end}");
        }
    }
}
