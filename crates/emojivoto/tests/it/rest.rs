//! The REST contract and the pages of web.

use emojivoto::bot::{self, BotOptions};
use emojivoto::catalog::Era;
use emojivoto::log::Log;
use emojivoto::serve::Stop;
use serde_json::Value;

use crate::app::{self, App, Lines, get, post};

const JSON: &str = "content-type: application/json; charset=utf-8";

async fn board(app: &App) -> Value {
    let answer = get(app.web.addr, "/api/leaderboard").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

#[tokio::test]
async fn the_list_is_the_eras_in_page_order() {
    for (era, first, count) in [(Era::Y2018, ":poop:", 100), (Era::Y2019, ":joy:", 99)] {
        let app = app::start(era, "none").await;
        let answer = get(app.web.addr, "/api/list").await;
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains(JSON), "{}", answer.head);
        let start = format!("[{{\"shortcode\":\"{first}\",\"unicode\":\"");
        assert!(answer.body.starts_with(&start), "{}", answer.body);
        assert!(answer.body.ends_with("}]\n"), "{}", answer.body);
        let list: Vec<Value> = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(list.len(), count);
    }
}

#[tokio::test]
async fn a_vote_is_counted_and_answered_with_nothing() {
    let app = app::start(Era::Y2018, "poop").await;
    assert_eq!(get(app.web.addr, "/api/leaderboard").await.body, "[]\n");
    let answer = get(app.web.addr, "/api/vote?choice=:doughnut:").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let answer = post(app.web.addr, "/api/vote", "choice=%3Ajoy%3A").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(app::vote(&app, ":doughnut:").await, 200);
    let body = get(app.web.addr, "/api/leaderboard").await.body;
    let expected = "[{\"shortcode\":\":doughnut:\",\"unicode\":\"\u{1F369}\",\"votes\":\"2\"},\
                    {\"shortcode\":\":joy:\",\"unicode\":\"\u{1F602}\",\"votes\":\"1\"}]\n";
    assert_eq!(body, expected);
    assert_eq!(app.log.text(), "");
}

#[tokio::test]
async fn the_poop_fails_with_a_text_that_names_nobody() {
    let app = app::start(Era::Y2018, "poop").await;
    let answer = get(app.web.addr, "/api/vote?choice=:poop:").await;
    assert_eq!(answer.status, 500);
    assert!(answer.head.contains(JSON), "{}", answer.head);
    assert_eq!(
        answer.body,
        "{\"error\":\"rpc error: code = Unknown desc = ERROR\"}\n"
    );
    let log = app.log.text();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.contains(" Error serving request [&{GET /api/vote?choice=:poop: HTTP/1.1 "),
        "{log}"
    );
    assert!(
        log.ends_with("}]: rpc error: code = Unknown desc = ERROR\n"),
        "{log}"
    );
    assert_eq!(board(&app).await, Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_wrong_choice_is_refused() {
    let app = app::start(Era::Y2019, "none").await;
    for (path, expected) in [
        (
            "/api/vote",
            "{\"error\":\"Emoji choice [] is mandatory\"}\n",
        ),
        (
            "/api/vote?choice=",
            "{\"error\":\"Emoji choice [] is mandatory\"}\n",
        ),
        (
            "/api/vote?choice=:relaxed:",
            "{\"error\":\"Choosen emoji shortcode [:relaxed:] doesnt exist\"}\n",
        ),
        (
            "/api/vote?choice=%3Cb%3E",
            "{\"error\":\"Choosen emoji shortcode [\\u003cb\\u003e] doesnt exist\"}\n",
        ),
    ] {
        let answer = get(app.web.addr, path).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (400, expected),
            "{path}"
        );
        assert!(answer.head.contains(JSON), "{}", answer.head);
    }
}

#[tokio::test]
async fn a_choice_cannot_forge_a_line_of_the_log() {
    let app = app::start(Era::Y2018, "none").await;
    let answer = get(app.web.addr, "/api/vote?choice=a%0Ab%0D%1B").await;
    let expected = "{\"error\":\"Choosen emoji shortcode [a\\nb\\r\\u001b] doesnt exist\"}\n";
    assert_eq!((answer.status, answer.body.as_str()), (400, expected));
    let log = app.log.text();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("map[choice:[a\\nb\\r\\u{1b}]]"), "{log}");
    let end = "}]: Choosen emoji shortcode [a\\nb\\r\\u{1b}] doesnt exist\n";
    assert!(log.ends_with(end), "{log}");
}

