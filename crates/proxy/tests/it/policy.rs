//! Inbound policy over real sockets: who gets through, and that no spelling gets past it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Empty;
use whodunit_model::policy::{Action, Mode, Policy, Rule};
use whodunit_model::record::{Kind, Protocol, Side};
use whodunit_model::redact::Attributes;
use whodunit_model::{Cause, Origin, Outcome, RequestRecord};

use crate::app::{self, App};
use crate::client::{call, fetch, get, http1, http2, say, whole};
use crate::mesh::{Setup, at, end, record_where, wait_for};
use crate::server::Server;

const SERVED: u16 = 200;
const DENIED: u16 = 403;
const REFUSED: u16 = 400;

/// Sends one request in both protocols; what was not served must not have reached `app`.
async fn check(app: &App, to: SocketAddr, (method, path, host): (&str, &str, &str), expected: u16) {
    let before = || app.seen.lock().unwrap().len();
    let what = format!("{method} {path} at {host}");
    let count = before();
    let text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = String::from_utf8_lossy(&say(to, text.as_bytes()).await).into_owned();
    let line = answer.lines().next().unwrap_or_default().to_owned();
    let status: u16 = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    assert_eq!(status, expected, "HTTP/1 {what}: {answer}");
    assert_eq!(
        before() - count,
        usize::from(status == SERVED),
        "HTTP/1 {what}"
    );

    if method == "HEAD" && expected == SERVED {
        // This application answers it with a body, which HTTP/2 does not allow.
        return;
    }
    let uri = format!("http://{host}{path}");
    let request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(&uri)
        .body(Empty::<Bytes>::new())
        .unwrap_or_else(|error| panic!("{uri}: {error}"));
    let count = before();
    let mut sender = http2(to).await;
    let answer = sender.send_request(request).await;
    let answer = whole(answer.unwrap_or_else(|error| panic!("HTTP/2 {what}: {error:?}")));
    let answer = answer.await.unwrap();
    assert_eq!(answer.status.as_u16(), expected, "HTTP/2 {what}");
    assert_eq!(
        before() - count,
        usize::from(expected == SERVED),
        "HTTP/2 {what}"
    );
    if expected != SERVED {
        assert!(answer.headers.contains_key("whodunit-cause"), "{what}");
    }
}

/// Path, and what becomes of it where `/admin/*` is denied, and where only `/open/*` is allowed.
const PATHS: &[(&str, u16, u16)] = &[
    ("/", SERVED, DENIED),
    ("/admin", DENIED, DENIED),
    ("/admin/", DENIED, DENIED),
    ("/admin/users", DENIED, DENIED),
    ("/admin?x=/open", DENIED, DENIED),
    ("/admin/?", DENIED, DENIED),
    ("/administrator", SERVED, DENIED),
    ("/Admin", SERVED, DENIED),
    ("//admin", DENIED, DENIED),
    ("///admin//users", DENIED, DENIED),
    ("/./admin", DENIED, DENIED),
    ("/admin/.", DENIED, DENIED),
    ("/admin/./users", DENIED, DENIED),
    ("/x/../admin", DENIED, DENIED),
    ("/../admin", DENIED, DENIED),
    ("/../../../admin", DENIED, DENIED),
    ("/open/../admin", DENIED, DENIED),
    ("/open/x/../../admin", DENIED, DENIED),
    ("/open//../admin", DENIED, DENIED),
    ("/open/../../admin/users", DENIED, DENIED),
    ("/admin/../open", DENIED, DENIED),
    ("/%61dmin", DENIED, DENIED),
    ("/%61%64%6d%69%6e", DENIED, DENIED),
    ("/%61%64%6D%69%6E/users", DENIED, DENIED),
    ("/adm%69n", DENIED, DENIED),
    ("/%2e/admin", DENIED, DENIED),
    ("/x/%2e%2e/admin", DENIED, DENIED),
    ("/x/%2E./admin", DENIED, DENIED),
    ("/open/%2e%2e/admin", DENIED, DENIED),
    ("/open/.%2e/admin", DENIED, DENIED),
    ("/admin;x=1", DENIED, DENIED),
    ("/admin;/users", DENIED, DENIED),
    ("/admin;a=b;c=d/users", DENIED, DENIED),
    ("/;x/admin", DENIED, DENIED),
    ("/open/..;/admin", DENIED, DENIED),
    ("/open/;/../../admin", DENIED, DENIED),
    ("/admin%3Bx", DENIED, DENIED),
    ("/admin%3Fx=1", DENIED, DENIED),
    ("/admin%23x", DENIED, DENIED),
    ("/admin%2Fusers", REFUSED, REFUSED),
    ("/admin%2fusers", REFUSED, REFUSED),
    ("/open%2F..%2Fadmin", REFUSED, REFUSED),
    ("/open/..%2fadmin", REFUSED, REFUSED),
    ("/open%5C..%5Cadmin", REFUSED, REFUSED),
    ("/open/..%5cadmin", REFUSED, REFUSED),
    ("/open/..\\admin", REFUSED, REFUSED),
    ("\\admin", REFUSED, REFUSED),
    ("/admin%00", REFUSED, REFUSED),
    ("/open%00/../admin", REFUSED, REFUSED),
    ("/admin%0d%0a", REFUSED, REFUSED),
    ("/admin%09", REFUSED, REFUSED),
    ("/%2561dmin", REFUSED, REFUSED),
    ("/open/%252e%252e/admin", REFUSED, REFUSED),
    ("/%25%36%31dmin", REFUSED, REFUSED),
    ("/admin%", REFUSED, REFUSED),
    ("/admin%2", REFUSED, REFUSED),
    ("/%zzadmin", REFUSED, REFUSED),
    ("/%u0061dmin", REFUSED, REFUSED),
    ("/open/%c0%ae%c0%ae/admin", REFUSED, REFUSED),
    ("/open/%ff", REFUSED, REFUSED),
    ("/open", SERVED, SERVED),
    ("/open/", SERVED, SERVED),
    ("/open/a?x=/admin", SERVED, SERVED),
    ("/open/%61;v=1", SERVED, SERVED),
    ("/open/100%25", SERVED, SERVED),
    ("/open/%E2%82%AC", SERVED, SERVED),
    ("/openly", SERVED, DENIED),
    ("/open..", SERVED, DENIED),
];

