//! Who answers here.

use whodunit_api::status::Status;
use whodunit_model::time::format_utc;

use super::Queries;

impl Queries {
    /// Says who answers and what it holds.
    #[must_use]
    pub fn status(&self) -> Status {
        let stats = self.store.stats();
        let live = self.live.as_deref();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: live.map_or(0, |_| std::process::id()),
            uptime_s: live.map_or(0, |live| live.started.elapsed().as_secs()),
            data_dir: self.store.path().display().to_string(),
            records: stats.records,
            disk_bytes: stats.disk_bytes,
            oldest: stats.oldest_us.map(format_utc),
            newest: stats.newest_us.map(format_utc),
            complete: stats.complete,
            damaged: stats.damaged_total,
            grpc: live.map_or_else(String::new, |live| live.grpc.to_string()),
        }
    }
}