#[tokio::test]
async fn every_emoji_of_the_list_can_be_voted_for() {
    let app = app::start(Era::Y2018, "none").await;
    for emoji in emojivoto::catalog::list(Era::Y2018) {
        assert_eq!(
            app::vote(&app, emoji.shortcode).await,
            200,
            "{}",
            emoji.shortcode
        );
    }
    assert_eq!(board(&app).await.as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn the_pages_and_what_they_load_are_served() {
    let app = app::start(Era::Y2018, "poop").await;
    let page = get(app.web.addr, "/").await;
    assert!(
        page.head.contains("content-type: text/html"),
        "{}",
        page.head
    );
    assert!(
        page.body
            .contains("<div id=\"motd\" class=\"motd\">Vote &lt;early&gt; &amp; often</div>")
    );
    assert!(
        page.body.contains("<div id=\"main\" class=\"main\">"),
        "{}",
        page.body
    );
    assert_eq!(get(app.web.addr, "/leaderboard").await.body, page.body);
    assert_eq!(get(app.web.addr, "/no/such/page").await.body, page.body);
    for (path, kind) in [
        ("/js", "text/javascript"),
        ("/dist/index_bundle.js", "text/javascript"),
        ("/dist/app.css", "text/css"),
    ] {
        let answer = get(app.web.addr, path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.head.contains(kind), "{}", answer.head);
        // Whatever the pages load comes from here.
        assert!(
            !answer.body.contains("http://") && !answer.body.contains("https://"),
            "{path}"
        );
    }
    for path in ["/dist/nothing.js", "/dist/"] {
        assert_eq!(get(app.web.addr, path).await.status, 404, "{path}");
    }
    assert!(
        page.body.contains("<script src=\"/js\" async>"),
        "{}",
        page.body
    );
}

#[tokio::test]
async fn the_icon_is_an_icon() {
    let app = app::start(Era::Y2018, "none").await;
    let request = format!(
        "HEAD /img/favicon.ico HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        app.web.addr
    );
    let answer = app::exchange(app.web.addr, &request).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.head.contains("content-type: image/x-icon"),
        "{}",
        answer.head
    );
}

#[tokio::test]
async fn another_script_can_be_served() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("own.js");
    std::fs::write(&script, "let own;").unwrap();
    let log = Lines::default();
    let web = app::start_web(app::any_port(), app::any_port(), Some(script.clone()), &log).await;
    assert_eq!(get(web.addr, "/js").await.body, "let own;");
    assert_eq!(get(web.addr, "/readyz").await.status, 200);
    std::fs::remove_file(script).unwrap();
    assert_eq!(get(web.addr, "/js").await.status, 500);
    assert_eq!(get(web.addr, "/readyz").await.status, 503);
    assert_eq!(get(web.addr, "/healthz").await.status, 200);
}

#[tokio::test]
async fn web_starts_alone_and_finds_the_others_when_they_come_and_come_back() {
    let emoji = app::start_emoji(app::any_port(), Era::Y2018).await;
    let voting = app::start_voting(app::any_port(), "none", 0).await;
    let (emoji_addr, voting_addr) = (emoji.addr, voting.addr);
    emoji.stop().await;
    voting.stop().await;

    let log = Lines::default();
    let web = app::start_web(emoji_addr, voting_addr, None, &log).await;
    let vote = || async move { get(web.addr, "/api/vote?choice=:joy:").await };
    for round in 0..2 {
        let answer = vote().await;
        assert_eq!(answer.status, 500, "round {round}");
        assert!(
            answer
                .body
                .contains("rpc error: code = Unavailable desc = "),
            "{}",
            answer.body
        );
        assert_eq!(get(web.addr, "/readyz").await.status, 200);

        let emoji = app::start_emoji(emoji_addr, Era::Y2018).await;
        let voting = app::start_voting(voting_addr, "none", 0).await;
        app::eventually(
            "votes count again",
            || async move { vote().await.status == 200 },
        )
        .await;
        emoji.stop().await;
        voting.stop().await;
    }
}

#[tokio::test]
async fn the_bot_votes_as_its_seed_says_and_mentions_no_failure() {
    let app = app::start(Era::Y2018, "poop").await;
    let mut runs = Vec::new();
    for _ in 0..2 {
        let (votes, errors) = (Lines::default(), Lines::default());
        let (trigger, stop) = Stop::new();
        let options = BotOptions {
            web_host: app.web.addr.to_string(),
            host_override: Some("web.example".to_owned()),
            rate: 1000.0,
            ttl: None,
            era: Era::Y2018,
            seed: Some(11),
        };
        let log = |lines: &Lines| Log::new(Box::new(lines.clone()));
        let bot = tokio::spawn(bot::run(options, log(&votes), log(&errors), stop));
        let printed = &votes;
        app::eventually("the bot voted", || async move {
            printed.text().lines().count() >= 60
        })
        .await;
        trigger.stop();
        bot.await.unwrap().unwrap();
        assert_eq!(errors.text(), "");
        runs.push(
            votes
                .text()
                .lines()
                .take(60)
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(runs[0], runs[1]);
    assert!(
        runs[0].contains(&"\u{2714} voting for :poop:".to_owned()),
        "{:?}",
        runs[0]
    );
    assert!(
        app.log
            .text()
            .contains("] false web.example map[choice:[:poop:]]")
    );
}
