//! Fuzz targets: one function per parser of bytes that strangers write.
//!
//! Each [`Target`] has a function that must not panic whatever it is given, seeds that
//! the parser accepts, and words that its language is made of. The targets exist once:
//! a test runs all of them for a moment with a seeded generator, and `fuzz/` hands the
//! same functions, seeds and words to libFuzzer.

mod mutate;

use std::path::Path;

pub use mutate::Random;
use whodunit_model::filter::Filter;
use whodunit_model::record::Side;
use whodunit_model::{BootId, RequestId, RequestRecord, Rows};

/// A parser under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, as in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Parses; panics when a property of the parser is broken.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: &'static [&'static [u8]],
    /// Words that random bytes would never hit upon.
    pub words: &'static [&'static [u8]],
}

/// Words of heads and chunked bodies.
pub const HTTP1_WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"GET ",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b"Host: ",
    b"Transfer-Encoding: chunked",
    b"Content-Length: ",
    b"Connection: close",
    b"Connection: keep-alive, ",
    b"Upgrade: h2c",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"CONNECT a:1",
    b"http://",
    b"\t",
    b"\0",
    b"%2f",
    b";",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"Trailer: ",
];

/// Preface and frames: a whole request, one with a body, trailers and padding, and floods.
pub const HTTP2_SEEDS: &[&[u8]] = &[
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\
      \x00\x00\x06\x01\x05\x00\x00\x00\x01\x82\x86\x84\x41\x01a",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\
      \x00\x00\x0c\x01\x0c\x00\x00\x00\x01\x05\x83\x86\x84\x41\x01a\x00\x00\x00\x00\x00\
      \x00\x00\x05\x00\x00\x00\x00\x00\x01hello\
      \x00\x00\x05\x01\x05\x00\x00\x00\x01\x00\x01x\x01y",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\
      \x00\x00\x03\x01\x01\x00\x00\x00\x01\x82\x86\x84\
      \x00\x00\x03\x09\x04\x00\x00\x00\x01\x41\x01a\
      \x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08\
      \x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
];

/// Headers of frames, and fields.
pub const HTTP2_WORDS: &[&[u8]] = &[
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"\x00\x00\x00\x04\x01\x00\x00\x00\x00",
    b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x7f\xff\xff\xff",
    b"\x00\x00\x04\x01\x05\x00\x00\x00\x03\x82\x86\x84\xbe",
    b"\x00\x00\x00\x09\x00\x00\x00\x00\x01",
    b"\x00\x00\x00\x00\x01\x00\x00\x00\x01",
    b"\x00\x00\x01\x00\x08\x00\x00\x00\x01\x00",
    b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x02",
    b"\x00\x00\x05\x02\x00\x00\x00\x00\x01\x80\x00\x00\x01\x10",
    b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff",
    b"\x00\x00\x02\x20",
    b"\x44\x05/a%2f",
    b"\x00\x05:path\x01/",
    b"\x00\x11transfer-encoding\x07chunked",
    b"\x00\x0econtent-length\x0299",
    b"\x3f\xe1\x1f",
    b"\xff\xff\xff\x01",
];

