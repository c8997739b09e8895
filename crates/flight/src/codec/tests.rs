//! What the batch format promises.

use proptest::prelude::*;
use whodunit_model::outcome::{Cause, Origin, Outcome};
use whodunit_model::{BootId, Kind, Protocol, RequestId, RequestRecord, Rows, Side, TraceContext};

use super::{DecodeError, decode, encode};

fn record(seed: u64) -> RequestRecord {
    let id = RequestId {
        start_us: seed as i64 >> 2,
        boot: BootId(seed % 3),
        n: seed as u32,
    };
    let mut record = RequestRecord::new(id, Side::Inbound, (seed as i64).wrapping_mul(3));
    record.kind = Kind::ALL[seed as usize % Kind::ALL.len()];
    record.at_us = seed as i64;
    record.latency_us = -(seed as i64 >> 8);
    record.duration_us = seed as i64 >> 3;
    record.src.workload = format!("w{}", seed % 5).into();
    record.dst.instance = format!("i{seed}").into();
    record.path = "/päth?x=~1".into();
    record.protocol = Protocol::Grpc;
    record.status = seed as u16;
    record.grpc_status = (seed.is_multiple_of(2)).then_some(seed as u8 % 17);
    record.outcome = Outcome::Failure;
    record.cause = Cause::ALL[seed as usize % Cause::ALL.len()];
    record.origin = Origin::Server;
    record.response_bytes = seed;
    record.response_messages = seed as u32;
    record.probe = seed.is_multiple_of(7);
    record.reused = seed.is_multiple_of(3);
    if seed.is_multiple_of(4) {
        record.trace = TraceContext {
            trace_id: u128::from(seed) << 60,
            parent_id: seed,
        };
    }
    record
}

fn batch(seeds: &[u64]) -> (Rows, Vec<u8>) {
    let rows: Rows = seeds.iter().map(|seed| record(*seed)).collect();
    let mut bytes = Vec::new();
    encode(&rows, &mut bytes);
    (rows, bytes)
}

proptest! {
    #[test]
    fn rows_round_trip(seeds in proptest::collection::vec(any::<u64>(), 0..200)) {
        let (rows, bytes) = batch(&seeds);
        let back = decode(&bytes).unwrap();
        prop_assert_eq!(back.len(), rows.len());
        for i in 0..rows.len() {
            prop_assert_eq!(back.record(i), rows.record(i));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
        let mut headed = b"WDB\x01\x00".to_vec();
        headed.extend(bytes);
        let _ = decode(&headed);
    }

    #[test]
    fn a_changed_byte_never_panics(at in 0usize..2_000, value: u8) {
        let (_, mut bytes) = batch(&[1, 2, 3, 99]);
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = decode(&bytes);
    }
}

#[test]
fn a_batch_cut_anywhere_is_refused() {
    let (_, bytes) = batch(&(0..20).collect::<Vec<_>>());
    for end in 0..bytes.len() {
        assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn a_newer_version_is_named() {
    let (_, mut bytes) = batch(&[1]);
    bytes[3] = 9;
    let error = decode(&bytes).unwrap_err();
    assert_eq!(error, DecodeError::Newer { found: 9 });
    assert!(error.to_string().contains("version 9"));
}

#[test]
fn an_unknown_column_is_skipped() {
    let (rows, bytes) = batch(&(0..64).collect::<Vec<_>>());
    assert_eq!(bytes[4], 1, "large enough to be compressed");
    let mut reader = crate::bytes_io::Reader::new(&bytes[5..]);
    let length = reader.length().unwrap();
    let mut body = zstd::bulk::decompress(&bytes[5 + reader.at()..], length).unwrap();
    // The column count is one byte: find it by counting from the front.
    let mut reader = crate::bytes_io::Reader::new(&body);
    reader.varint().unwrap();
    let strings = reader.length().unwrap();
    let total: usize = (0..strings).map(|_| reader.length().unwrap()).sum();
    reader.take(total).unwrap();
    let count_at = reader.at();
    body[count_at] += 1;
    body.extend_from_slice(&[120, 3, 1, 2, 3]);
    let mut newer = bytes[..4].to_vec();
    newer.push(0);
    crate::bytes_io::put_varint(&mut newer, body.len() as u64);
    newer.extend_from_slice(&body);
    assert_eq!(decode(&newer).unwrap().record(0), rows.record(0));
}

#[test]
fn a_bomb_is_refused() {
    let mut bytes = b"WDB\x01\x01".to_vec();
    crate::bytes_io::put_varint(&mut bytes, 1 << 40);
    assert_eq!(
        decode(&bytes).unwrap_err(),
        DecodeError::TooLarge { what: "body" }
    );
    let mut rows = b"WDB\x01\x00".to_vec();
    let mut body = Vec::new();
    crate::bytes_io::put_varint(&mut body, 1 << 20);
    body.extend_from_slice(&[1, 0, 0]);
    crate::bytes_io::put_varint(&mut rows, body.len() as u64);
    rows.extend_from_slice(&body);
    assert!(decode(&rows).is_err());
}

/// A batch of version 1 as the first release wrote it: every later build must
/// read it. `KEEP_BATCH=1` writes it, once per version of the format. Its rows
/// were chosen from the causes there were then, so they are named here.
#[test]
fn the_kept_batch_still_reads() {
    const CAUSES: usize = 26;
    let kept = |seed: u64| RequestRecord {
        cause: Cause::ALL[seed as usize % CAUSES],
        ..record(seed)
    };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/batch-v1.wdb");
    let seeds: Vec<u64> = (0..8u64).map(|seed| seed * 1_000_003).collect();
    if std::env::var_os("KEEP_BATCH").is_some() {
        let rows: Rows = seeds.iter().map(|seed| kept(*seed)).collect();
        let mut bytes = Vec::new();
        encode(&rows, &mut bytes);
        std::fs::write(path, bytes).unwrap();
    }
    let rows = decode(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(rows.len(), seeds.len());
    for (i, seed) in seeds.into_iter().enumerate() {
        assert_eq!(rows.record(i), kept(seed));
    }
}
