//! Capture files: pcap and pcapng, gzip or not, whatever the extension, down to the UDP payload.
//!
//! Knows files and the layers below UDP; nothing of what the datagrams carry.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::ops::Range;
use std::path::Path;

use etherparse::err::packet::SliceError;
use etherparse::{EtherType, NetSlice, SlicedPacket, TransportSlice};
use pcap_parser::nom::{self, Needed};
use pcap_parser::{Block, Linktype};

use super::FeedError;
use crate::market::Timestamp;

/// The largest block of a capture that is read; a larger one is damage.
const BLOCK_BYTES_MAX: usize = 16 << 20;
const BUFFER_BYTES: usize = 256 << 10;
/// The most interfaces of one pcapng section.
const INTERFACES_MAX: usize = 4096;
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// A packet of a capture.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The bytes captured, from the link layer on.
    pub bytes: &'a [u8],
    /// When it was captured; a pcapng simple packet has no stamp.
    pub stamp: Option<Timestamp>,
    /// Whether more was sent than was captured.
    pub snapped: bool,
    link: Linktype,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// One whole UDP datagram.
    Udp(&'a [u8]),
    /// A fragment of an IPv4 datagram: never put together.
    Fragment,
    /// Less was captured than the headers announce.
    Cut,
    /// Anything else than UDP over IPv4.
    Other,
}

/// A capture file, read packet by packet.
pub struct CaptureFile {
    name: String,
    gzip: bool,
    source: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    filled: Range<usize>,
    /// Where `filled.start` stands in the (unpacked) file.
    offset: u64,
    format: Format,
    truncation: Option<String>,
}

enum Format {
    Pcap { big_endian: bool, nanos_per_unit: i64, link: Linktype },
    PcapNg { big_endian: bool, interfaces: Vec<Interface> },
}

#[derive(Clone, Copy)]
struct Interface {
    link: Linktype,
    units_per_second: u64,
    offset_seconds: i64,
}

/// A packet's place in the buffer.
struct Place {
    bytes: Range<usize>,
    stamp: Option<Timestamp>,
    snapped: bool,
    link: Linktype,
}

enum Step {
    Packet(usize, Place),
    Skip(usize),
    /// At least so many bytes more are needed.
    More(usize),
}

enum Filled {
    Some,
    End,
    Torn,
}

impl CaptureFile {
    /// Opens a capture file.
    ///
    /// Errors: it can't be read, or it is no capture.
    pub fn open(path: &Path) -> Result<Self, FeedError> {
        let name = path.display().to_string();
        let io = |source| FeedError::Io { subject: name.clone(), source };
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.is_dir() {
            return Err(FeedError::Format {
                subject: name,
                reason: "a directory; give a capture file".into(),
            });
        }
        Self::from_reader(name, file)
    }

    /// Reads a capture from `source`; `name` stands for it in messages.
    pub fn from_reader(name: String, mut source: impl Read + Send + 'static) -> Result<Self, FeedError> {
        let mut head = Vec::with_capacity(4);
        (&mut source)
            .take(4)
            .read_to_end(&mut head)
            .map_err(|source| FeedError::Io { subject: name.clone(), source })?;
        let gzip = head.starts_with(&[0x1f, 0x8b]);
        let whole = std::io::Cursor::new(head).chain(source);
        let source: Box<dyn Read + Send> = if gzip {
            let packed = BufReader::with_capacity(BUFFER_BYTES, whole);
            Box::new(flate2::bufread::MultiGzDecoder::new(packed))
        } else {
            Box::new(whole)
        };
        let format = Format::PcapNg { big_endian: false, interfaces: Vec::new() };
        let buffer = vec![0; BUFFER_BYTES];
        let mut file = Self { name, gzip, source, buffer, filled: 0..0, offset: 0, format, truncation: None };
        file.read_header()?;
        Ok(file)
    }

    /// The file's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// At the end: how the file was cut short, when it was.
    pub fn truncation(&self) -> Option<&str> {
        self.truncation.as_deref()
    }

