//! Keeps what processes print: on disk within a bound, and the last lines at hand.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Size at which a log becomes `NAME.log.1` and a new one is begun, in bytes.
/// With the one that is kept a process costs at most twice as much disk.
pub(crate) const BYTES_MAX: u64 = 10 * 1024 * 1024;

/// Lines kept at hand: enough for the end of a stack trace.
const TAIL_LINES_MAX: usize = 20;

/// Longest line kept at hand, in bytes.
const TAIL_LINE_BYTES_MAX: usize = 1_024;

/// A file that is begun anew when it is full; one predecessor is kept.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl LogFile {
    /// Opens the file to append to it.
    pub(crate) fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
            bytes_max,
        })
    }

    /// Appends bytes as they are.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.bytes_max {
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            std::fs::rename(&self.path, before)?;
            *self = Self::open(&self.path, self.bytes_max)?;
        }
        self.file.write_all(bytes)?;
        self.bytes += length;
        Ok(())
    }
}

/// The last lines that a process printed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail(Arc<Mutex<TailState>>);

#[derive(Debug, Default)]
struct TailState {
    lines: VecDeque<String>,
    /// The line that is not finished yet.
    open: Vec<u8>,
}

impl Tail {
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = piece.strip_suffix(b"\n");
            let room = TAIL_LINE_BYTES_MAX.saturating_sub(state.open.len());
            let text = line.unwrap_or(piece);
            state.open.extend_from_slice(&text[..text.len().min(room)]);
            if line.is_some() {
                state.finish();
            }
        }
    }

    /// Returns the last lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.open.is_empty() {
            state.finish();
        }
        state.lines.iter().cloned().collect()
    }
}

impl TailState {
    fn finish(&mut self) {
        if self.lines.len() == TAIL_LINES_MAX {
            self.lines.pop_front();
        }
        let line = String::from_utf8_lossy(&self.open);
        self.lines.push_back(line.trim_end().to_owned());
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_begun_anew_and_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web-0.log");
        let mut log = LogFile::open(&path, 10).unwrap();
        for line in [
            "one\n",
            "two\n",
            "three\n",
            "a line beyond the bound\n",
            "five\n",
        ] {
            log.append(line.as_bytes()).unwrap();
        }
        drop(log);
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("web-0.log"), "five\n");
        assert_eq!(read("web-0.log.1"), "a line beyond the bound\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        let mut log = LogFile::open(&path, 10).unwrap();
        log.append(b"six\n").unwrap();
        assert_eq!(read("web-0.log"), "five\nsix\n");
    }

    #[test]
    fn the_tail_keeps_the_last_lines_and_cuts_long_ones() {
        let tail = Tail::default();
        for number in 0..30 {
            tail.push(format!("line {number}\r\nha").as_bytes());
            tail.push(b"lf\n");
        }
        tail.push(&[b'x'; 5_000]);
        tail.push(b"\xff");
        let lines = tail.lines();
        assert_eq!(lines.len(), TAIL_LINES_MAX);
        assert_eq!(lines[18], "half");
        assert_eq!(lines[17], "line 29");
        assert_eq!(lines[19].len(), TAIL_LINE_BYTES_MAX);
    }
}
