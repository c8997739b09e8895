//! Every bound of the data plane and the server: its name, its number, what happens at it.
//!
//! The code that keeps a bound takes its number from here and counts each time the bound
//! was reached, by [`Limit`]; proxies report these counts, `check` says which were
//! reached and what to do, and `docs/limits.md` is generated from this table.

use std::fmt::Write as _;
use std::time::Duration;

/// What the number of a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things, as the name says.
    Count,
    /// Milliseconds.
    Milliseconds,
}

/// Which program keeps a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// `whodunit-proxy`.
    Proxy,
    /// `whodunit serve`.
    Server,
}

/// What is known of one limit.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name in metrics, reports and documents.
    pub name: &'static str,
    /// Its number: the default where a setting changes it.
    pub value: u64,
    /// What the number counts.
    pub unit: Unit,
    /// Who keeps it.
    pub keeper: Keeper,
    /// What is bounded.
    pub bounds: &'static str,
    /// What happens when it is reached.
    pub then: &'static str,
    /// What to do when it is reached often, or why that is ordinary.
    pub fix: &'static str,
    /// The setting that changes it, if there is one.
    pub setting: Option<&'static str>,
    /// Whether reaching it is part of an ordinary day.
    pub ordinary: bool,
    /// Whether reaching it is counted. Back pressure is not: to wait is ordinary.
    pub counted: bool,
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])+
       $id:ident: $keeper:ident $name:literal = $unit:ident $value:expr,
       then $then:literal,
       $(fix $fix:literal)? $(ordinary $ordinary:literal)? $(uncounted $uncounted:literal)?
       $(, setting $setting:literal)?;)+) => {
        /// A bound with a name and a number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Limit {
            $($(#[doc = $doc])+ $id,)+
        }

        /// In the order of [`Limit`].
        const TABLE: &[About] = &[$(About {
            name: $name,
            value: $value,
            unit: Unit::$unit,
            keeper: Keeper::$keeper,
            bounds: concat!($($doc),+),
            then: $then,
            fix: concat!($($fix)? $($ordinary)? $($uncounted)?),
            setting: limits!(@setting $($setting)?),
            ordinary: limits!(@ordinary $($ordinary)? $($uncounted)?),
            counted: limits!(@counted $($uncounted)?),
        },)+];

        impl Limit {
            /// All limits, in the order of the page.
            pub const ALL: &[Self] = &[$(Self::$id),+];
        }
    };
    (@setting) => { None };
    (@setting $setting:literal) => { Some($setting) };
    (@ordinary) => { false };
    (@ordinary $ordinary:literal) => { true };
    (@counted) => { true };
    (@counted $uncounted:literal) => { false };
}