/// Host, and what becomes of it where `shop.test` is denied, and where only it is allowed.
const HOSTS: &[(&str, u16, u16)] = &[
    ("shop.test", DENIED, SERVED),
    ("SHOP.test", DENIED, SERVED),
    ("shop.TEST:80", DENIED, SERVED),
    ("shop.test:8080", DENIED, SERVED),
    ("shop.test.", DENIED, SERVED),
    ("Shop.Test.:80", DENIED, SERVED),
    ("a.shop.test", SERVED, DENIED),
    ("shop.test.example", SERVED, DENIED),
    ("xshop.test", SERVED, DENIED),
    ("127.0.0.1", SERVED, DENIED),
    ("[::1]:80", SERVED, DENIED),
];

/// Method, and what becomes of it where `DELETE` is denied, and where only `DELETE` is allowed.
const METHODS: &[(&str, u16, u16)] = &[
    ("DELETE", DENIED, SERVED),
    ("GET", SERVED, DENIED),
    ("POST", SERVED, DENIED),
    ("HEAD", SERVED, DENIED),
    ("OPTIONS", SERVED, DENIED),
    ("DELETED", SERVED, DENIED),
    ("delete", DENIED, DENIED),
    ("Delete", DENIED, DENIED),
];

/// Sets up listeners `denies` and `allows` with one rule each.
fn guarded(server: &Server, app: &App, denies: &str, allows: &str) -> Setup {
    let forward = format!("forward = \"{}\"", app.address);
    let closed = format!("{forward}\npolicy = \"deny\"");
    Setup::new("web", server)
        .listener("denies", "inbound", "http1", &forward)
        .listener("denies2", "inbound", "http2", &forward)
        .listener("allows", "inbound", "detect", &closed)
        .listener("both", "inbound", "detect", &forward)
        .table(&format!(
            "[[policy.rule]]\nname = \"denied\"\naction = \"deny\"\n\
             listeners = [\"both\", \"denies\", \"denies2\"]\n{denies}\n\
             [[policy.rule]]\nname = \"allowed\"\naction = \"allow\"\n\
             listeners = [\"allows\"]\n{allows}"
        ))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_gets_past_a_rule() {
    let (app, server) = (App::start().await, Server::start().await);
    let proxy = guarded(
        &server,
        &app,
        "paths = [\"/admin/*\"]",
        "paths = [\"/open/*\"]",
    )
    .start();
    for (path, denied, allowed) in PATHS {
        // What does not begin with a slash is refused by the parser of HTTP/1, and cannot be
        // asked for by this client of HTTP/2.
        if !path.starts_with('/') {
            let text = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
            let answer = say(at(&proxy, "denies"), text.as_bytes()).await;
            assert!(answer.starts_with(b"HTTP/1.1 400 "), "{path}");
            continue;
        }
        check(&app, at(&proxy, "both"), ("GET", path, "a.test"), *denied).await;
        check(
            &app,
            at(&proxy, "allows"),
            ("GET", path, "a.test"),
            *allowed,
        )
        .await;
    }
    // The absolute form is the same request.
    for (target, expected) in [
        ("http://a.test/admin", DENIED),
        ("http://a.test/x/../admin", DENIED),
        ("http://a.test//admin", DENIED),
        ("http://a.test/admin%2f", REFUSED),
        ("http://a.test", SERVED),
        ("http://a.test/open", SERVED),
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
        let answer = say(at(&proxy, "denies"), text.as_bytes()).await;
        let start = format!("HTTP/1.1 {expected} ");
        assert!(answer.starts_with(start.as_bytes()), "{target}");
    }
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_host_or_method_gets_past_a_rule() {
    let (app, server) = (App::start().await, Server::start().await);
    let hosts = guarded(
        &server,
        &app,
        "hosts = [\"shop.test\"]",
        "hosts = [\"shop.test\"]",
    );
    let hosts = hosts.start();
    for (host, denied, allowed) in HOSTS {
        check(&app, at(&hosts, "both"), ("GET", "/", host), *denied).await;
        check(&app, at(&hosts, "allows"), ("GET", "/", host), *allowed).await;
    }
    // A target in absolute form has the host that counts, and one that differs is refused.
    let text = "GET http://shop.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n";
    let answer = say(at(&hosts, "denies"), text.as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "));
    // Both names of a request over HTTP/2 count.
    for (authority, host) in [("shop.test", "other.test"), ("other.test", "shop.test")] {
        let request = Request::get(format!("http://{authority}/"))
            .header("host", host)
            .body(Empty::<Bytes>::new())
            .unwrap();
        for listener in ["denies2", "allows"] {
            let mut sender = http2(at(&hosts, listener)).await;
            let answer = whole(sender.send_request(request.clone()).await.unwrap()).await;
            let status = answer.unwrap().status;
            assert!(
                status == 403 || status == 400,
                "{listener} {authority} {host}"
            );
        }
    }
    end(hosts).await;
    let methods = guarded(
        &server,
        &app,
        "methods = [\"DELETE\"]",
        "methods = [\"DELETE\"]",
    );
    let methods = methods.start();
    for (method, denied, allowed) in METHODS {
        // Only upper case is taken for HTTP/1 where the first bytes decide.
        let plain = method.bytes().all(|b| b.is_ascii_uppercase());
        if plain {
            check(&app, at(&methods, "both"), (method, "/", "a.test"), *denied).await;
            check(
                &app,
                at(&methods, "allows"),
                (method, "/", "a.test"),
                *allowed,
            )
            .await;
            continue;
        }
        let count = app.seen.lock().unwrap().len();
        for listener in ["denies", "both", "allows"] {
            let text = format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let answer = say(at(&methods, listener), text.as_bytes()).await;
            let refused =
                answer.starts_with(b"HTTP/1.1 403 ") || answer.starts_with(b"HTTP/1.1 400 ");
            assert!(
                refused,
                "{listener} {method}: {}",
                String::from_utf8_lossy(&answer)
            );
        }
        assert_eq!(app.seen.lock().unwrap().len(), count, "{method}");
    }
    end(methods).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_and_audits_are_recorded_and_counted() {
    let (app, server) = (App::start().await, Server::start().await);
    let proxy = Setup::new("web", &server)
        .inbound("detect", app.address)
        .table(
            "[policy]\ndefault = \"audit\"\nprobes = [\"/ready\"]\n\
             [[policy.rule]]\nname = \"no-admin\"\naction = \"deny\"\n\
             paths = [\"/admin/*\", \"/test.Service/Code0\"]\n\
             [[policy.rule]]\nname = \"home\"\naction = \"allow\"\npaths = [\"/\"]\n\
             networks = [\"127.0.0.0/8\"]\n\
             [[policy.rule]]\nname = \"on-trial\"\naction = \"audit\"\npaths = [\"/old\"]",
        )
        .start();
    let to = at(&proxy, "in");
    for (path, status, text) in [
        ("/", 200, "allow:home"),
        ("/ready", 200, "allow:probe"),
        ("/old", 200, "audit:on-trial"),
        ("/new", 200, "audit:default"),
        ("/admin", 403, "deny:no-admin"),
        ("/admin%2f", 400, "deny:ambiguous"),
    ] {
        let answer = fetch(to, path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        let row = record_where(&server, |row| {
            policy_of(row) == text && row.status == status
        })
        .await;
        assert_eq!((row.side, row.kind), (Side::Inbound, Kind::Request));
        let (outcome, cause, origin) = match status {
            403 => (Outcome::Failure, Cause::PolicyDenied, Origin::ServerProxy),
            400 => (Outcome::Failure, Cause::BadRequestHead, Origin::Client),
            _ => (Outcome::Success, Cause::None, Origin::None),
        };
        assert_eq!(
            (row.outcome, row.cause, row.origin),
            (outcome, cause, origin)
        );
        if status == 403 {
            assert_eq!(answer.headers["whodunit-cause"], "policy_denied");
        }
    }
    let mut sender = http2(to).await;
    let request = call("Code0", vec![]);
    let answer = whole(sender.send_request(request).await.unwrap())
        .await
        .unwrap();
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["grpc-status"]),
        (200, &"7".parse().unwrap())
    );
    assert!(
        answer.body.is_empty() && answer.trailers.is_empty(),
        "trailers only"
    );
    let row = record_where(&server, |row| row.grpc_status == Some(7)).await;
    assert_eq!(
        (policy_of(&row).as_str(), row.cause),
        ("deny:no-admin", Cause::PolicyDenied)
    );

    let admin = proxy.admin().expect("admin");
    let metrics = whole(http1(admin, get_local("/metrics")).await)
        .await
        .unwrap();
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    for (family, name, count) in [
        ("inbound_http_authz_allow_total", "home", 1),
        ("inbound_http_authz_allow_total", "probe", 1),
        ("inbound_http_authz_deny_total", "no-admin", 2),
        ("inbound_http_authz_deny_total", "ambiguous", 1),
        ("whodunit_policy_audit_total", "on-trial", 1),
        ("whodunit_policy_audit_total", "default", 1),
    ] {
        let found = metrics.lines().any(|line| {
            line.starts_with(&format!("{family}{{"))
                && line.contains(&format!("authz_name=\"{name}\""))
                && line.contains("direction=\"inbound\"")
                && line.contains("srv_name=\"in\"")
                && line.ends_with(&format!(" {count}"))
        });
        assert!(found, "{family} {name} {count}: {metrics}");
    }
    end(proxy).await;
}

/// Returns what the record says about policy.
fn policy_of(row: &RequestRecord) -> String {
    let value = Attributes::value(&row.trail, "policy");
    value.map(|text| text.into_owned()).unwrap_or_default()
}

fn get_local(path: &str) -> Request<Empty<Bytes>> {
    let mut request = get(path);
    let host = "localhost".parse().unwrap();
    request.headers_mut().insert("host", host);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_with_rules_about_requests_never_carries_bytes() {
    let (app, server) = (App::start().await, Server::start().await);
    let proxy = guarded(
        &server,
        &app,
        "paths = [\"/admin/*\"]",
        "paths = [\"/open/*\"]",
    )
    .start();
    for junk in [
        "GET\t/admin\tHTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /admin\r\n\r\n",
        "get /admin HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00",
        "*1\r\n$4\r\nPING\r\n",
        "GET  /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        // A port declared HTTP/1 takes `get` for a method of its own, which is denied.
        let lower = junk.starts_with("get");
        let listeners = ["both", "allows", "denies"];
        for listener in listeners.into_iter().take(if lower { 2 } else { 3 }) {
            let answer = say(at(&proxy, listener), junk.as_bytes()).await;
            let text = String::from_utf8_lossy(&answer);
            assert!(
                text.starts_with("HTTP/1.1 400 "),
                "{listener} {junk:?}: {text}"
            );
        }
    }
    assert!(app.seen.lock().unwrap().is_empty());
    let refused = record_where(&server, |row| row.cause == Cause::BadRequestHead).await;
    assert_eq!((refused.side, refused.status), (Side::Inbound, 400));
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_connections_are_policed_when_they_connect() {
    let server = Server::start().await;
    let echo = app::tcp(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let forward = format!("forward = \"{echo}\"");
    let proxy = Setup::new("web", &server)
        .listener("open", "inbound", "opaque", &forward)
        .listener("near", "inbound", "opaque", &forward)
        .listener("closed", "inbound", "opaque", &forward)
        .listener("guessed", "inbound", "detect", &forward)
        .listener("guessed-near", "inbound", "detect", &forward)
        .listener(
            "tried",
            "inbound",
            "opaque",
            &format!("{forward}\npolicy = \"audit\""),
        )
        .table(
            "[policy]\ndefault = \"deny\"\n\
             [[policy.rule]]\nname = \"near\"\naction = \"allow\"\n\
             listeners = [\"near\", \"open\", \"guessed-near\"]\n\
             networks = [\"127.0.0.0/8\", \"::1\"]\n\
             [[policy.rule]]\nname = \"far\"\naction = \"deny\"\nlisteners = [\"near\"]\n\
             networks = [\"10.0.0.0/8\"]",
        )
        .start();
    for (listener, served, text) in [
        ("open", true, "allow:near"),
        ("near", true, "allow:near"),
        ("guessed-near", true, "allow:near"),
        ("closed", false, "deny:default"),
        ("guessed", false, "deny:default"),
        ("tried", true, "audit:default"),
    ] {
        let records = server.records().len();
        let echoed = half_closed(at(&proxy, listener), b"bytes\r\n").await;
        assert_eq!(
            &echoed[..],
            if served { &b"bytes\r\n"[..] } else { b"" },
            "{listener}"
        );
        let row = wait_for("a record", || server.records().get(records).cloned()).await;
        assert_eq!(policy_of(&row), text, "{listener}");
        assert_eq!((row.kind, row.protocol), (Kind::Connection, Protocol::Tcp));
        let cause = if served {
            Cause::None
        } else {
            Cause::PolicyDenied
        };
        assert_eq!(row.cause, cause, "{listener}");
    }
    end(proxy).await;
}

/// Sends bytes, ends the sending side, and returns what comes back.
async fn half_closed(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut back = Vec::new();
    let _ = tokio::time::timeout(crate::mesh::DEADLINE, stream.read_to_end(&mut back))
        .await
        .expect("closes");
    back
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_identity_nobody_is_authenticated() {
    let (app, server) = (App::start().await, Server::start().await);
    let proxy = Setup::new("web", &server)
        .inbound("detect", app.address)
        .table("[policy]\ndefault = \"authenticated\"\nprobes = [\"/ready\"]")
        .start();
    assert_eq!(fetch(at(&proxy, "in"), "/").await.status, 403);
    assert_eq!(fetch(at(&proxy, "in"), "/ready").await.status, 200);
    // Who writes headers of ours is nobody.
    let mut request = get("/");
    for (name, value) in [
        ("whodunit-from", "test/web/web-0/v1"),
        ("whodunit-id", "1-1-1"),
        ("l5d-client-id", "web.test.serviceaccount.identity.x"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = whole(http1(at(&proxy, "in"), request).await).await.unwrap();
    assert_eq!(answer.status, 403);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_policy_holds_and_the_last_one_while_it_is_gone() {
    let (app, mut server) = (App::start().await, Server::start().await);
    let proxy = Setup::new("web", &server)
        .inbound("detect", app.address)
        .table("[policy]\ndefault = \"deny\"\nwatch = true")
        .start();
    let to = at(&proxy, "in");
    assert_eq!(
        fetch(to, "/early").await.status,
        403,
        "before anything is known"
    );
    let mut rule = Rule::new("public", Action::Allow);
    rule.paths = vec!["/public/*".parse().unwrap()];
    let policy = Policy {
        rules: vec![rule.clone()],
        ..Policy::plain(Mode::Deny)
    };
    server.police(policy.clone());
    becomes(to, "/public/a", 200).await;
    assert_eq!(fetch(to, "/other").await.status, 403);
    // A connection that is open is decided about by the newest policy, too.
    let mut sender = http2(to).await;
    let mut ask = async |path: &str| {
        let request = Request::get(format!("http://a.test{path}"));
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        whole(sender.send_request(request).await.unwrap())
            .await
            .unwrap()
            .status
    };
    assert_eq!(ask("/public/b").await, 200);
    rule.action = Action::Deny;
    server.police(Policy {
        rules: vec![rule],
        ..Policy::plain(Mode::Allow)
    });
    becomes(to, "/public/a", 403).await;
    assert_eq!(ask("/public/b").await, 403);
    assert_eq!(ask("/other").await, 200);
    server.halt();
    assert_eq!(fetch(to, "/public/a").await.status, 403);
    assert_eq!(fetch(to, "/other").await.status, 200);
    server.police(policy);
    server.resume();
    becomes(to, "/other", 403).await;
    assert_eq!(fetch(to, "/public/a").await.status, 200);
    end(proxy).await;
}

/// Waits until a path is answered with a status.
async fn becomes(to: SocketAddr, path: &str, status: u16) {
    let start = std::time::Instant::now();
    while fetch(to, path).await.status.as_u16() != status {
        assert!(
            start.elapsed() < crate::mesh::DEADLINE,
            "{path} never {status}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
