//! The log: every received batch, verbatim, before anything else is done with it.
//!
//! A log file is a header and frames; `docs/formats/log-v1.md` has the
//! picture. Reading never fails because of damage: what cannot be read is
//! skipped up to the next frame that can, and named.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use whodunit_model::BootId;

use crate::boots::ProxyName;
use crate::segment::GENERATION_MAX;

/// First bytes of a log file; a version number follows.
const FILE_MAGIC: [u8; 12] = *b"WHODUNIT-LOG";

/// The version this build writes and the newest it reads.
pub(crate) const VERSION: u32 = 1;

/// Bytes before the first frame.
const FILE_HEADER_BYTES: usize = 16;

/// First bytes of a frame. Not text, so that batches seldom contain them.
const FRAME_MAGIC: [u8; 4] = [0xf5, b'W', b'D', 0x0a];

/// Magic, body length and CRC.
const FRAME_HEADER_BYTES: usize = 12;

/// Longest body that is written or believed.
const BODY_BYTES_MAX: usize = 96 << 20;

/// Largest payload of a batch.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 80 << 20;

/// Longest part of a proxy's name.
pub(crate) const NAME_BYTES_MAX: usize = 1024;

const KIND_BATCH: u8 = 1;
const KIND_CLOSING: u8 = 2;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Who sent it.
    pub(crate) proxy: ProxyName,
    pub(crate) boot: BootId,
    /// Number of the batch; for a closing, of the last one.
    pub(crate) sequence: u64,
    /// When it came, µs since the epoch.
    pub(crate) received_us: i64,
    /// The proxy's clock minus the store's, µs.
    pub(crate) clock_offset_us: i64,
    /// The batch as received; none for a closing.
    pub(crate) payload: Option<&'a [u8]>,
}

impl Frame<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&FRAME_MAGIC);
        out.extend_from_slice(&[0; 8]);
        out.push(if self.payload.is_some() {
            KIND_BATCH
        } else {
            KIND_CLOSING
        });
        out.extend_from_slice(&self.received_us.to_le_bytes());
        out.extend_from_slice(&self.clock_offset_us.to_le_bytes());
        out.extend_from_slice(&self.boot.0.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        for name in [
            &self.proxy.namespace,
            &self.proxy.workload,
            &self.proxy.instance,
        ] {
            let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&name.as_bytes()[..usize::from(length)]);
        }
        out.extend_from_slice(self.payload.unwrap_or_default());
        let body = out.len() - FRAME_HEADER_BYTES;
        let length = u32::try_from(body).unwrap_or(u32::MAX).to_le_bytes();
        out[4..8].copy_from_slice(&length);
        let sum = checksum(&length, &out[FRAME_HEADER_BYTES..]);
        out[8..12].copy_from_slice(&sum.to_le_bytes());
    }
}

fn checksum(length: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(body);
    hasher.finalize()
}

/// Returns the frame at the start of `bytes` and its length, if there is a whole one.
fn read_frame(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let header = bytes.get(..FRAME_HEADER_BYTES)?;
    if header[..4] != FRAME_MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(header[4..8].try_into().ok()?) as usize;
    if length > BODY_BYTES_MAX {
        return None;
    }
    let end = FRAME_HEADER_BYTES + length;
    let body = bytes.get(FRAME_HEADER_BYTES..end)?;
    let sum = u32::from_le_bytes(header[8..12].try_into().ok()?);
    if checksum(&header[4..8], body) != sum {
        return None;
    }
    Some((read_body(body)?, end))
}

