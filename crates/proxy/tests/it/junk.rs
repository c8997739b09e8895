//! Junk on every listening port.

use http::StatusCode;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::app::App;
use crate::client::{fetch, http2};
use crate::mesh::{Setup, at, end, wait_for};
use crate::server::Server;

/// Numbers that look random and are the same each time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut x = seed * 2 + 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        u8::try_from(x >> 56).unwrap()
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_harms_nobody() {
    let app = App::start().await;
    let server = Server::start().await;
    let mut setup = Setup::new("web", &server);
    let protocols = ["detect", "http1", "http2", "grpc", "opaque"];
    for protocol in protocols {
        let forward = format!("forward = \"{}\"", app.address);
        setup = setup.listener(protocol, "inbound", protocol, &forward);
    }
    let proxy = setup.start();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut pieces: Vec<Vec<u8>> = (0..20).map(|i| noise(i, 50 << (i % 8))).collect();
    pieces.push(preface[..10].to_vec());
    pieces.push(preface.to_vec());
    for i in 0..10 {
        pieces.push([&preface[..], &noise(i, 300)].concat());
        pieces.push([b"GET / HTTP/1.1\r\nHost: ".to_vec(), noise(i, 300)].concat());
    }
    pieces.push(b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec());
    pieces.push([b"GET /".to_vec(), vec![b'a'; 200_000]].concat());
    pieces.push(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec());
    pieces.push(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nshort".to_vec());
    let admin = proxy.admin().unwrap();
    let mut open = Vec::new();
    let targets = protocols
        .map(|name| at(&proxy, name))
        .into_iter()
        .chain([admin]);
    for target in targets {
        let mut streams = Vec::new();
        for piece in &pieces {
            let mut stream = TcpStream::connect(target).await.unwrap();
            let _ = stream.write_all(piece).await;
            streams.push(stream);
        }
        // Half of them go away at once, the others when everybody had their turn.
        drop(streams.split_off(pieces.len() / 2));
        open.extend(streams);
    }
    assert_eq!(
        fetch(at(&proxy, "detect"), "/").await.status,
        StatusCode::OK
    );
    assert_eq!(fetch(at(&proxy, "http1"), "/").await.status, StatusCode::OK);
    drop(http2::<http_body_util::Empty<bytes::Bytes>>(at(&proxy, "http2")).await);
    drop(open);
    wait_for("connections to end", || {
        (proxy.open_connections() == 0).then_some(())
    })
    .await;
    crate::sending::conserved(&proxy).await;
    assert_eq!(proxy.counters().in_flight, 0);
    end(proxy).await;
}
