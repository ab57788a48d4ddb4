//! The header of a segment: which part of the log its keyspace holds.

/// Of the header, after every record of a segment.
pub(super) const HEADER_KEY: [u8; 2] = [0xff, 0xff];

/// Version 1 had a keyspace for each segment, whose name told the id. Earlier programs refuse this one.
const VERSION: u8 = 2;
const SEGMENT: u8 = 0;
const DROPPED: u8 = 1;
/// A segment that does not begin where the one before it ended.
const SKIPPED: u8 = 2;

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
    /// By partition, the offset after the last record before it.
    pub(super) befores: Vec<u64>,
}

impl Header {
    /// `u8` version, `u8` kind, `u64` id, `u64` created, `u64` bytes before, `u16` partitions, each `u64`
    /// start and, where they differ, each `u64` before; little-endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let is_skipped = self.starts != self.befores;
        let mut out = vec![VERSION, if is_skipped { SKIPPED } else { SEGMENT }];
        out.extend(self.id.to_le_bytes());
        out.extend(self.created_ms.to_le_bytes());
        out.extend(self.bytes_before.to_le_bytes());
        out.extend((self.starts.len() as u16).to_le_bytes());
        let befores = self.befores.iter().filter(|_| is_skipped);
        self.starts.iter().chain(befores).for_each(|offset| out.extend(offset.to_le_bytes()));
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
        let (mut id, mut lists) = (named, 1);
        match version {
            1 => {}
            VERSION => {
                let (&kind, of_kind) = rest.split_first().ok_or_else(damaged)?;
                let (bytes, after) = of_kind.split_first_chunk().ok_or_else(damaged)?;
                (id, rest) = (u64_of(bytes), after);
                match kind {
                    SEGMENT => {}
                    SKIPPED => lists = 2,
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
        let (offsets, rest) = rest.as_chunks();
        let partitions = usize::from(u16::from_le_bytes(*partitions));
        if !rest.is_empty() || offsets.len() != partitions * lists {
            return Err(damaged());
        }
        let offsets: Vec<u64> = offsets.iter().map(u64_of).collect();
        let (starts, befores) =
            (offsets[..partitions].to_vec(), offsets[offsets.len() - partitions..].to_vec());
        let (created_ms, bytes_before) = (u64_of(created_ms), u64_of(bytes_before));
        Ok(Ok(Self { id, created_ms, bytes_before, starts, befores }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_both_versions_are_read_and_later_ones_refused() {
        let starts = vec![3, 0, 9];
        let befores = starts.clone();
        let header = Header { id: 7, created_ms: 1_000, bytes_before: 5_000, starts, befores };
        assert_eq!(Header::decode(&header.encode(), 3), Ok(Ok(header.clone())));
        let skipped = Header { befores: vec![2, 0, 4], ..header.clone() };
        assert_eq!(Header::decode(&skipped.encode(), 3), Ok(Ok(skipped)));
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
