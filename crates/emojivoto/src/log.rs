//! Lines for people: a time stamp and a text, as Go's standard logger prints them.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::go;

/// Where lines go. Clones write to the same place.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Box<dyn Write + Send>>>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// Writes to the given place. A line that cannot be written is lost: an
    /// application does not stop because nobody reads its log.
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self(Arc::new(Mutex::new(out)))
    }

    /// Writes to the standard error.
    pub fn stderr() -> Self {
        Self::new(Box::new(std::io::stderr()))
    }

    /// Writes to the standard output.
    pub fn stdout() -> Self {
        Self::new(Box::new(std::io::stdout()))
    }

    /// Writes the time (UTC) and the text.
    pub fn line(&self, text: fmt::Arguments<'_>) {
        self.plain(format_args!("{} {text}", go::timestamp(SystemTime::now())));
    }

    /// Writes the text alone, on one line whatever is in it.
    pub fn plain(&self, text: fmt::Arguments<'_>) {
        let mut line = String::new();
        for letter in text.to_string().chars() {
            if letter.is_control() {
                line.extend(letter.escape_default());
            } else {
                line.push(letter);
            }
        }
        line.push('\n');
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _lost_if_nobody_reads = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}
