//! The server's own metrics, in the Prometheus text format.
//!
//! Every metric of the server is declared here.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::{Answer, App};
use crate::live::Live;
use whodunit_store::StoreStats;

/// Answers `/metrics`.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Answer {
    let stats = app.ask(|queries, _| Ok(queries.store().stats())).await?;
    let text = render(&stats, &app.live);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let response: Response = ([(header::CONTENT_TYPE, kind)], text).into_response();
    Ok(response)
}

fn render(stats: &StoreStats, live: &Live) -> String {
    let mut out = String::new();
    let mut one = |kind: &str, name: &str, help: &str, value: u64| {
        // Writing to a string does not fail.
        let _ = write!(
            out,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
        );
    };
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (ingest, surface, discovery) = (&live.ingest, &live.surface, &live.destinations);

    let mut gauge = |name: &str, help: &str, value: u64| one("gauge", name, help, value);
    gauge("whodunit_store_records", "Records held.", stats.records);
    gauge(
        "whodunit_store_disk_bytes",
        "Bytes on disk.",
        stats.disk_bytes,
    );
    gauge(
        "whodunit_store_log_bytes",
        "Bytes of the log.",
        stats.log_bytes,
    );
    gauge(
        "whodunit_store_damaged",
        "Files and frames that were damaged and skipped.",
        stats.damaged_total,
    );
    gauge(
        "whodunit_store_complete",
        "Whether nothing that is held is damaged.",
        u64::from(stats.complete),
    );
    gauge(
        "whodunit_ingest_streams",
        "Record streams open now.",
        load(&ingest.streams),
    );
    gauge(
        "whodunit_discovery_streams",
        "Discovery streams open now.",
        load(&discovery.subscribers),
    );
    gauge(
        "whodunit_http_connections",
        "HTTP connections open now.",
        load(&surface.connections),
    );
    gauge(
        "whodunit_query_running",
        "Queries running now.",
        load(&surface.running),
    );
    gauge(
        "whodunit_tap_followers",
        "Followers of the live stream.",
        load(&surface.followers),
    );
    gauge(
        "whodunit_proxy_lost_records",
        "Records that all known proxies had to give up since they started.",
        live.proxies.lost(),
    );

    let mut counter = |name: &str, help: &str, value: u64| one("counter", name, help, value);
    counter(
        "whodunit_ingest_batches_total",
        "Batches taken.",
        load(&ingest.batches),
    );
    counter(
        "whodunit_ingest_rows_total",
        "Rows taken.",
        load(&ingest.rows),
    );
    counter(
        "whodunit_ingest_duplicates_total",
        "Batches that were here already.",
        load(&ingest.duplicates),
    );
    counter(
        "whodunit_ingest_refused_total",
        "Batches refused: damaged or of a newer version.",
        load(&ingest.refused),
    );
    counter(
        "whodunit_ingest_failed_total",
        "Batches that could not be written.",
        load(&ingest.failed),
    );
    counter(
        "whodunit_ingest_unknown_total",
        "Messages of a kind this version does not know.",
        load(&ingest.unknown),
    );
    counter(
        "whodunit_store_flush_failures_total",
        "Times records could not be written to files.",
        stats.flush_failures,
    );
    counter(
        "whodunit_store_compactions_total",
        "Times small files of a closed hour became one.",
        stats.compactions,
    );
    counter(
        "whodunit_store_compaction_failures_total",
        "Times that failed; the small files stay.",
        stats.compaction_failures,
    );
    counter(
        "whodunit_store_sync_failures_total",
        "Times the log could not be made durable.",
        stats.sync_failures,
    );
    counter(
        "whodunit_store_deleted_rows_total",
        "Rows deleted by retention since the directory was made.",
        stats.deleted_rows,
    );
    counter(
        "whodunit_ingest_reports_total",
        "Reports taken.",
        load(&ingest.reports),
    );
    counter(
        "whodunit_query_answered_total",
        "Queries answered.",
        load(&surface.answered),
    );
    counter(
        "whodunit_query_turned_away_total",
        "Queries turned away because too many were waiting.",
        load(&surface.turned_away),
    );
    counter(
        "whodunit_http_crowded_total",
        "HTTP connections closed at once because as many requests were being answered as may be.",
        load(&surface.crowded),
    );
    counter(
        "whodunit_http_forbidden_total",
        "Requests refused because of their Host or Origin.",
        load(&surface.forbidden),
    );
    counter(
        "whodunit_tap_lost_total",
        "Records that followers missed because they were too slow.",
        load(&surface.followers_lost),
    );
    counter(
        "whodunit_discovery_updates_total",
        "Discovery updates sent.",
        load(&discovery.updates),
    );
    counter(
        "whodunit_discovery_slow_dropped_total",
        "Discovery streams dropped because they were not read.",
        load(&discovery.slow_dropped),
    );
    out
}
