//! Reads Server-Sent Events (WHATWG HTML, section 9.2) from the bytes of a body.

/// Longest event that is kept; a longer one is not one of our server's.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// `event:`, empty if not said.
    pub(crate) name: String,
    /// `data:`, lines joined by line feeds.
    pub(crate) data: String,
    /// `id:`, empty if not said.
    pub(crate) id: String,
}

/// Cuts bytes into events, however they arrive.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    event: Event,
    has_data: bool,
}

impl Parser {
    /// Appends bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() > EVENT_BYTES_MAX && !self.buffer.contains(&b'\n') {
            self.buffer.clear();
        }
    }

    /// Returns the next whole event; none until more bytes have come.
    pub(crate) fn next(&mut self) -> Option<Event> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\n');
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if std::mem::take(&mut self.has_data) {
                    return Some(event);
                }
                continue;
            }
            self.line(line);
        }
        None
    }

    fn line(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "id" => value.clone_into(&mut self.event.id),
            "data" if self.event.data.len() + value.len() < EVENT_BYTES_MAX => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            // A comment (a heartbeat), or a field of a later version.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\n\nevent: record\nid: 7\ndata: {\"a\":\ndata: 1}\n\n\
                          :beat\r\n\r\nevent: lost\r\ndata:x\r\n\r\nevent: cut";

    fn read(chunk: usize) -> Vec<Event> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for bytes in STREAM.as_bytes().chunks(chunk) {
            parser.push(bytes);
            while let Some(event) = parser.next() {
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn events_survive_any_cut() {
        let events = read(STREAM.len());
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].name, "record");
        assert_eq!(events[0].id, "7");
        assert_eq!(events[0].data, "{\"a\":\n1}");
        assert_eq!(events[1].name, "lost");
        assert_eq!(events[1].data, "x");
        for chunk in 1..STREAM.len() {
            assert_eq!(read(chunk), events, "in pieces of {chunk}");
        }
    }

    #[test]
    fn an_endless_line_is_given_up() {
        let mut parser = Parser::default();
        for _ in 0..40 {
            parser.push(&[b'x'; 1 << 16]);
            assert!(parser.next().is_none());
        }
        assert!(parser.buffer.len() <= EVENT_BYTES_MAX + (1 << 16));
    }
}
