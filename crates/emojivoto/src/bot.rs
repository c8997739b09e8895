//! The vote-bot: lists the emoji, votes for one, and does not care what comes of it.
//!
//! It prints each vote and ignores the answer's status, so a failing vote leaves no
//! trace here. Only when web cannot be reached at all does it say so, once per outage.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::Method;
use serde::Deserialize;
use tokio::time::MissedTickBehavior;

use crate::catalog::{self, Era};
use crate::http_client::HttpClient;
use crate::log::Log;
use crate::random::Random;
use crate::serve::Stop;

/// Share of votes that are for the doughnut, before the bot picks any.
const DOUGHNUT_SHARE: f64 = 0.15;
/// Share of votes that are for the poop in 2018, before the bot picks any.
const POOP_SHARE: f64 = 0.20;
/// Less than a vote in a quarter of an hour is a mistyped number.
const RATE_MIN: f64 = 0.001;
/// More would be a load test, which one connection is not made for.
const RATE_MAX: f64 = 10_000.0;

/// How the bot votes.
#[derive(Debug)]
pub struct BotOptions {
    /// Where web listens, `HOST:PORT`.
    pub web_host: String,
    /// Value of the Host header when it is not `web_host`.
    pub host_override: Option<String>,
    /// Votes per second at most: it waits for each answer before the next vote.
    pub rate: f64,
    /// Ends after this long.
    pub ttl: Option<Duration>,
    /// Whose taste it has.
    pub era: Era,
    /// Same seed, same votes.
    pub seed: Option<u64>,
}

/// Picks the next vote from a list of shortcodes; `None` when the list is empty.
pub fn pick<'a>(random: &mut Random, era: Era, list: &'a [String]) -> Option<&'a str> {
    let favorites: &[(&'static str, f64)] = favorites(era);
    let mut roll = random.fraction();
    for (favorite, share) in favorites {
        if roll < *share {
            return Some(favorite);
        }
        roll -= share;
    }
    list.get(random.below(list.len())).map(String::as_str)
}

/// The share (0 to 1) of an era's votes that are for this emoji.
pub fn share(era: Era, shortcode: &str) -> f64 {
    let favorites = favorites(era);
    let direct: f64 = favorites
        .iter()
        .filter(|(name, _)| *name == shortcode)
        .map(|(_, share)| share)
        .sum();
    let any = 1.0 - favorites.iter().map(|(_, share)| share).sum::<f64>();
    let list = catalog::list(era);
    let listed = list
        .iter()
        .filter(|emoji| emoji.shortcode == shortcode)
        .count();
    direct + any * listed as f64 / list.len() as f64
}

fn favorites(era: Era) -> &'static [(&'static str, f64)] {
    match era {
        Era::Y2018 => &[(":doughnut:", DOUGHNUT_SHARE), (":poop:", POOP_SHARE)],
        Era::Y2019 => &[(":doughnut:", DOUGHNUT_SHARE)],
    }
}

/// Votes until its time is over or it is asked to stop. Votes go to `votes`, outages to
/// `errors`. Fails only when an option is not valid.
pub async fn run(options: BotOptions, votes: Log, errors: Log, stop: Stop) -> anyhow::Result<()> {
    ensure!(
        (RATE_MIN..=RATE_MAX).contains(&options.rate),
        "REQUEST_RATE {} is not a number of votes per second from {RATE_MIN} to {RATE_MAX}",
        options.rate
    );
    let client = HttpClient::new(&options.web_host, options.host_override.as_deref())
        .context("WEB_HOST or HOST_OVERRIDE is not valid")?;
    let end = async {
        match options.ttl {
            Some(ttl) => tokio::time::sleep(ttl).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stop.requested() => {}
        () = end => {}
        () = vote_forever(&options, client, &votes, &errors) => {}
    }
    Ok(())
}

async fn vote_forever(options: &BotOptions, mut client: HttpClient, votes: &Log, errors: &Log) {
    let mut random = Random::seeded(options.seed);
    let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / options.rate));
    // Late votes are left out, not caught up with: a slow web must not meet a burst.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reachable = true;
    loop {
        pace.tick().await;
        let result = vote(options.era, &mut client, &mut random, votes).await;
        if let Err(error) = &result
            && reachable
        {
            errors.line(format_args!("web does not answer, trying on: {error:#}"));
        }
        reachable = result.is_ok();
    }
}

