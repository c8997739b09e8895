//! The live stream: `tap` with `follow=true`, as Server-Sent Events.
//!
//! A follower has a cursor into the order of arrival and reads a step at a
//! time; a slow one falls behind the store's memory and is told how many
//! records it lost. Each event's id is the cursor after it, so a reader that
//! comes back with `Last-Event-ID` goes on where it ended.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::header::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use whodunit_api::record::Record;
use whodunit_api::tap::{Lost, TapQuery};
use whodunit_model::Filter;
use whodunit_store::Cursor;

use super::{Answer, App};
use crate::query::QueryError;
use crate::query::record::record;
use crate::query::tap::{STEP_MAX, filter};
use crate::stopped;

/// Most followers at one time.
pub(super) const FOLLOWERS_MAX: usize = 64;

/// Events that wait for one follower; a step fits twice.
const QUEUE: usize = 2 * STEP_MAX;

/// A comment is sent after this long without an event, so that both ends see that the other lives.
const HEARTBEAT: Duration = Duration::from_secs(5);

type Events = mpsc::Sender<Result<Event, Infallible>>;

/// Answers `tap?follow=true`: what the range holds if it was given, then what comes.
pub(super) async fn follow(app: Arc<App>, query: TapQuery, headers: &HeaderMap) -> Answer {
    let filter = filter(&query)?;
    if query.range.until.is_some() {
        let why = "cannot be used with `follow`: a live stream has no end";
        return Err(QueryError::parameter("until", why));
    }
    let resumed = resume_from(headers)?;
    let place = app
        .followers
        .clone()
        .try_acquire_owned()
        .map_err(|_| QueryError::Unavailable {
            message: format!("{FOLLOWERS_MAX} followers are connected, more are not served"),
        })?;

    // The cursor comes first: what arrives while the past is read is not missed.
    let cursor = match resumed {
        Some(cursor) => cursor,
        None => app.queries.store().cursor_now(),
    };
    let mut past = Vec::new();
    if resumed.is_none() && query.range.since.is_some() {
        let asked = query.clone();
        past = app
            .ask(move |queries, now_us| queries.tap(&asked, now_us))
            .await?
            .records;
    }

    let (events, receiver) = mpsc::channel(QUEUE);
    let follower = Follower {
        ingested: app.live.ingested.subscribe(),
        stopping: app.stopping.clone(),
        app,
        filter,
        cursor,
        sent: past.iter().map(key).collect(),
        _place: place,
    };
    tokio::spawn(follower.run(past, events));
    let alive = KeepAlive::new().interval(HEARTBEAT).text("alive");
    Ok(Sse::new(ReceiverStream::new(receiver))
        .keep_alive(alive)
        .into_response())
}

/// Returns the cursor a reader comes back with.
fn resume_from(headers: &HeaderMap) -> Result<Option<Cursor>, QueryError> {
    let Some(text) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let cursor = text.to_str().ok().and_then(|text| text.parse().ok());
    cursor.map(Some).ok_or_else(|| QueryError::BadRequest {
        message: "header `Last-Event-ID` is not the id of an event of this stream".to_owned(),
        hint: "leave it out to start with what comes now".to_owned(),
    })
}

/// Tells one row from every other.
type Key = (String, String, String, i64);

fn key(record: &Record) -> Key {
    (
        record.id.clone(),
        record.side.clone(),
        record.kind.clone(),
        record.at_us,
    )
}

struct Follower {
    app: Arc<App>,
    ingested: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    filter: Filter,
    cursor: Cursor,
    /// Rows of the past that may come again by arrival.
    sent: HashSet<Key>,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    async fn run(mut self, past: Vec<Record>, events: Events) {
        let counters = self.app.clone();
        let counters = &counters.live.surface;
        counters.followers.fetch_add(1, Ordering::Relaxed);
        // A reader that left ends the stream; there is nobody to tell.
        let _ = self.serve(past, &events).await;
        counters.followers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Serves until the reader leaves (none) or the server stops.
    async fn serve(&mut self, past: Vec<Record>, events: &Events) -> Option<()> {
        for record in past {
            self.send(events, "record", &record).await?;
        }
        loop {
            self.ingested.mark_unchanged();
            while self.step(events).await? {}
            tokio::select! {
                changed = self.ingested.changed() => changed.ok()?,
                () = events.closed() => return None,
                () = stopped(&mut self.stopping) => return Some(()),
            }
        }
    }

    /// Sends what came since the last step; returns whether more may be waiting.
    async fn step(&mut self, events: &Events) -> Option<bool> {
        let (queries, cursor) = (self.app.queries.clone(), self.cursor);
        let filter = self.filter.clone();
        let followed =
            tokio::task::spawn_blocking(move || queries.tap_after(cursor, &filter)).await;
        let followed = followed.ok()?.ok()?;
        if followed.lost > 0 {
            let counter = &self.app.live.surface.followers_lost;
            counter.fetch_add(followed.lost, Ordering::Relaxed);
            let lost = Lost {
                records: followed.lost,
            };
            self.send(events, "lost", &lost).await?;
        }
        for (index, cursor) in followed.cursors.iter().enumerate() {
            self.cursor = *cursor;
            let record = record(&followed.rows, index);
            if !self.sent.remove(&key(&record)) {
                self.send(events, "record", &record).await?;
            }
        }
        self.cursor = followed.cursor;
        Some(followed.more)
    }

    async fn send(&self, events: &Events, name: &str, data: &impl serde::Serialize) -> Option<()> {
        let data = serde_json::to_string(data).ok()?;
        let event = Event::default()
            .event(name)
            .id(self.cursor.to_string())
            .data(data);
        events.send(Ok(event)).await.ok()
    }
}
