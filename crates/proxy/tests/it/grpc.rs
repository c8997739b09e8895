//! gRPC through two proxies.

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use whodunit_model::record::{Protocol, Side};
use whodunit_model::{Cause, Origin, Outcome};

use crate::app::{App, nobody};
use crate::client::{call, http2, whole};
use crate::mesh::{Pair, record_where};

/// A gRPC message.
fn message(body: &[u8]) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_trailers_pass_both_ways_and_are_counted() {
    let app = App::start().await;
    let pair = Pair::start("grpc", app.address).await;
    let (pieces, stream) = tokio::sync::mpsc::channel::<Result<_, std::io::Error>>(1);
    let request = call("Code0", vec![])
        .map(|_| StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(stream)));
    let mut sender = http2(pair.address()).await;
    let response = sender.send_request(request);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-from-client", "yes".parse().unwrap());
    trailers.insert("whodunit-id", "forged".parse().unwrap());
    // Two messages in three pieces.
    let mut bytes = message(b"first");
    bytes.extend(message(b"second"));
    for piece in bytes.chunks(7) {
        pieces
            .send(Ok(Frame::data(Bytes::copy_from_slice(piece))))
            .await
            .unwrap();
    }
    pieces.send(Ok(Frame::trailers(trailers))).await.unwrap();
    drop(pieces);
    let answer = whole(response.await.unwrap()).await.unwrap();
    assert_eq!(answer.body, bytes);
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!(answer.trailers["grpc-message"], "in the trailers");
    assert_eq!(answer.trailers["x-from-client"], "yes");
    assert!(!answer.trailers.contains_key("whodunit-id"));
    assert_eq!(app.headers("/test.Service/Code0")["te"], "trailers");
    for side in [Side::Inbound, Side::Outbound] {
        let row = record_where(&pair.server, |row| row.side == side).await;
        assert_eq!(
            (row.protocol, &*row.route),
            (Protocol::Grpc, "test.Service/Code0")
        );
        assert_eq!((row.status, row.grpc_status), (200, Some(0)));
        assert_eq!(row.outcome, Outcome::Success);
        assert_eq!((row.request_messages, row.response_messages), (2, 2));
        assert_eq!(row.request_bytes, bytes.len() as u64);
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_application_are_told_from_others() {
    let app = App::start().await;
    let pair = Pair::start("detect", app.address).await;
    let mut sender = http2::<Full<Bytes>>(pair.address()).await;
    let cases = [
        ("Code2", Some(2), Cause::AppGrpcStatus),
        ("Bare", Some(14), Cause::AppGrpcStatus),
        ("Silent", None, Cause::NoGrpcStatus),
        ("Code5", Some(5), Cause::None),
    ];
    for (method, code, cause) in cases {
        let response = sender
            .send_request(call(method, message(b"x")))
            .await
            .unwrap();
        let answer = whole(response).await.unwrap();
        let status = answer
            .trailers
            .get("grpc-status")
            .or(answer.headers.get("grpc-status"));
        assert_eq!(
            status.map(|status| status.to_str().unwrap().parse().unwrap()),
            code
        );
        for side in [Side::Inbound, Side::Outbound] {
            let row = record_where(&pair.server, |row| {
                row.side == side && row.route.ends_with(&format!("/{method}"))
            })
            .await;
            assert_eq!((row.grpc_status, row.cause), (code, cause), "{method}");
            let origin = if cause == Cause::None {
                Origin::None
            } else {
                Origin::Server
            };
            assert_eq!(row.origin, origin, "{method}");
        }
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_application_is_answered_as_grpc() {
    let pair = Pair::start("grpc", nobody().await).await;
    let mut sender = http2::<Full<Bytes>>(pair.address()).await;
    let response = sender
        .send_request(call("Any", message(b"x")))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["whodunit-cause"], "connect_refused");
    let text = response.headers()["grpc-message"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        text.contains("callee-0") && text.contains("refused"),
        "{text}"
    );
    assert!(response.into_body().frame().await.is_none());
    for side in [Side::Inbound, Side::Outbound] {
        let row = record_where(&pair.server, |row| row.side == side).await;
        assert_eq!(
            (row.cause, row.origin),
            (Cause::ConnectRefused, Origin::Server)
        );
        assert_eq!((row.status, row.grpc_status), (200, Some(14)));
    }
    pair.end().await;
}
