//! HTTP/2 clients that keep to the rules, and those that do not.

use std::collections::BTreeMap;

use whodunit_model::record::{Protocol, Side};
use whodunit_model::{Cause, Origin, Outcome};

use crate::app::App;
use crate::frames::{
    DATA, END_HEADERS, End, GOAWAY, HEADERS, PING, RST_STREAM, Raw, SETTINGS, frame, head, request,
};
use crate::mesh::{Setup, at, end, wait_for};
use crate::server::Server;

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Heads that the rules of HTTP/2 forbid, and how each is refused.
fn bad_heads() -> Vec<(&'static str, Vec<u8>, End)> {
    let reset = End::Reset(PROTOCOL_ERROR);
    let good = request("/bad");
    let with = |name: &'static [u8], value: &'static [u8]| {
        let mut fields = good.clone();
        fields.push((name, value));
        head(1, true, &fields)
    };
    let without = |name: &[u8]| {
        let fields: Vec<_> = good.iter().copied().filter(|(n, _)| *n != name).collect();
        head(1, true, &fields)
    };
    let changed = |name: &'static [u8], value: &'static [u8]| {
        let fields = good
            .iter()
            .map(|(n, v)| (*n, if *n == name { value } else { v }));
        head(1, true, &fields.collect::<Vec<_>>())
    };
    let connect: Vec<(&[u8], &[u8])> =
        vec![(b":method", b"CONNECT"), (b":authority", b"callee.test:80")];
    let (bad, refused) = (End::Status(400), End::Reset(0));
    let first = |name: &'static [u8], value: &'static [u8]| {
        let mut fields = good.clone();
        fields.insert(0, (name, value));
        head(1, true, &fields)
    };
    let large = vec![b'a'; 9_000];
    let mut list = good.clone();
    list.extend([(b"x-a".as_slice(), large.as_slice()); 4]);
    let block = crate::frames::block(&list);
    let large = [
        frame(HEADERS, 1, 1, &block[..16_000]),
        frame(9, 0, 1, &block[16_000..32_000]),
        frame(9, END_HEADERS, 1, &block[32_000..]),
    ];
    vec![
        ("upper case", with(b"X-Up", b"1"), reset),
        ("connection", with(b"connection", b"close"), reset),
        ("keep-alive", with(b"keep-alive", b"1"), reset),
        ("proxy-connection", with(b"proxy-connection", b"1"), reset),
        ("upgrade", with(b"upgrade", b"h2c"), reset),
        ("chunked", with(b"transfer-encoding", b"chunked"), reset),
        ("te", with(b"te", b"gzip"), reset),
        ("late pseudo", with(b":path", b"/late"), reset),
        ("unknown pseudo", first(b":wrong", b"1"), reset),
        ("status", first(b":status", b"200"), reset),
        ("twice", first(b":method", b"GET"), reset),
        ("no method", without(b":method"), reset),
        ("no scheme", without(b":scheme"), reset),
        ("no path", without(b":path"), reset),
        (
            "length without a body",
            with(b"content-length", b"5"),
            reset,
        ),
        ("lengths", with(b"content-length", b"1x"), reset),
        ("newline", with(b"x-a", b"1\r\nx: 2"), reset),
        ("nul", with(b"x-a", b"1\0"), reset),
        ("large", large.concat(), End::Status(431)),
        ("other host", with(b"host", b"other.test"), bad),
        ("two hosts", with(b"host", b"callee.test, b"), bad),
        ("padded", with(b"x-a", b" 1"), bad),
        ("connect", head(1, true, &connect), bad),
        ("user", changed(b":authority", b"me@callee.test"), bad),
        ("port", changed(b":authority", b"callee.test:x"), refused),
        ("scheme", changed(b":scheme", b"ftp"), bad),
        ("nobody", without(b":authority"), bad),
        ("star", changed(b":path", b"*"), bad),
        ("absolute", changed(b":path", b"http://x/"), refused),
        ("space", changed(b":path", b"/a b"), refused),
        ("no slash", changed(b":path", b"a"), refused),
        ("empty", changed(b":path", b""), refused),
        (
            "line in the path",
            changed(b":path", b"/ HTTP/1.1\r\nx: y"),
            refused,
        ),
        (
            "line in the method",
            changed(b":method", b"GET / HTTP/1.1\r\n"),
            refused,
        ),
        ("colon in a name", with(b"x:a", b"1"), refused),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_head_that_is_refused_leaves_one_record() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .start();
    let heads = bad_heads();
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    let mut goods = 0;
    for (name, bytes, expected) in &heads {
        let mut client = Raw::connect(at(&proxy, "in")).await;
        client.send(bytes).await;
        let found = client.end_of(1).await;
        // h2 judges some, and we the others; either will do where both may.
        let either = *expected == End::Reset(0);
        let broken = either || *expected == End::Reset(PROTOCOL_ERROR);
        if found == End::GoAway(PROTOCOL_ERROR) {
            assert!(broken, "{name}");
        } else {
            let by_either = either && matches!(found, End::Reset(1) | End::Status(400));
            assert!(by_either || found == *expected, "{name}: {found:?}");
            assert!(client.is_alive().await, "{name}: others go on");
            client.send(&head(3, true, &request("/good"))).await;
            assert_eq!(client.end_of(3).await, End::Status(200), "{name}");
            goods += 1;
        }
        let status = match found {
            End::Status(status) => status,
            _ => 0,
        };
        *statuses.entry(status).or_default() += 1;
    }
    let rows = wait_for("records", || {
        let rows = server.records();
        (rows.len() >= heads.len() + goods).then_some(rows)
    })
    .await;
    let (bad, good): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.cause != Cause::None);
    assert_eq!((bad.len(), good.len()), (heads.len(), goods));
    let mut found: BTreeMap<u16, usize> = BTreeMap::new();
    for row in bad {
        assert_eq!(
            (row.outcome, row.cause, row.origin, row.protocol, row.side),
            (
                Outcome::Failure,
                Cause::BadRequestHead,
                Origin::Client,
                Protocol::Http2,
                Side::Inbound
            )
        );
        *found.entry(row.status).or_default() += 1;
    }
    assert_eq!(found, statuses);
    assert_eq!(app.seen.lock().unwrap().len(), goods, "good ones only");
    let counters = proxy.counters();
    assert_eq!(
        (counters.started, counters.in_flight),
        ((heads.len() + goods) as u64, 0)
    );
    crate::sending::check_conservation(&counters);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_trailers_are_the_clients_fault() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .start();
    let mut client = Raw::connect(at(&proxy, "in")).await;
    client.send(&head(1, false, &request("/echo"))).await;
    client.send(&frame(DATA, 0, 1, b"body")).await;
    client.send(&head(1, true, &[(b":path", b"/x")])).await;
    assert_eq!(client.end_of(1).await, End::Reset(PROTOCOL_ERROR));
    assert!(client.is_alive().await);
    let row = crate::mesh::record(&server, Side::Inbound, "/echo").await;
    assert_eq!(
        (row.cause, row.origin),
        (Cause::BadRequestHead, Origin::Client)
    );
    let rows = server.records();
    assert_eq!(rows.len(), 1, "{rows:?}");
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_what_is_allowed_are_shed_and_recorded() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .start();
    let mut client = Raw::connect(at(&proxy, "in")).await;
    let streams = (0..205).map(|i| 1 + 2 * i);
    let heads: Vec<u8> = streams
        .flat_map(|stream| head(stream, true, &request("/held")))
        .collect();
    client.send(&heads).await;
    for stream in (401..411).step_by(2) {
        assert_eq!(client.end_of(stream).await, End::Reset(7), "{stream}");
    }
    wait_for("all to be there", || {
        (app.seen.lock().unwrap().len() == 200).then_some(())
    })
    .await;
    app.go_on.notify_waiters();
    assert!(client.is_alive().await);
    drop(client);
    let rows = wait_for("records", || {
        let rows = server.records();
        (rows.len() >= 205).then_some(rows)
    })
    .await;
    let shed = rows.iter().filter(|row| row.cause == Cause::LoadShed);
    assert_eq!(shed.count(), 5);
    assert_eq!(rows.len(), 205);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_their_connection_and_nothing_else() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .start();
    let floods: [(&str, Vec<u8>); 4] = [
        ("ping", frame(PING, 0, 0, &[0; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("priority", frame(2, 0, 1, &[0, 0, 0, 3, 9])),
        ("window", frame(8, 0, 0, &[0, 0, 0, 1])),
    ];
    let mut polite = Raw::connect(at(&proxy, "in")).await;
    for (name, one) in floods {
        let mut client = Raw::connect(at(&proxy, "in")).await;
        client.send(&one.repeat(5_000)).await;
        let told = client.find(|frame| frame.kind == GOAWAY).await;
        // One that floods may be cut off before it reads why.
        if let Some(told) = told {
            assert_eq!(told.code(), ENHANCE_YOUR_CALM, "{name}");
        }
        assert!(polite.is_alive().await, "{name}");
    }
    let open = head(1, false, &request("/echo"));
    let made =
        |frames: &dyn Fn(u32) -> Vec<u8>| (0..1_000).flat_map(|i| frames(1 + 2 * i)).collect();
    let bomb = {
        // One entry of the table, then as often as fits.
        let mut block = crate::frames::block(&request("/"));
        block.extend([0x40, 1, b'a', 127, 0xa1, 0x1e]);
        block.extend([b'b'; 4_000]);
        block.extend([0xbe; 12_000]);
        frame(HEADERS, END_HEADERS | 1, 1, &block)
    };
    let floods: [(&str, Vec<u8>); 5] = [
        (
            "continuation",
            [
                frame(HEADERS, 1, 1, &[0x82]),
                frame(9, 0, 1, b"").repeat(10_000),
            ]
            .concat(),
        ),
        (
            "empty data",
            [open.clone(), frame(DATA, 0, 1, b"").repeat(50_000)].concat(),
        ),
        (
            "malformed",
            made(&|stream| head(stream, true, &[(b":path", b"/")])),
        ),
        (
            "made to reset",
            made(&|stream| {
                let zero = frame(8, 0, stream, &[0; 4]);
                [head(stream, false, &request("/echo")), zero].concat()
            }),
        ),
        ("bomb", bomb),
    ];
    for (name, bytes) in floods {
        let mut client = Raw::connect(at(&proxy, "in")).await;
        client.send(&bytes).await;
        let told = client.find(|frame| frame.kind == GOAWAY).await;
        assert!(told.is_none_or(|told| told.code() > 0), "{name}");
        assert!(polite.is_alive().await, "{name}");
    }
    let mut client = Raw::connect(at(&proxy, "in")).await;
    let resets: Vec<u8> = (0..1_000)
        .flat_map(|i| {
            let stream = 1 + 2 * i;
            let reset = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
            [head(stream, true, &request("/held")), reset].concat()
        })
        .collect();
    client.send(&resets).await;
    let told = client.find(|frame| frame.kind == GOAWAY).await;
    assert!(told.is_none_or(|told| told.code() == ENHANCE_YOUR_CALM));
    assert!(app.seen.lock().unwrap().len() <= 200);
    wait_for("the floods to end", || {
        (proxy.open_connections() == 1).then_some(())
    })
    .await;
    let counters = proxy.counters();
    crate::sending::check_conservation(&counters);
    assert_eq!(counters.in_flight, 0);
    assert!(polite.is_alive().await);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_were_never_served_are_recorded() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .start();
    let mut client = Raw::connect(at(&proxy, "in")).await;
    // The second frame breaks the compression of the whole connection.
    let broken = frame(
        HEADERS,
        END_HEADERS | 1,
        3,
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    );
    let both = [head(1, true, &request("/")), broken].concat();
    client.send(&both).await;
    assert!(client.find(|frame| frame.kind == GOAWAY).await.is_some());
    drop(client);
    let rows = wait_for("records", || {
        let rows = server.records();
        (rows.len() >= 2).then_some(rows)
    })
    .await;
    assert_eq!(rows.len(), 2);
    assert!(
        rows.iter()
            .all(|row| row.outcome == Outcome::Failure || row.status == 200)
    );
    assert!(rows.iter().any(|row| row.cause == Cause::BadRequestHead));
    assert_eq!(proxy.counters().started, 2);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_preface_is_told_in_http2() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .start();
    let mut client = Raw::bare(at(&proxy, "in")).await;
    client.send(b"INVALID CONNECTION PREFACE\r\n\r\n").await;
    let told = client.find(|frame| frame.kind == GOAWAY).await;
    assert_eq!(told.map(|told| told.code()), Some(PROTOCOL_ERROR));
    assert_eq!(client.next().await, None);
    let answer = crate::client::say(at(&proxy, "in"), b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "));
    let rows = wait_for("records", || {
        let rows = server.records();
        (rows.len() >= 2).then_some(rows)
    })
    .await;
    assert!(rows.iter().all(|row| row.cause == Cause::BadRequestHead));
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_arrive_whole_both_ways() {
    let app = App::start().await;
    let pair = crate::mesh::Pair::start("http2", app.address).await;
    let mut sender = crate::client::http2(pair.address()).await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let request = http::Request::post("http://callee.test/echo")
        .body(http_body_util::Full::new(bytes::Bytes::from(sent.clone())))
        .unwrap();
    let answer = crate::client::whole(sender.send_request(request).await.unwrap()).await;
    assert!(answer.unwrap().body == sent);
    let row = crate::mesh::record(&pair.server, Side::Outbound, "/echo").await;
    assert_eq!(
        (row.request_bytes, row.response_bytes),
        (3_000_000, 3_000_000)
    );
    assert_eq!((row.outcome, row.status), (Outcome::Success, 200));
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_says_goaway_twice_and_lets_streams_finish() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .patient()
        .start();
    let mut client = Raw::connect(at(&proxy, "in")).await;
    client.send(&head(1, true, &request("/held"))).await;
    wait_for("the request", || {
        (!app.seen.lock().unwrap().is_empty()).then_some(())
    })
    .await;
    let ending = tokio::spawn(end(proxy));
    let first = client.find(|frame| frame.kind == GOAWAY).await.unwrap();
    assert_eq!((first.last_stream(), first.code()), (0x7fff_ffff, 0));
    let ping = client.find(|frame| frame.kind == PING).await.unwrap();
    client.send(&frame(PING, 1, 0, &ping.payload)).await;
    let second = client.find(|frame| frame.kind == GOAWAY).await.unwrap();
    assert_eq!((second.last_stream(), second.code()), (1, 0));
    app.go_on.notify_one();
    assert_eq!(client.end_of(1).await, End::Status(200));
    ending.await.unwrap();
    let row = crate::mesh::record(&server, Side::Inbound, "/held").await;
    assert_eq!(row.outcome, Outcome::Success);
}