    /// The next packet; `None` at the end.
    ///
    /// Errors: the file can't be read on, or is damaged in the middle. A file cut short at its end
    /// is no error: it ends before the cut, and [`CaptureFile::truncation`] tells.
    pub fn next_packet(&mut self) -> Result<Option<Packet<'_>>, FeedError> {
        while self.truncation.is_none() {
            match self.step()? {
                Step::Packet(used, Place { bytes, stamp, snapped, link }) => {
                    self.consume(used);
                    return Ok(Some(Packet { bytes: &self.buffer[bytes], stamp, snapped, link }));
                }
                Step::Skip(used) => self.consume(used),
                Step::More(missing) => match self.fill(missing)? {
                    Filled::Some => {}
                    Filled::End if self.filled.is_empty() => return Ok(None),
                    Filled::End => self.truncate("the capture ends within a packet"),
                    Filled::Torn => self.truncate("the gzip stream ends too early"),
                },
            }
        }
        Ok(None)
    }

    fn truncate(&mut self, reason: &str) {
        self.truncation = Some(format!("{}: {reason}; everything before it was read", self.place()));
    }

    fn place(&self) -> String {
        let unpacked = if self.gzip { " (unpacked)" } else { "" };
        format!("{}, byte {}{unpacked}", self.name, self.offset)
    }

    fn damaged(&self, reason: impl std::fmt::Display) -> FeedError {
        FeedError::Format { subject: self.place(), reason: reason.to_string() }
    }

    fn consume(&mut self, used: usize) {
        self.filled.start += used;
        self.offset += used as u64;
    }

    /// Reads at least one byte more, with room for `missing`.
    fn fill(&mut self, missing: usize) -> Result<Filled, FeedError> {
        let held = self.filled.len();
        let wanted = held.saturating_add(missing);
        if wanted > BLOCK_BYTES_MAX {
            return Err(self.damaged(format_args!(
                "a block of over {} MiB, so the file is damaged here; cut it before this byte, or capture again",
                BLOCK_BYTES_MAX >> 20
            )));
        }
        if self.filled.end + missing > self.buffer.len() {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..held;
            if wanted > self.buffer.len() {
                self.buffer.resize(wanted.next_power_of_two(), 0);
            }
        }
        loop {
            match self.source.read(&mut self.buffer[self.filled.end..]) {
                Ok(0) => return Ok(Filled::End),
                Ok(read) => {
                    self.filled.end += read;
                    return Ok(Filled::Some);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if self.gzip && error.kind() == ErrorKind::UnexpectedEof => {
                    return Ok(Filled::Torn);
                }
                Err(error)
                    if self.gzip
                        && matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData) =>
                {
                    let reason =
                        format!("the gzip stream is damaged after this byte ({error}); fetch the file again");
                    return Err(self.damaged(reason));
                }
                Err(source) => return Err(FeedError::Io { subject: self.place(), source }),
            }
        }
    }

    fn read_header(&mut self) -> Result<(), FeedError> {
        const PCAP_HEADER_BYTES: usize = 24;
        while self.filled.len() < PCAP_HEADER_BYTES {
            if !matches!(self.fill(PCAP_HEADER_BYTES - self.filled.len())?, Filled::Some) {
                break;
            }
        }
        let data = &self.buffer[self.filled.clone()];
        if data.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
            return Ok(());
        }
        let Ok((_, header)) = pcap_parser::parse_pcap_header(data) else {
            let reason = if data.is_empty() {
                "empty; give a pcap or pcapng capture".to_owned()
            } else {
                let start: Vec<String> = data.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
                let start = start.join(" ");
                format!("not a capture (it starts with {start}); give a pcap or pcapng file, gzip or not")
            };
            return Err(FeedError::Format { subject: self.name.clone(), reason });
        };
        if header.is_modified_format() {
            return Err(
                self.damaged("the modified pcap format is not supported; convert it with `editcap -F pcap`")
            );
        }
        self.format = Format::Pcap {
            big_endian: header.is_bigendian(),
            nanos_per_unit: if header.is_nanosecond_precision() { 1 } else { 1000 },
            // The upper bits tell of a frame check sequence, which the IP length leaves out anyway.
            link: Linktype(header.network.0 & 0x0fff_ffff),
        };
        self.consume(PCAP_HEADER_BYTES);
        Ok(())
    }

    fn step(&mut self) -> Result<Step, FeedError> {
        let data = &self.buffer[self.filled.clone()];
        if data.is_empty() {
            return Ok(Step::More(1));
        }
        let place = |bytes: &[u8]| {
            let start = bytes.as_ptr() as usize - self.buffer.as_ptr() as usize;
            start..start + bytes.len()
        };
        match &mut self.format {
            Format::Pcap { big_endian, nanos_per_unit, link } => {
                let parsed = if *big_endian {
                    pcap_parser::parse_pcap_frame_be(data)
                } else {
                    pcap_parser::parse_pcap_frame(data)
                };
                let (rest, frame) = match parsed {
                    Ok(parsed) => parsed,
                    Err(error) => return self.more_or_damaged(&error),
                };
                let nanos = i64::from(frame.ts_sec) * NANOS_PER_SECOND as i64
                    + i64::from(frame.ts_usec) * *nanos_per_unit;
                Ok(Step::Packet(
                    data.len() - rest.len(),
                    Place {
                        bytes: place(frame.data),
                        stamp: Some(Timestamp::from_nanos(nanos)),
                        snapped: frame.caplen < frame.origlen,
                        link: *link,
                    },
                ))
            }
            Format::PcapNg { big_endian, interfaces } => {
                let parsed = if *big_endian {
                    pcap_parser::parse_block_be(data)
                } else {
                    pcap_parser::parse_block_le(data)
                };
                let (rest, block) = match parsed {
                    Ok(parsed) => parsed,
                    Err(error) => return self.more_or_damaged(&error),
                };
                let used = data.len() - rest.len();
                match block {
                    Block::SectionHeader(section) => {
                        *big_endian = section.big_endian();
                        interfaces.clear();
                    }
                    Block::InterfaceDescription(description) => {
                        let Some(units_per_second) = units_per_second(description.if_tsresol) else {
                            let resolution = description.if_tsresol;
                            return Err(
                                self.damaged(format_args!("an impossible time resolution ({resolution})"))
                            );
                        };
                        if interfaces.len() == INTERFACES_MAX {
                            return Err(self.damaged(format_args!("more than {INTERFACES_MAX} interfaces")));
                        }
                        interfaces.push(Interface {
                            link: description.linktype,
                            units_per_second,
                            // The library reads this option as little-endian in either order.
                            offset_seconds: if *big_endian {
                                description.if_tsoffset.swap_bytes()
                            } else {
                                description.if_tsoffset
                            },
                        });
                    }
                    Block::EnhancedPacket(packet) => {
                        let Some(interface) = interfaces.get(packet.if_id as usize) else {
                            let id = packet.if_id;
                            return Err(self.damaged(format_args!(
                                "a packet of interface {id}, which is not described"
                            )));
                        };
                        let captured = packet.data.get(..packet.caplen as usize).unwrap_or(packet.data);
                        let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                        let place = Place {
                            bytes: place(captured),
                            stamp: Some(interface.stamp(units)),
                            snapped: packet.caplen < packet.origlen,
                            link: interface.link,
                        };
                        return Ok(Step::Packet(used, place));
                    }
                    Block::SimplePacket(packet) => {
                        let Some(interface) = interfaces.first() else {
                            return Err(self.damaged("a packet before any interface was described"));
                        };
                        let captured = packet.data.get(..packet.origlen as usize).unwrap_or(packet.data);
                        let place = Place {
                            bytes: place(captured),
                            stamp: None,
                            snapped: captured.len() < packet.origlen as usize,
                            link: interface.link,
                        };
                        return Ok(Step::Packet(used, place));
                    }
                    _ => {}
                }
                Ok(Step::Skip(used))
            }
        }
    }

    fn more_or_damaged(&self, error: &nom::Err<pcap_parser::PcapError<&[u8]>>) -> Result<Step, FeedError> {
        match error {
            nom::Err::Incomplete(Needed::Size(missing)) => Ok(Step::More(missing.get())),
            nom::Err::Incomplete(Needed::Unknown) => Ok(Step::More(1)),
            _ => Err(self.damaged("the capture is damaged here; cut it before this byte, or capture again")),
        }
    }
}