limits! {
    /// Connections from clients that are open, per process.
    Connections: Proxy "connections" = Count 20_000,
        then "closed at once",
        fix "find out who opens so many, or run more instances";
    /// Addresses that redirected connections wanted and that are remembered, per process.
    Destinations: Proxy "original_destinations" = Count 1_024,
        then "one without connections is forgotten; without such a one the connection is reset, cause load_shed",
        fix "find out who connects to so many addresses: a scan is more likely than a need";
    /// Requests in flight, per process.
    InFlight: Proxy "requests_in_flight" = Count 10_000,
        then "answered with 503 (gRPC: UNAVAILABLE), cause load_shed",
        fix "look for what hangs: open requests are in `whodunit tap`";
    /// Requests that an application may always have at once, per worker thread, however slow
    /// it becomes. Above it the limit follows its latency.
    ConcurrencyFloor: Proxy "concurrency_floor" = Count 64,
        then "requests wait for their turn while the application is overloaded",
        uncounted "the waiting is in the record, and what waits in vain is counted";
    /// Time that a request waits for its turn while the application is overloaded.
    ConcurrencyQueue: Proxy "concurrency_queue_ms" = Milliseconds 100,
        then "answered with 503 (gRPC: UNAVAILABLE), cause load_shed",
        fix "run more instances, or find out why the application became slow",
        setting "listener.adaptive_limit";
    /// Silence of a client whose protocol is not declared, before the server may speak first.
    DetectTime: Proxy "detect_ms" = Milliseconds 1_000,
        then "the endpoint is dialed, and whoever speaks first decides",
        fix "declare the protocol of the service";
    /// Time from the first byte to a known protocol, on ports declared HTTP.
    FirstBytesTime: Proxy "first_bytes_ms" = Milliseconds 10_000,
        then "the connection is refused and recorded",
        fix "look at the network between client and proxy";
    /// Time that a client may take for a request head that it has begun.
    HeadTime: Proxy "head_ms" = Milliseconds 15_000,
        then "HTTP/1 is answered with 408, HTTP/2 is closed; both are recorded",
        fix "look for clients that dribble their requests on purpose";
    /// Time that a client connection may stay without a request.
    IdleTime: Proxy "idle_connection_ms" = Milliseconds 600_000,
        then "the connection is closed",
        ordinary "clients open another connection when they need one";
    /// Bytes of an HTTP/1 head.
    HeadBytes: Proxy "http1_head_bytes" = Bytes 64 << 10,
        then "a request is answered with 431, a response becomes 502; both are recorded",
        fix "send fewer or smaller header fields; cookies are the usual reason";
    /// Fields of an HTTP/1 head.
    HeadFields: Proxy "http1_head_fields" = Count 128,
        then "a request is answered with 431, a response becomes 502; both are recorded",
        fix "send fewer header fields";
    /// Bytes of a request target.
    TargetBytes: Proxy "target_bytes" = Bytes 16 << 10,
        then "answered with 414 and recorded",
        fix "send what is that long in a body";
    /// Bytes of a chunk size line, extensions included.
    ChunkLineBytes: Proxy "chunk_line_bytes" = Bytes 256,
        then "the message is cut off as malformed",
        fix "look for who sends chunk extensions: an attack is more likely than a need";
    /// Bytes of the trailers of an HTTP/1 message.
    TrailerBytes: Proxy "http1_trailer_bytes" = Bytes 8 << 10,
        then "the message is cut off as malformed",
        fix "send fewer trailers";
    /// Fields of the trailers of an HTTP/1 message.
    TrailerFields: Proxy "http1_trailer_fields" = Count 32,
        then "the message is cut off as malformed",
        fix "send fewer trailers";
    /// Bytes of an unwanted request body that are read so that the answer arrives.
    DiscardBytes: Proxy "discard_bytes" = Bytes 256 << 10,
        then "the connection is closed",
        fix "look at why large uploads are answered before they were read";
    /// Interim (1xx) responses before a response.
    Interim: Proxy "interim_responses" = Count 16,
        then "answered with 502 and recorded",
        fix "look at the application: no protocol needs that many";
    /// Bytes of the field section of an HTTP/2 message.
    Http2FieldBytes: Proxy "http2_field_bytes" = Bytes 32 << 10,
        then "a request is answered with 431, a response becomes 502; far more ends the connection",
        fix "send fewer or smaller header fields";
    /// Streams that an application may have open on one HTTP/2 connection.
    Http2Streams: Proxy "http2_streams" = Count 200,
        then "the stream is refused with REFUSED_STREAM and recorded, cause load_shed",
        ordinary "clients may open streams before they have heard of the number";
    /// Streams that a proxy with an identity may have open on one HTTP/2 connection.
    Http2PeerStreams: Proxy "http2_peer_streams" = Count 1_000,
        then "the stream is refused with REFUSED_STREAM and recorded, cause load_shed",
        ordinary "clients may open streams before they have heard of the number";
    /// Streams that an HTTP/2 client resets before they are served.
    Http2EarlyResets: Proxy "http2_early_resets" = Count 20,
        then "the connection is ended with ENHANCE_YOUR_CALM",
        fix "look for who attacks: the address is in the log at debug level";
    /// Streams that an HTTP/2 client resets in ten seconds, beyond the responses it takes.
    Http2Resets: Proxy "http2_resets" = Count 200,
        then "the connection is ended with ENHANCE_YOUR_CALM",
        fix "look for clients that cancel almost all of their requests";
    /// Streams of one HTTP/2 connection that its client makes us reset.
    Http2OwnResets: Proxy "http2_own_resets" = Count 100,
        then "the connection is ended with ENHANCE_YOUR_CALM",
        fix "look for who attacks, or speaks broken HTTP/2";
    /// Frames of no use that an HTTP/2 client sends in ten seconds, with none of use between.
    Http2IdleFrames: Proxy "http2_idle_frames" = Count 1_000,
        then "the connection is ended with ENHANCE_YOUR_CALM",
        fix "look for who attacks: no client needs that many";
    /// Bytes of one HTTP/2 message that wait for a reader.
    Http2SendBytes: Proxy "http2_send_bytes" = Bytes 32 << 10,
        then "no more is read from the other side",
        uncounted "a writer is often faster than a reader";
    /// Bytes that a peer may send ahead on one HTTP/2 stream.
    Http2StreamWindow: Proxy "http2_stream_window_bytes" = Bytes 64 << 10,
        then "the sender waits",
        uncounted "flow control is at work whenever a reader is slower than a writer";
    /// Bytes that a peer may send ahead on one HTTP/2 connection.
    Http2ConnectionWindow: Proxy "http2_connection_window_bytes" = Bytes 1 << 20,
        then "the sender waits",
        uncounted "flow control is at work whenever a reader is slower than a writer";
    /// Time to connect to an endpoint or the application.
    ConnectTime: Proxy "connect_ms" = Milliseconds 1_000,
        then "the next endpoint is tried; without one 504, cause connect_timeout",
        fix "look at the endpoint: its machine is gone, or its queue of connections is full";
    /// Endpoints that are tried for one request.
    EndpointsTried: Proxy "endpoints_tried" = Count 3,
        then "the request fails with the last cause",
        fix "look at why so many instances cannot be reached";
    /// Retries that failed requests may have on top of a share of 20 % of all requests, per
    /// second, service and thread.
    RetryBudget: Proxy "retry_budget" = Count 10,
        then "the request fails with the cause of its last try",
        fix "look at why so many requests fail; a route may set another budget",
        setting "`[[listener.route]]`, `retry.budget_per_second`";
    /// Time that a request waits for the first answer of discovery.
    DiscoveryTime: Proxy "discovery_wait_ms" = Milliseconds 1_000,
        then "503, cause no_endpoints",
        fix "look at the server that discovery comes from";
    /// Services whose instances a proxy follows.
    Services: Proxy "followed_services" = Count 1_000,
        then "routes that name more are not taken over",
        fix "split requests over fewer services";
    /// Idle HTTP/1 connections that are kept, per endpoint and thread.
    PoolConnections: Proxy "pool_connections" = Count 256,
        then "the connection is closed after its request",
        ordinary "bursts leave connections that nobody needs again";
    /// HTTP/2 connections, per endpoint and thread.
    Http2Connections: Proxy "http2_connections" = Count 16,
        then "requests share connections and wait for a stream",
        fix "run more instances of the service";
    /// Time that an idle connection to an endpoint is kept.
    PoolTime: Proxy "pool_ms" = Milliseconds 10_000,
        then "the connection is closed",
        uncounted "the ordinary end of a connection that is not needed";
    /// Time that an HTTP/2 peer with open streams may take to answer a ping.
    PingTime: Proxy "http2_ping_ms" = Milliseconds 3_000,
        then "its connection is closed, and what was on it fails",
        uncounted "the requests that fail with it are recorded";
    /// Time that an endpoint or the application may take no bytes that wait for it, or, asked
    /// on a silent connection whether it is there, not answer. Opaque connections have the latter
    /// only.
    EndpointSilence: Proxy "endpoint_silence_ms" = Milliseconds 60_000,
        then "its connection is closed, and what was on it fails; only Linux keeps this bound",
        uncounted "the requests that fail with it are recorded";
    /// Time series on `/metrics`, per process.
    Series: Proxy "series" = Count 10_000,
        then "counted in the series with the label overflow=\"true\"",
        fix "look at which label has so many values: `curl ADMIN/metrics`";
    /// Bytes that the series of requests and connections take on `/metrics`.
    ScrapeBytes: Proxy "scrape_bytes" = Bytes 1_920 << 10,
        then "as at the limit `series`",
        fix "look at which label has so many values: `curl ADMIN/metrics`";
    /// Values of the label `authority`, per thread.
    Authorities: Proxy "label_values" = Count 1_000,
        then "counted under the value [OTHER]",
        fix "look at which hosts are called: names with numbers in them, perhaps";
    /// Texts that records share, per thread.
    SharedTexts: Proxy "shared_texts" = Count 4_096,
        then "the text is stored with each record",
        ordinary "it costs memory while the records wait";
    /// Records that wait to be encoded.
    QueueRows: Proxy "record_queue_rows" = Count 8_192,
        then "the record is dropped and counted as queue_full",
        fix "raise the setting, or give the proxy more processor time",
        setting "record.queue_rows";
    /// Bytes of records that the server does not have durably yet.
    BufferBytes: Proxy "record_buffer_bytes" = Bytes 6 << 20,
        then "the oldest batch is discarded and counted as buffer_full",
        fix "bring the server back, or raise the setting",
        setting "record.buffer_bytes";
    /// Bytes of the file that keeps what the server says.
    SnapshotBytes: Proxy "snapshot_bytes" = Bytes 8 << 20,
        then "the file is not replaced",
        fix "split the services of the instance: it calls more than a file has room for";
    /// Time for which what the server said may be used by a proxy that starts without it.
    SnapshotAge: Proxy "snapshot_age_ms" = Milliseconds 86_400_000,
        then "the proxy starts without it",
        uncounted "a proxy that runs keeps what it knows however long the server is gone";
    /// Time that open requests may take to end after SIGTERM.
    ShutdownTime: Proxy "shutdown_grace_ms" = Milliseconds 30_000,
        then "what is open is cut off, cause shutdown",
        fix "raise the setting, or make the longest requests shorter",
        setting "shutdown.grace_ms";
    /// Connections to the admin address.
    AdminConnections: Proxy "admin_connections" = Count 64,
        then "closed at once",
        fix "look for who asks so often";
    /// Time for a request to the admin address, head and body.
    AdminTime: Proxy "admin_request_ms" = Milliseconds 5_000,
        then "the connection is closed",
        fix "look for who connects and says nothing";
    /// Bytes of the body of a request to the admin address.
    AdminBytes: Proxy "admin_body_bytes" = Bytes 1 << 10,
        then "answered with 413",
        fix "send only what `docs/proxy-toml.md` describes";
}