/// One round: list, pick, vote. Fails only when there is no answer at all.
async fn vote(
    era: Era,
    client: &mut HttpClient,
    random: &mut Random,
    votes: &Log,
) -> anyhow::Result<()> {
    let (_, body) = client.request(Method::GET, "/api/list").await?;
    let list = shortcodes(&body);
    if list.is_empty() {
        // No list, nothing to vote for: an answer all the same.
        return Ok(());
    }
    let Some(shortcode) = pick(random, era, &list) else {
        return Ok(());
    };
    votes.plain(format_args!("\u{2714} voting for {shortcode}"));
    client
        .request(Method::GET, &format!("/api/vote?choice={shortcode}"))
        .await?;
    Ok(())
}

/// The shortcodes in an answer of `/api/list` that can stand in a URL; none when the
/// answer is an error or junk.
fn shortcodes(body: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Entry {
        shortcode: String,
    }
    let entries: Vec<Entry> = serde_json::from_slice(body).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-');
    let names = entries.into_iter().map(|entry| entry.shortcode);
    names
        .filter(|name| !name.is_empty() && name.chars().all(plain))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Share of each emoji in 200,000 votes of an era's bot.
    fn shares(era: Era, seed: u64) -> HashMap<String, f64> {
        const VOTES: u32 = 200_000;
        let list: Vec<String> = catalog::list(era)
            .iter()
            .map(|emoji| emoji.shortcode.to_owned())
            .collect();
        let mut random = Random::new(seed);
        let mut shares = HashMap::new();
        for _ in 0..VOTES {
            let shortcode = pick(&mut random, era, &list).unwrap();
            *shares.entry(shortcode.to_owned()).or_default() += 1.0 / f64::from(VOTES);
        }
        shares
    }

    #[track_caller]
    fn check(era: Era, shortcode: &str, expected: f64) {
        let measured = shares(era, 42)[shortcode];
        assert!(
            (measured - expected).abs() < 0.003,
            "{shortcode}: {measured}"
        );
        assert!(
            (share(era, shortcode) - expected).abs() < 1e-9,
            "{}",
            share(era, shortcode)
        );
    }

    #[test]
    fn the_bot_of_2018_likes_poop_and_doughnuts() {
        check(Era::Y2018, ":poop:", 0.20 + 0.65 / 100.0);
        check(Era::Y2018, ":doughnut:", 0.15 + 0.65 / 100.0);
        check(Era::Y2018, ":relaxed:", 0.65 / 100.0);
        assert_eq!(shares(Era::Y2018, 42).len(), 100);
    }

    #[test]
    fn the_bot_of_2019_likes_doughnuts_only() {
        check(Era::Y2019, ":doughnut:", 0.15 + 0.85 / 99.0);
        check(Era::Y2019, ":poop:", 0.85 / 99.0);
    }

    #[test]
    fn the_same_seed_votes_the_same() {
        assert_eq!(shares(Era::Y2018, 7), shares(Era::Y2018, 7));
        assert_ne!(shares(Era::Y2018, 7), shares(Era::Y2018, 8));
    }

    #[test]
    fn junk_instead_of_a_list_means_no_vote() {
        assert_eq!(shortcodes(b"{\"error\":\"x\"}"), Vec::<String>::new());
        assert_eq!(shortcodes(b"\xff"), Vec::<String>::new());
        let list = br#"[{"shortcode":":joy:","unicode":"x"},{"shortcode":"a b"}]"#;
        assert_eq!(shortcodes(list), [":joy:"]);
        assert_eq!(
            pick(&mut Random::new(1), Era::Y2019, &[]).filter(|p| *p == ":joy:"),
            None
        );
    }
}
