//! The messages that are sent again and again.

use crate::http2::{Block, Field, blocks};

/// Bytes of an HTTP answer's body.
pub(crate) const BODY_BYTES: usize = 1024;

/// Bytes of a gRPC message, each way.
pub(crate) const MESSAGE_BYTES: usize = 128;

/// All of them, built once.
pub(crate) struct Canned {
    pub(crate) http1_request: Vec<u8>,
    pub(crate) http1_answer: Vec<u8>,
    /// The head of an answer that never ends.
    pub(crate) http1_endless: Vec<u8>,
    pub(crate) http2_request: Block,
    pub(crate) http2_answer: Block,
    pub(crate) http2_body: Vec<u8>,
    pub(crate) grpc_request: Block,
    pub(crate) grpc_answer: Block,
    pub(crate) grpc_trailers: Block,
    pub(crate) grpc_message: Vec<u8>,
}

impl Canned {
    pub(crate) fn new() -> Self {
        let mut http1_answer = format!(
            "HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: text/plain\r\n\
             content-length: {BODY_BYTES}\r\n\r\n"
        )
        .into_bytes();
        http1_answer.resize(http1_answer.len() + BODY_BYTES, b'a');
        let length = BODY_BYTES.to_string();
        let [http2_request] = blocks([&[
            Field::Static(2),
            Field::Static(6),
            Field::Named(4, "/bench"),
            Field::Named(1, "bench.local"),
            Field::Named(58, "bench"),
            Field::Named(19, "*/*"),
        ]]);
        let [http2_answer] = blocks([&[
            Field::Static(8),
            Field::Named(54, "bench"),
            Field::Named(31, "text/plain"),
            Field::Named(28, &length),
        ]]);
        let [grpc_request] = blocks([&[
            Field::Static(3),
            Field::Static(6),
            Field::Named(4, "/bench.v1.Bench/Call"),
            Field::Named(1, "bench.local"),
            Field::Named(31, "application/grpc"),
            Field::Literal("te", "trailers"),
            Field::Named(58, "bench"),
        ]]);
        let [grpc_answer, grpc_trailers] = blocks([
            &[Field::Static(8), Field::Named(31, "application/grpc")],
            &[Field::Literal("grpc-status", "0")],
        ]);
        let size = u32::try_from(MESSAGE_BYTES).unwrap_or_default();
        let mut grpc_message = vec![0];
        grpc_message.extend_from_slice(&size.to_be_bytes());
        grpc_message.resize(grpc_message.len() + MESSAGE_BYTES, b'g');
        Self {
            http1_request: b"GET /bench HTTP/1.1\r\nhost: bench.local\r\n\
                user-agent: bench\r\naccept: */*\r\n\r\n"
                .to_vec(),
            http1_answer,
            http1_endless: b"HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n".to_vec(),
            http2_request,
            http2_answer,
            http2_body: vec![b'a'; BODY_BYTES],
            grpc_request,
            grpc_answer,
            grpc_trailers,
            grpc_message,
        }
    }
}