const TOML_WORDS: &[&[u8]] = &[
    b"[workload]\n",
    b"[[listener]]\n",
    b"[service.a]\n",
    b"[external.b]\n",
    b"[route.\"a\".\"GET /\"]\n",
    b"[policy]\n",
    b"listen = ",
    b"forward = ",
    b"protocol = \"http1\"\n",
    b"calls = [\"a\"]\n",
    b"\"127.0.0.1:0\"",
    b"{port}",
    b"{self}",
    b"\"\"\"",
    b"99999999999999999999",
    b"-1",
    b"1e400",
];

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "http1_request",
        run: whodunit_proxy::fuzz::http1_request,
        seeds: &[
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST /x?y=1 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\r\nabc",
            b"\r\nOPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            b"GET http://a/ HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        ],
        words: HTTP1_WORDS,
    },
    Target {
        name: "http1_response",
        run: whodunit_proxy::fuzz::http1_response,
        seeds: &[
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n",
        ],
        words: HTTP1_WORDS,
    },
    Target {
        name: "http1_chunks",
        run: whodunit_proxy::fuzz::http1_chunks,
        seeds: &[
            b"5\r\nhello\r\n0\r\n\r\n",
            b"a;name=value\r\n0123456789\r\n1\r\nx\r\n0\r\nx-sum: 1\r\n\r\nGET",
        ],
        words: HTTP1_WORDS,
    },
    Target {
        name: "first_bytes",
        run: whodunit_proxy::fuzz::first_bytes,
        seeds: &[
            b"GET / HTTP/1.1\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"*1\r\n$4\r\nPING\r\n",
        ],
        words: HTTP1_WORDS,
    },
    Target {
        name: "proxy_toml",
        run: proxy_toml,
        seeds: &[
            b"[workload]\nnamespace = \"n\"\nname = \"w\"\ninstance = \"w-0\"\n[[listener]]\n\
              name = \"in\"\nlisten = \"127.0.0.1:0\"\ndirection = \"inbound\"\n\
              forward = \"127.0.0.1:1\"\n",
        ],
        words: TOML_WORDS,
    },
    Target {
        name: "mesh_toml",
        run: mesh_toml,
        seeds: &[
            b"namespace = \"n\"\n[service.a]\ncommand = \"a --port {port}\"\nport = 8080\n\
              calls = [\"b\"]\nenv = { B = \"{b}\" }\n[service.b]\ncommand = \"b\"\nport = 1\n",
        ],
        words: TOML_WORDS,
    },
    Target {
        name: "record_batch",
        run: record_batch,
        seeds: &[b"", b"\x01\x00\x00\x00"],
        words: &[b"\xff\xff\xff\xff", b"\x80\x80\x80\x80\x01", b"\x28\xb5\x2f\xfd"],
    },
    Target {
        name: "snapshot",
        run: whodunit_proxy::fuzz::snapshot,
        seeds: &[
            b"whodunit-snapshot 1 0 00000000\n{\"owner\":{\"namespace\":\"n\",\"workload\":\"w\",\
              \"instance\":\"w-0\"},\"services\":[{\"namespace\":\"n\",\"name\":\"v\",\"heard_us\":1,\
              \"exists\":true,\"answers\":{\"namespace\":\"n\",\"workload\":\"v\",\"service\":\"v\"},\
              \"endpoints\":[{\"address\":\"127.0.0.1:1\",\"instance\":\"v-0\",\"meshed\":true,\
              \"ready\":true,\"identity\":\"spiffe://local/ns/n/sa/v\"}]}],\"policies\":[{\"listener\":\
              \"in\",\"heard_us\":1,\"policy\":{\"default\":\"deny\",\"rules\":[{\"name\":\"r\",\
              \"action\":\"allow\",\"paths\":[\"/a/{}/*\"],\"networks\":[\"10.0.0.0/8\"]}]}}]}",
        ],
        words: &[
            b"whodunit-snapshot ",
            b" 1 ",
            b"{\"owner\":",
            b"[[[[",
            b"[::1]:1",
            b"\"deny\"",
            b"\"*.n.\"",
            b"-9223372036854775808",
            b"\\ud800",
        ],
    },
    Target {
        name: "server_name",
        run: whodunit_proxy::fuzz::server_name,
        seeds: &[
            // With a name, without one, and in two records.
            b"\x16\x03\x01\x00\x3b\x01\x00\x00\x37\x03\x0301234567890123456789012345678901\
              \x00\x00\x02\x13\x01\x01\x00\x00\x0c\x00\x00\x00\x08\x00\x06\x00\x00\x03a.b",
            b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x0301234567890123456789012345678901\
              \x00\x00\x02\x13\x01\x01\x00",
            b"\x16\x03\x01\x00\x04\x01\x00\x00\x37\x16\x03\x01\x00\x37\
              \x03\x0301234567890123456789012345678901\
              \x00\x00\x02\x13\x01\x01\x00\x00\x0c\x00\x00\x00\x08\x00\x06\x00\x00\x03a.b",
        ],
        words: &[
            b"\x16\x03\x01",
            b"\x16\x03\x03\x00\x01",
            b"\x01\x00\x00",
            b"\x00\x00",
            b"\x00\x2b\x00\x03\x02\x03\x04",
            b"\xfe\x0d",
            b"\xff\xff",
            b"\x1b[0m",
            b"xn--",
        ],
    },
    Target {
        name: "introduction",
        run: whodunit_proxy::fuzz::introduction,
        seeds: &[
            b"\x89WDI\r\n\x1a\n\x01\x00\x00\x1b\x00\x00\x00\x00\x00\x00\x00\x01\
              \x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x03n/w/i/v",
            b"\x89WDA\r\n\x1a\n\x01\x00\x00",
        ],
        words: &[
            b"\x89WDI\r\n\x1a\n",
            b"\x89WDA\r\n\x1a\n",
            b"\x01\x00",
            b"\x01\x01",
            b"\x00\x14",
            b"\x04\x14",
            b"%2F",
        ],
    },
    Target {
        name: "http2_frames",
        run: whodunit_proxy::fuzz::http2_frames,
        seeds: HTTP2_SEEDS,
        words: HTTP2_WORDS,
    },
    Target {
        name: "filter",
        run: filter,
        seeds: &[
            b"{\"and\":[{\"is\":{\"field\":\"to\",\"op\":\"eq\",\"value\":\"voting\"}},\
              {\"not\":{\"is\":{\"field\":\"status\",\"op\":\"ge\",\"value\":500}}}]}",
            b"{\"or\":[\"all\",{\"is\":{\"field\":\"path\",\"op\":\"prefix\",\"value\":\"/a\"}},\
              {\"is\":{\"field\":{\"attribute\":\"choice\"},\"op\":\"contains\",\"value\":[\"x\",\"y\"]}}]}",
        ],
        words: &[
            b"{\"not\":",
            b"{\"and\":[",
            b"{\"or\":[]}",
            b"\"all\"",
            b"}",
            b"]",
            b"\"field\":\"latency\"",
            b"\"field\":\"grpc_status\"",
            b"\"field\":\"cause\"",
            b"\"op\":\"lt\"",
            b"9223372036854775807",
            b"-1",
            b"\"\\ud83e\\udd80\"",
            b"null",
        ],
    },
    Target {
        name: "words",
        run: words,
        seeds: &[
            b"15m",
            b"2026-01-02T03:04:05Z",
            b"/users/12/550e8400-e29b-41d4-a716-446655440000?choice=1&x=%41",
            b"/pkg.Service/Method",
        ],
        words: &[b"%", b"%zz", b"//", b"/../", b"..%2f", b"T", b"Z", b"\xf0\x9f\xa6\x80"],
    },
];