/// A power of ten, or of two when the highest bit is set: pcapng, option `if_tsresol`. The library
/// refuses every power of two.
fn units_per_second(resolution: u8) -> Option<u64> {
    let exponent = u32::from(resolution & 0x7f);
    if resolution & 0x80 == 0 { 10_u64.checked_pow(exponent) } else { 1_u64.checked_shl(exponent) }
}

impl Interface {
    fn stamp(&self, units: u64) -> Timestamp {
        let (seconds, rest) = (units / self.units_per_second, units % self.units_per_second);
        let fraction = i128::from(rest) * NANOS_PER_SECOND / i128::from(self.units_per_second);
        let nanos = (i128::from(seconds) + i128::from(self.offset_seconds)) * NANOS_PER_SECOND + fraction;
        Timestamp::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
    }
}

impl<'a> Packet<'a> {
    /// What the packet carries: Ethernet with any VLAN tags, Linux cooked, loopback or raw IP, then
    /// IPv4 and UDP.
    pub fn payload(&self) -> Payload<'a> {
        let after = |header_bytes: usize| self.bytes.get(header_bytes..).unwrap_or_default();
        let sliced = match self.link {
            Linktype::ETHERNET => SlicedPacket::from_ethernet(self.bytes),
            Linktype::LINUX_SLL => SlicedPacket::from_linux_sll(self.bytes),
            Linktype::LINUX_SLL2 => match self.bytes.first_chunk::<2>() {
                Some(&kind) => SlicedPacket::from_ether_type(EtherType(u16::from_be_bytes(kind)), after(20)),
                None => return Payload::Cut,
            },
            Linktype::NULL | Linktype::LOOP => SlicedPacket::from_ip(after(4)),
            Linktype::RAW | Linktype::IPV4 => SlicedPacket::from_ip(self.bytes),
            _ => return Payload::Other,
        };
        match sliced {
            Ok(SlicedPacket { net: Some(NetSlice::Ipv4(ip)), transport, .. }) => match transport {
                _ if ip.is_payload_fragmented() => Payload::Fragment,
                Some(TransportSlice::Udp(udp)) => Payload::Udp(udp.payload()),
                _ => Payload::Other,
            },
            Err(SliceError::Len(_)) => Payload::Cut,
            Ok(_) | Err(_) => Payload::Other,
        }
    }
}
