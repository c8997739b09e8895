//! The recorder accounts for every request and every row.

use whodunit_model::{BootId, RequestRecord, Side};

use super::{Config, Counters, Mode, Recorder};

fn record(recorder: &Recorder) {
    let begun = recorder.begin(1);
    let record = RequestRecord::new(begun.id(), Side::Inbound, 1);
    begun.finish(Box::new(record));
}

#[track_caller]
fn check_conservation(counters: Counters) {
    assert_eq!(
        counters.started,
        counters.recorded
            + counters.in_flight
            + counters.dropped_abandoned
            + counters.dropped_queue_full,
        "{counters:?}"
    );
    assert_eq!(
        counters.rows,
        counters.acknowledged
            + counters.buffered
            + counters.discarded_buffer_full
            + counters.discarded_queue_full
            + counters.discarded_mode,
        "{counters:?}"
    );
}

#[test]
fn every_request_is_accounted_for() {
    let mut config = Config::new(BootId(1));
    config.queue_rows = 10;
    let (recorder, mut outbox) = Recorder::new(config);
    for _ in 0..15 {
        record(&recorder);
    }
    let open = recorder.begin(2);
    recorder.observe(RequestRecord::new(open.id(), Side::Inbound, 2));
    drop(recorder.begin(3));
    let counters = recorder.counters();
    check_conservation(counters);
    assert_eq!((counters.recorded, counters.dropped_queue_full), (10, 5));
    assert_eq!((counters.in_flight, counters.dropped_abandoned), (1, 1));
    assert_eq!(counters.discarded_queue_full, 1);
    outbox.seal();
    outbox.acknowledge(outbox.last_sequence());
    let counters = recorder.counters();
    check_conservation(counters);
    assert_eq!((counters.acknowledged, counters.buffered), (10, 0));
    drop(open);
    check_conservation(recorder.counters());
}

#[test]
fn the_oldest_batch_makes_room_and_is_counted() {
    let mut config = Config::new(BootId(1));
    config.batch_rows = 5;
    config.buffer_bytes = 500;
    let (recorder, mut outbox) = Recorder::new(config);
    for _ in 0..100 {
        record(&recorder);
        outbox.seal();
    }
    let counters = recorder.counters();
    check_conservation(counters);
    assert!(counters.discarded_buffer_full > 0);
    assert!(outbox.buffered_bytes() <= 500);
    let first = outbox.unsent().unwrap().sequence;
    assert!(first > 1, "the oldest went first");
    assert_eq!(outbox.last_sequence(), 100);
}

#[test]
fn what_is_not_durable_is_sent_again() {
    let (recorder, mut outbox) = Recorder::new(Config::new(BootId(1)));
    for _ in 0..3 {
        record(&recorder);
        outbox.seal();
    }
    let mut sent = Vec::new();
    while let Some(sequence) = outbox.unsent().map(|batch| batch.sequence) {
        sent.push(sequence);
        outbox.mark_sent(sequence);
    }
    assert_eq!(sent, [1, 2, 3]);
    outbox.acknowledge(1);
    outbox.reconnected();
    assert_eq!(outbox.unsent().unwrap().sequence, 2);
    outbox.acknowledge(99);
    assert!(!outbox.is_empty(), "a number from nowhere frees nothing");
    outbox.acknowledge(3);
    assert!(outbox.is_empty());
    check_conservation(recorder.counters());
}

#[test]
fn discarding_counts_too() {
    for mode in [Mode::Off, Mode::Drop] {
        let mut config = Config::new(BootId(1));
        config.mode = mode;
        let (recorder, mut outbox) = Recorder::new(config);
        record(&recorder);
        outbox.seal();
        assert!(outbox.is_empty());
        check_conservation(recorder.counters());
    }
}

#[test]
fn threads_lose_nothing() {
    let (recorder, mut outbox) = Recorder::new(Config::new(BootId(1)));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5_000).for_each(|_| record(&recorder)));
        }
        while recorder.counters().started < 20_000 {
            outbox.seal();
        }
    });
    outbox.seal();
    let counters = recorder.counters();
    check_conservation(counters);
    assert_eq!(counters.started, 20_000);
    assert_eq!(counters.in_flight, 0);
}

#[test]
fn a_queue_smaller_than_a_batch_is_sealed_before_it_is_full() {
    for (queue_rows, batch_rows, wanted) in [(10, 2_048, 5), (1, 2_048, 1), (100, 3, 3)] {
        let mut config = Config::new(BootId(1));
        config.queue_rows = queue_rows;
        config.batch_rows = batch_rows;
        let (recorder, _outbox) = Recorder::new(config);
        for waiting in 0..wanted {
            assert!(!recorder.wants_seal(), "{waiting} of {queue_rows}");
            record(&recorder);
        }
        assert!(recorder.wants_seal(), "{wanted} of {queue_rows}");
    }
}