/// Returns the target with this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

fn proxy_toml(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        // Whether it is valid does not matter here.
        drop(whodunit_proxy::Config::parse(text, Path::new("proxy.toml")));
    }
}

fn mesh_toml(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        // Whether it is valid does not matter here.
        drop(whodunit_control::mesh_file::parse(
            text,
            Path::new("mesh.toml"),
        ));
    }
}

/// What decodes can be encoded, and decodes to the same again.
fn record_batch(bytes: &[u8]) {
    let Ok(rows) = whodunit_flight::codec::decode(bytes) else {
        return;
    };
    let mut again = Vec::new();
    whodunit_flight::codec::encode(&rows, &mut again);
    assert!(
        whodunit_flight::codec::decode(&again).is_ok(),
        "a batch of ours is not read"
    );
}

/// What a filter accepts it can write, and every row is either meant or not.
fn filter(bytes: &[u8]) {
    let Ok(filter) = serde_json::from_slice::<Filter>(bytes) else {
        return;
    };
    if filter.check().is_err() {
        return;
    }
    let written = serde_json::to_vec(&filter).expect("a filter can be written");
    let again: Filter = serde_json::from_slice(&written).expect("and read");
    assert_eq!(again, filter);
    ROWS.with(|rows| {
        for index in 0..rows.len() {
            let not = Filter::Not(Box::new(filter.clone()));
            assert_ne!(filter.matches(rows, index), not.matches(rows, index));
        }
    });
}

thread_local! {
    /// Something to filter.
    static ROWS: Rows = rows();
}

fn rows() -> Rows {
    let record = |n: u32, side| {
        let id = RequestId {
            start_us: 1,
            boot: BootId(2),
            n,
        };
        let mut record = RequestRecord::new(id, side, 1);
        record.service = "voting".into();
        record.path = "/a/b?choice=x".into();
        record.status = if n == 0 { 200 } else { 503 };
        record
    };
    let sides = [Side::Inbound, Side::Outbound];
    (0..4)
        .flat_map(|n| sides.map(|side| record(n, side)))
        .collect()
}
/// The small languages: paths, durations, moments, ids, patterns.
fn words(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let template = whodunit_model::route::template(&text);
    let again = whodunit_model::route::template(&template);
    assert_eq!(template.matches('/').count(), again.matches('/').count());
    // Errors are fine, panics are not.
    let _ = whodunit_model::time::parse_duration(&text);
    let _ = whodunit_model::time::parse_moment(&text, 0, 0);
    let _ = whodunit_model::time::parse_rfc3339(&text);
    let _ = text.parse::<BootId>();
    let _ = text.parse::<RequestId>();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs per target; `FUZZ_ROUNDS` asks for more.
    const ROUNDS: u64 = 20_000;

    /// Every input is a function of its target and its number, so a failure is repeated by
    /// running the test again.
    #[test]
    fn no_input_panics() {
        let rounds = std::env::var("FUZZ_ROUNDS").ok();
        let rounds = rounds.map_or(ROUNDS, |text| text.parse().expect("a number"));
        for target in TARGETS {
            for seed in target.seeds {
                (target.run)(seed);
            }
            for round in 0..rounds {
                let input = Random::new(round).input(target.seeds, target.words);
                let run = || (target.run)(&input);
                if std::panic::catch_unwind(run).is_err() {
                    panic!(
                        "{} fails in round {round}: {:?}",
                        target.name,
                        input.escape_ascii().to_string()
                    );
                }
            }
        }
    }

    #[test]
    fn every_target_has_a_file_for_the_fuzzer() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("is there");
        for known in TARGETS {
            assert!(known.seeds.len() + known.words.len() > 1, "{}", known.name);
            let file = root.join(format!("fuzz_targets/{}.rs", known.name));
            assert!(file.is_file(), "{} is missing", file.display());
            assert!(manifest.contains(&format!("name = \"{}\"", known.name)));
        }
        assert!(target("http1_chunks").is_some() && target("none").is_none());
    }
}
