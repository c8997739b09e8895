//! Running and ending a proxy: the admin address, draining, rolling restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use whodunit_proxy::Running;

use crate::app::App;
use crate::client::{Answer, get, http1, say, whole};
use crate::limits::metrics;
use crate::mesh::{Setup, at, end, endpoint, wait_for};
use crate::server::Server;

async fn ask(proxy: &Running, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(bytes::Bytes::from("debug")))
        .unwrap();
    whole(http1(proxy.admin().unwrap(), request).await)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_loopback_names_may_change_anything_and_nothing_ends_the_proxy() {
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .outbound("http1", "unheard")
        .start();
    let local = ("host", "localhost");
    let status = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        ask(&proxy, method, path, headers).await.status.as_u16()
    };
    assert_eq!(
        status("PUT", "/log-level", &[("host", "evil.test")]).await,
        403
    );
    assert_eq!(
        status("PUT", "/log-level", &[("host", "10.0.0.1")]).await,
        403
    );
    let page = [local, ("origin", "http://localhost")];
    assert_eq!(status("PUT", "/log-level", &page).await, 403);
    // This process has a logger of its own or none.
    assert_eq!(status("PUT", "/log-level", &[local]).await, 409);
    assert_eq!(status("POST", "/log-level", &[local]).await, 405);
    for path in ["/metrics", "/ready", "/live"] {
        assert_eq!(status("POST", path, &[local]).await, 405, "{path}");
        assert_eq!(status("DELETE", path, &[local]).await, 405, "{path}");
    }
    for path in ["/shutdown", "/quitquitquit"] {
        assert_eq!(status("GET", path, &[local]).await, 404, "{path}");
        assert_eq!(status("POST", path, &[local]).await, 405, "{path}");
        assert_eq!(status("PUT", path, &[local]).await, 405, "{path}");
    }
    let admin = proxy.admin().unwrap();
    let two = b"GET /live HTTP/1.1\r\nhost: localhost\r\nhost: evil.test\r\n\r\n";
    assert!(say(admin, two).await.starts_with(b"HTTP/1.1 403 "));
    let long = format!(
        "PUT /log-level HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n\r\n{}",
        "a".repeat(5_000)
    );
    assert!(
        say(admin, long.as_bytes())
            .await
            .starts_with(b"HTTP/1.1 413 ")
    );
    assert_eq!(status("GET", "/live", &[local]).await, 200);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_do_not_keep_probes_from_the_admin_address() {
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .outbound("http1", "unheard")
        .start();
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(proxy.admin().unwrap()).await.unwrap();
        // Those that were cut off already may be reset.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nho").await;
        slow.push(stream);
    }
    for _ in 0..20 {
        let answer = ask(&proxy, "GET", "/live", &[("host", "127.0.0.1")]).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert!(
        metrics(&proxy)
            .await
            .contains("limit=\"admin_connections\"")
    );
    drop(slow);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_says_so_at_once_and_closes_what_is_kept_alive() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .grace_ms(20_000)
        .inbound("http1", app.address)
        .start();
    let (address, admin) = (at(&proxy, "in"), proxy.admin().unwrap());
    let held = tokio::spawn(async move { whole(http1(address, get("/held")).await).await });
    wait_for("the request", || {
        (!app.seen.lock().unwrap().is_empty()).then_some(())
    })
    .await;
    let ending = tokio::spawn(end(proxy));
    // While a request is open the admin address answers, and says that no more may come.
    let ready = Request::get("/ready").header("host", "localhost");
    let ready = ready.body(Full::new(bytes::Bytes::new())).unwrap();
    let start = std::time::Instant::now();
    let answer = loop {
        let answer = whole(http1(admin, ready.clone()).await).await.unwrap();
        if answer.status != StatusCode::OK || start.elapsed() > crate::mesh::DEADLINE {
            break answer;
        }
    };
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    app.go_on.notify_one();
    let answer = held.await.unwrap().unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["connection"], "close");
    ending.await.unwrap();
}

/// Sends requests until told to stop, over one connection at a time.
async fn load_http1(to: std::net::SocketAddr, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    let mut sender = None;
    while !stop.load(Ordering::Relaxed) {
        let mut open = match sender.take() {
            Some(open) => open,
            None => {
                let io = TokioIo::new(TcpStream::connect(to).await.unwrap());
                let (open, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                open
            }
        };
        let answer = whole(open.send_request(get("/a")).await.unwrap())
            .await
            .unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        done.fetch_add(1, Ordering::Relaxed);
        if open.ready().await.is_ok() {
            sender = Some(open);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_request() {
    let rounds = std::env::var("ROLLING_ROUNDS").ok();
    let rounds: usize = rounds.map_or(3, |rounds| rounds.parse().unwrap());
    let app = App::start().await;
    let server = Server::start().await;
    let start = || {
        Setup::new("callee", &server)
            .grace_ms(20_000)
            .inbound("detect", app.address)
            .start()
    };
    let tell = |instances: &[Running]| {
        let endpoints: Vec<_> = instances
            .iter()
            .enumerate()
            .map(|(i, proxy)| endpoint(at(proxy, "in"), &format!("callee-{i}"), true))
            .collect();
        server.discover("callee", &endpoints);
    };
    let mut instances = vec![start(), start(), start()];
    tell(&instances);
    let caller = Setup::new("caller", &server)
        .outbound("detect", "callee")
        .start();
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..4 {
        load.spawn(load_http1(
            at(&caller, "callee"),
            stop.clone(),
            done.clone(),
        ));
    }
    let progress = async |more: u64| {
        let before = done.load(Ordering::Relaxed);
        wait_for("requests to go on", || {
            (done.load(Ordering::Relaxed) >= before + more).then_some(())
        })
        .await;
    };
    for round in 0..rounds {
        progress(50).await;
        // The old one is known until the new one is there: callers must find out themselves.
        let old = instances.remove(round % 3);
        end(old).await;
        progress(50).await;
        instances.insert(round % 3, start());
        tell(&instances);
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended.expect("no request failed");
    }
    wait_for("the accounts to settle", || {
        (caller.counters().in_flight == 0).then_some(())
    })
    .await;
    crate::sending::conserved(&caller).await;
    end(caller).await;
    for proxy in instances {
        end(proxy).await;
    }
}