fn read_body(body: &[u8]) -> Option<Frame<'_>> {
    let (kind, mut rest) = body.split_first()?;
    let mut word = || -> Option<[u8; 8]> {
        let (word, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some(*word)
    };
    let received_us = i64::from_le_bytes(word()?);
    let clock_offset_us = i64::from_le_bytes(word()?);
    let boot = BootId(u64::from_le_bytes(word()?));
    let sequence = u64::from_le_bytes(word()?);
    let mut name = || -> Option<&str> {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (name, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        rest = after;
        std::str::from_utf8(name).ok()
    };
    let proxy = ProxyName {
        namespace: name()?.into(),
        workload: name()?.into(),
        instance: name()?.into(),
    };
    let payload = match *kind {
        KIND_BATCH => Some(rest),
        KIND_CLOSING => None,
        _ => return None,
    };
    Some(Frame {
        proxy,
        boot,
        sequence,
        received_us,
        clock_offset_us,
        payload,
    })
}

/// One step of reading a log file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// A whole frame.
    Frame(Frame<'a>),
    /// Bytes that are no frame, followed by one.
    Damaged(Range<usize>),
    /// Bytes that are no frame, up to the end of the file.
    Torn(Range<usize>),
}

/// Reads the frames of a log file.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The file says that a newer version wrote it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Newer(pub(crate) u32);

impl<'a> Reader<'a> {
    /// Begins to read. A header that cannot be read counts as damage, not as an error.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Newer> {
        let mut at = 0;
        if let Some((header, _)) = bytes.split_first_chunk::<FILE_HEADER_BYTES>()
            && header[..12] == FILE_MAGIC
        {
            let version = [header[12], header[13], header[14], header[15]];
            let version = u32::from_le_bytes(version);
            if version > VERSION {
                return Err(Newer(version));
            }
            at = FILE_HEADER_BYTES;
        }
        Ok(Self { bytes, at })
    }

    /// Says whether the file begins with a whole header.
    pub(crate) fn has_header(bytes: &[u8]) -> bool {
        bytes.len() >= FILE_HEADER_BYTES && bytes[..12] == FILE_MAGIC
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        if self.at >= self.bytes.len() {
            return None;
        }
        if let Some((frame, length)) = read_frame(&self.bytes[self.at..]) {
            self.at += length;
            return Some(Step::Frame(frame));
        }
        let from = self.at;
        let mut at = from + 1;
        while let Some(next) = find(&self.bytes[at.min(self.bytes.len())..], &FRAME_MAGIC) {
            at += next;
            if read_frame(&self.bytes[at..]).is_some() {
                self.at = at;
                return Some(Step::Damaged(from..at));
            }
            at += 1;
        }
        self.at = self.bytes.len();
        Some(Step::Torn(from..self.at))
    }
}

fn find(bytes: &[u8], wanted: &[u8; 4]) -> Option<usize> {
    bytes.windows(4).position(|window| window == wanted)
}

/// Path of log file `number`.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// Returns the log files of a directory by number, ascending.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path
            .extension()
            .filter(|extension| *extension == "log")
            .and_then(|_| path.file_stem()?.to_str()?.parse().ok())
            .filter(|number| *number <= GENERATION_MAX);
        if let Some(number) = number {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Appends frames to one log file.
#[derive(Debug)]
pub(crate) struct Writer {
    file: std::sync::Arc<File>,
    path: PathBuf,
    number: u64,
    length: u64,
    buffer: Vec<u8>,
    /// Part of a frame could not be taken back: nothing may follow it.
    broken: bool,
}

impl Writer {
    /// Creates log file `number`. It must not exist.
    pub(crate) fn create(dir: &Path, number: u64) -> io::Result<Self> {
        let path = path(dir, number);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path)?;
        let mut header = FILE_MAGIC.to_vec();
        header.extend_from_slice(&VERSION.to_le_bytes());
        (&file).write_all(&header)?;
        Ok(Self {
            file: file.into(),
            path,
            number,
            length: FILE_HEADER_BYTES as u64,
            buffer: Vec::new(),
            broken: false,
        })
    }

    /// Goes on at the end of log file `number`, which has a header and whole frames.
    pub(crate) fn resume(dir: &Path, number: u64, length: u64) -> io::Result<Self> {
        let path = path(dir, number);
        let file = OpenOptions::new().append(true).open(&path)?;
        file.set_len(length)?;
        Ok(Self {
            file: file.into(),
            path,
            number,
            length,
            buffer: Vec::new(),
            broken: false,
        })
    }

    /// Appends a frame. After an error the file is as it was before, or the
    /// writer is broken and takes nothing any more.
    pub(crate) fn append(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other(
                "an earlier frame was written in part and could not be taken back",
            ));
        }
        frame.write(&mut self.buffer);
        if let Err(error) = (&*self.file).write_all(&self.buffer) {
            self.broken = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += self.buffer.len() as u64;
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    pub(crate) fn file(&self) -> std::sync::Arc<File> {
        self.file.clone()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Says whether nothing can be appended any more.
    pub(crate) const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Says whether no frame was written.
    pub(crate) const fn is_empty(&self) -> bool {
        self.length <= FILE_HEADER_BYTES as u64
    }
}

#[cfg(test)]
mod tests;