/// How many limits there are.
pub const COUNT: usize = TABLE.len();

impl Limit {
    /// Returns what is known of the limit.
    #[must_use]
    pub const fn about(self) -> &'static About {
        &TABLE[self as usize]
    }

    /// Returns its name in metrics, reports and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.about().name
    }

    /// Returns its number, in bytes or things.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a test keeps every number below 2^32"
    )]
    pub const fn count(self) -> usize {
        self.about().value as usize
    }

    /// Returns its number as 32 bits, which some libraries want.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a test keeps every number below 2^32"
    )]
    pub const fn count_u32(self) -> u32 {
        self.about().value as u32
    }

    /// Returns its number as a time.
    #[must_use]
    pub const fn time(self) -> Duration {
        Duration::from_millis(self.about().value)
    }

    /// Returns the limit with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|limit| limit.name() == name)
    }
}

impl About {
    /// Returns the number as people write it.
    #[must_use]
    pub fn number(&self) -> String {
        let value = self.value;
        match self.unit {
            Unit::Bytes if value >= 1 << 20 && value.is_multiple_of(1 << 20) => {
                format!("{} MiB", value >> 20)
            }
            Unit::Bytes if value >= 1 << 10 && value.is_multiple_of(1 << 10) => {
                format!("{} KiB", value >> 10)
            }
            Unit::Bytes => format!("{value} B"),
            Unit::Milliseconds if value.is_multiple_of(1_000) => format!("{} s", value / 1_000),
            Unit::Milliseconds => format!("{value} ms"),
            Unit::Count => thousands(value),
        }
    }
}

fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Returns the text of `docs/limits.md`.
#[must_use]
pub fn page() -> String {
    let mut out = String::from(
        "# Limits\n\n\
         <!-- Generated by `cargo xtask codegen` from crates/model/src/limit.rs. -->\n\n\
         Everything that strangers can make grow has a bound. Reaching one is counted: on \
         `/metrics` of the proxy as\n`whodunit_limit_hits_total{limit=\"NAME\"}`, and \
         `whodunit check` names the proxy, the limit and what to do. Where\nthe last column \
         says so, reaching the limit is ordinary and not counted.\n",
    );
    for (keeper, title) in [(Keeper::Proxy, "The proxy"), (Keeper::Server, "The server")] {
        let rows: Vec<&About> = TABLE.iter().filter(|row| row.keeper == keeper).collect();
        if rows.is_empty() {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "\n## {title}\n\n| name | limit | what it bounds | when it is reached | what to do |\n\
             |---|---|---|---|---|\n"
        );
        for row in rows {
            let setting = row
                .setting
                .map(|setting| format!(" (`{setting}`)"))
                .unwrap_or_default();
            let fix = match (row.counted, row.ordinary) {
                (false, _) => format!("not counted: {}", row.fix),
                (true, true) => format!("nothing: {}", row.fix),
                (true, false) => row.fix.to_owned(),
            };
            let _ = writeln!(
                out,
                "| `{}` | {}{setting} | {} | {} | {fix} |",
                row.name,
                row.number(),
                row.bounds.trim().trim_end_matches('.'),
                row.then,
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_limit_has_a_name_of_its_own_and_a_number_that_fits() {
        let mut names = HashSet::new();
        for (at, limit) in Limit::ALL.iter().enumerate() {
            assert_eq!(*limit as usize, at);
            let about = limit.about();
            assert!(names.insert(about.name), "{} twice", about.name);
            assert!((1..1 << 32).contains(&about.value), "{}", about.name);
            assert!(
                about
                    .name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_')
            );
            let is_time = about.unit == Unit::Milliseconds;
            assert_eq!(about.name.ends_with("_ms"), is_time, "{}", about.name);
            assert!(
                !about.then.is_empty() && !about.fix.is_empty(),
                "{}",
                about.name
            );
            assert_eq!(Limit::named(about.name), Some(*limit));
        }
        assert_eq!(Limit::named("nothing"), None);
    }

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(Limit::HeadBytes.about().number(), "64 KiB");
        assert_eq!(Limit::Series.about().number(), "10,000");
        assert_eq!(Limit::HeadTime.about().number(), "15 s");
        assert_eq!(Limit::BufferBytes.about().number(), "6 MiB");
        assert_eq!(Limit::ChunkLineBytes.about().number(), "256 B");
    }

    #[test]
    fn the_page_has_every_limit() {
        let page = page();
        for limit in Limit::ALL {
            assert!(page.contains(&format!("| `{}` |", limit.name())));
        }
    }
}
