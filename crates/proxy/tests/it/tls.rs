//! mTLS between proxies: who is taken, who is refused, and what is recorded of either.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use whodunit_identity::rustls::pki_types::ServerName;
use whodunit_identity::token::Subject;
use whodunit_identity::{Authority, Credentials, Lifetimes, Tls, TrustAnchors};
use whodunit_model::record::{Kind, Side, TlsState};
use whodunit_model::{Cause, Outcome, RequestRecord};
use whodunit_proxy::Running;
use whodunit_wire::v1::ReportRequest;

use crate::app::App;
use crate::client::{fetch, get, http1, http2, whole};
use crate::mesh::{DEADLINE, Setup, at, end, endpoint, record, record_where, wait_for};
use crate::mint::{self, Ca, Minted};
use crate::server::Server;

const CALLEE: &str = "spiffe://test/ns/test/sa/callee";
const CALLER: &str = "spiffe://test/ns/test/sa/caller";

/// The files of one proxy's identity.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(anchors: &str, minted: &Minted) -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        files.replace(anchors, minted);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces all files, each as a whole, as careful people do.
    fn replace(&self, anchors: &str, minted: &Minted) {
        let put = |name: &str, text: &str| {
            let aside = self.path("aside");
            std::fs::write(&aside, text).unwrap();
            std::fs::rename(&aside, self.path(name)).unwrap();
        };
        put("anchors.pem", anchors);
        put("leaf.key", &minted.key_pem);
        put("leaf.pem", &minted.pem());
    }

    fn table(&self) -> String {
        let shown = |name: &str| self.path(name).display().to_string();
        format!(
            "[identity]\ntrust_anchors = \"{}\"\ncertificate = \"{}\"\nprivate_key = \"{}\"",
            shown("anchors.pem"),
            shown("leaf.pem"),
            shown("leaf.key")
        )
    }
}

/// Mints the leaf of a workload of namespace `test`, with both names.
fn workload(by: &Ca, name: &str) -> Minted {
    let id = format!("spiffe://test/ns/test/sa/{name}");
    let alias = format!("{name}.test.serviceaccount.identity.whodunit.test");
    let names = [mint::uri(&id), mint::dns(&alias)];
    mint::leaf(by, &mint::leaf_params(&names), &[])
}

/// A caller and a callee with certificates of one anchor.
struct Secure {
    anchor: Ca,
    server: Server,
    callee: Running,
    caller: Running,
    callee_files: Files,
    caller_files: Files,
}

impl Secure {
    async fn start(protocol: &str, app: SocketAddr) -> Self {
        Self::expecting(protocol, app, CALLEE).await
    }

    /// Starts both; the caller is told to expect `identity` at the callee.
    async fn expecting(protocol: &str, app: SocketAddr, identity: &str) -> Self {
        Self::policed(protocol, app, identity, "").await
    }

    /// As [`Secure::expecting`], with tables about policy for the callee.
    async fn policed(protocol: &str, app: SocketAddr, identity: &str, policy: &str) -> Self {
        let anchor = mint::anchor("anchor");
        let server = Server::start().await;
        let callee_files = Files::new(&anchor.pem, &workload(&anchor, "callee"));
        let caller_files = Files::new(&anchor.pem, &workload(&anchor, "caller"));
        let callee = Setup::new("callee", &server)
            .inbound(protocol, app)
            .table(&callee_files.table())
            .table(policy)
            .start();
        let mut told = endpoint(at(&callee, "in"), "callee-0", true);
        told.identity = identity.to_owned();
        server.discover("callee", &[told]);
        let caller = Setup::new("caller", &server)
            .outbound(protocol, "callee")
            .table(&caller_files.table())
            .start();
        Self {
            anchor,
            server,
            callee,
            caller,
            callee_files,
            caller_files,
        }
    }

    fn address(&self) -> SocketAddr {
        at(&self.caller, "callee")
    }

    async fn end(self) {
        for proxy in [self.caller, self.callee] {
            crate::sending::conserved(&proxy).await;
            end(proxy).await;
        }
    }
}

async fn metrics(proxy: &Running) -> String {
    let mut request = get("/metrics");
    request
        .headers_mut()
        .insert("host", "localhost".parse().unwrap());
    let answer = http1(proxy.admin().unwrap(), request).await;
    let answer = whole(answer).await.unwrap();
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// Returns the value of the first series whose line has all of `parts`.
fn value(metrics: &str, parts: &[&str]) -> f64 {
    let line = metrics
        .lines()
        .find(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)));
    let line = line.unwrap_or_else(|| panic!("{parts:?} in\n{metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Returns both sides of TLS with a certificate that may be a bad one.
fn tls(anchor: &Ca, minted: &Minted) -> Option<Tls> {
    let own = Credentials::from_der(minted.chain.clone(), minted.key.clone()).ok()?;
    let anchors = TrustAnchors::from_pem(anchor.pem.as_bytes()).unwrap();
    Some(Tls::new(&own, Arc::new(anchors)).unwrap())
}

/// Connects with TLS and sends a request; returns what comes back, however it ends.
async fn ask_over_tls(to: SocketAddr, tls: &Tls, server_name: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    let exchange = async {
        let name = ServerName::try_from(server_name.to_owned()).unwrap();
        let stream = TcpStream::connect(to).await?;
        let connector = TlsConnector::from(tls.client.clone());
        let mut stream = connector.connect(name, stream).await?;
        let request = b"GET /over-tls HTTP/1.1\r\nhost: callee\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await?;
        stream.read_to_end(&mut answer).await
    };
    // A refusal is an error here, or an end without an answer.
    let _ = timeout(DEADLINE, exchange).await.expect("it ends in time");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_record_and_count_whom_the_certificate_names() {
    let pair = Secure::start("detect", App::start().await.address).await;
    let answer = fetch(pair.address(), "/a").await;
    assert_eq!(answer.status, 200);
    let outbound = record(&pair.server, Side::Outbound, "/a").await;
    assert_eq!(outbound.tls, TlsState::Mutual);
    assert_eq!(&*outbound.peer_identity, CALLEE);
    let inbound = record(&pair.server, Side::Inbound, "/a").await;
    assert_eq!(inbound.tls, TlsState::Mutual);
    assert_eq!(&*inbound.peer_identity, CALLER);
    assert_eq!(inbound.id, outbound.id);
    assert_eq!(
        (&*inbound.src.workload, &*inbound.src.instance),
        ("caller", "caller-0")
    );

    // gRPC and HTTP/2 go the same way.
    let mut sender = http2(pair.address()).await;
    let response = sender.send_request(get("/over-h2")).await.unwrap();
    assert_eq!(whole(response).await.unwrap().status, 200);
    let inbound = record(&pair.server, Side::Inbound, "/over-h2").await;
    assert_eq!(&*inbound.peer_identity, CALLER);

    let text = metrics(&pair.callee).await;
    let client = format!("client_id=\"{CALLER}\"");
    let labels = [
        "request_total{direction=\"inbound\"",
        "tls=\"true\"",
        &client,
    ];
    assert_eq!(value(&text, &labels), 2.0);
    assert!(value(&text, &["control_identity_cert_expiration"]) > 1.0e9);
    let text = metrics(&pair.caller).await;
    let server = format!("server_id=\"{CALLEE}\"");
    let labels = [
        "request_total{direction=\"outbound\"",
        "tls=\"true\"",
        &server,
    ];
    assert_eq!(value(&text, &labels), 2.0);
    assert_eq!(value(&text, &["whodunit_tls_failed_total"]), 0.0);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_and_streams_go_both_ways() {
    let app = App::start().await;
    let pair = Secure::start("detect", app.address).await;
    let body = bytes::Bytes::from(vec![b'x'; 3 << 20]);
    let request = http::Request::builder()
        .method("POST")
        .uri("/echo")
        .header("host", "callee.test")
        .body(http_body_util::Full::new(body.clone()))
        .unwrap();
    let answer = whole(http1(pair.address(), request).await).await.unwrap();
    assert!(answer.body == body, "{} bytes came back", answer.body.len());
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_is_taken_but_proves_nothing() {
    let pair = Secure::start("detect", App::start().await.address).await;
    let mut request = get("/plain");
    for (name, value) in [
        ("whodunit-id", "0001020304050-0011223344556677-1"),
        ("whodunit-from", "test/caller/caller-0/v1"),
        ("l5d-client-id", CALLER),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = whole(http1(at(&pair.callee, "in"), request).await).await;
    assert_eq!(answer.unwrap().status, 200);
    let inbound = record(&pair.server, Side::Inbound, "/plain").await;
    assert_eq!(
        (inbound.tls, &*inbound.peer_identity),
        (TlsState::Disabled, "")
    );
    assert_eq!(&*inbound.src.workload, "", "a header names nobody");
    assert_eq!(inbound.id.boot, pair.callee.boot());
    let text = metrics(&pair.callee).await;
    let labels = [
        "request_total{direction=\"inbound\"",
        "tls=\"no_identity\"",
        "no_tls_reason=\"no_tls_from_remote\"",
    ];
    assert_eq!(value(&text, &labels), 1.0);
    assert!(!text.contains("client_id"));
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_client_certificate_is_refused_recorded_and_counted() {
    let pair = Secure::start("detect", App::start().await.address).await;
    let to = at(&pair.callee, "in");
    let name = "callee.test.serviceaccount.identity.whodunit.test";
    let mut shown = 0;
    for case in mint::bad(&pair.anchor) {
        let Some(tls) = tls(&pair.anchor, &case.minted) else {
            continue;
        };
        let answer = ask_over_tls(to, &tls, name).await;
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(text, "", "{}", case.name);
        shown += 1;
    }
    assert!(shown >= 35, "{shown}");
    let good = tls(&pair.anchor, &workload(&pair.anchor, "someone")).unwrap();
    let answer = ask_over_tls(to, &good, name).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    let is_refusal = |row: &RequestRecord| {
        row.kind == Kind::Connection
            && matches!(row.cause, Cause::TlsFailed | Cause::IdentityMismatch)
    };
    let counted = || {
        let rows = pair.server.records();
        Some(rows.into_iter().filter(is_refusal).count()).filter(|count| *count >= shown)
    };
    assert_eq!(wait_for("all refusals", counted).await, shown);
    let text = metrics(&pair.callee).await;
    assert_eq!(value(&text, &["whodunit_tls_refused_total"]), shown as f64);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_another_gets_no_request() {
    let app = App::start().await;
    let expected = "spiffe://test/ns/test/sa/bank";
    let pair = Secure::expecting("detect", app.address, expected).await;
    let answer = fetch(pair.address(), "/secret").await;
    assert!(answer.status.is_server_error(), "{}", answer.status);
    assert_eq!(answer.headers["whodunit-cause"], "identity_mismatch");
    let outbound = record(&pair.server, Side::Outbound, "/secret").await;
    assert_eq!(outbound.cause, Cause::IdentityMismatch);
    assert_eq!(outbound.outcome, Outcome::Failure);
    assert!(app.seen.lock().unwrap().is_empty());
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_good_certificate_gets_no_request() {
    let anchor = mint::anchor("anchor");
    let server = Server::start().await;
    let files = Files::new(&anchor.pem, &workload(&anchor, "caller"));
    for case in mint::bad(&anchor) {
        let wanted = [
            "expired",
            "signed by itself",
            "two URIs",
            "for code signing",
        ];
        if !wanted.contains(&case.name) {
            continue;
        }
        let bad = tls(&anchor, &case.minted).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicBool::new(false));
        let heard = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(bad.server.clone());
                if let Ok(mut stream) = acceptor.accept(stream).await
                    && stream.read_u8().await.is_ok()
                {
                    heard.store(true, Ordering::Relaxed);
                }
            }
        });
        let target = format!(
            "forward = \"{address}\"\nserver_identity = \"{}\"",
            mint::WEB
        );
        let caller = Setup::new("caller", &server)
            .listener("out", "outbound", "detect", &target)
            .table(&files.table())
            .start();
        let path = format!("/{}", case.name.replace(' ', "-"));
        let answer = fetch(at(&caller, "out"), &path).await;
        assert_eq!(
            answer.headers["whodunit-cause"], "tls_failed",
            "{}",
            case.name
        );
        let row = record(&server, Side::Outbound, &path).await;
        assert_eq!((row.cause, row.tls), (Cause::TlsFailed, TlsState::Disabled));
        assert!(!asked.load(Ordering::Relaxed), "{}", case.name);
        end(caller).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_client_hello_is_closed_within_ten_seconds() {
    let pair = Secure::start("detect", App::start().await.address).await;
    let mut stalled = Vec::new();
    for begin in [&[0x16][..], &[0x16, 3, 1, 2, 0, 1, 0, 1]] {
        let mut stream = TcpStream::connect(at(&pair.callee, "in")).await.unwrap();
        stream.write_all(begin).await.unwrap();
        stalled.push(stream);
    }
    let begin = Instant::now();
    for mut stream in stalled {
        let closed = timeout(2 * DEADLINE, stream.read(&mut [0])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    }
    assert!(begin.elapsed() >= Duration::from_secs(5));
    let refused = |row: &RequestRecord| row.cause == Cause::TlsFailed;
    let row = record_where(&pair.server, refused).await;
    assert!(row.duration_us <= 20_000_000, "{}", row.duration_us);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_asks_for_another_is_the_applications_own() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = Secure::start("detect", listener.local_addr().unwrap()).await;
    let own = mint::workload(&pair.anchor, "web");
    let own = tls(&pair.anchor, &own).unwrap();
    let serving = own.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = TlsAcceptor::from(serving.server.clone());
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut request = [0; 18];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(b"from the application").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let answer = ask_over_tls(at(&pair.callee, "in"), &own, "db.example").await;
    assert_eq!(String::from_utf8_lossy(&answer), "from the application");
    let passed = |row: &RequestRecord| row.kind == Kind::Connection;
    let row = record_where(&pair.server, passed).await;
    assert_eq!((row.tls, &*row.peer_identity), (TlsState::Opaque, ""));
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_bytes_are_carried_inside_of_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = Secure::start("opaque", listener.local_addr().unwrap()).await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // The server speaks first, and ends only after the client has.
        stream.write_all(b"hello ").await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        stream.write_all(&heard).await.unwrap();
    });
    let mut client = TcpStream::connect(pair.address()).await.unwrap();
    let mut heard = [0; 6];
    timeout(DEADLINE, client.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    client.write_all(b"world").await.unwrap();
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(DEADLINE, client.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&heard[..], &rest[..]), (&b"hello "[..], &b"world"[..]));
    for (side, peer) in [(Side::Inbound, CALLER), (Side::Outbound, CALLEE)] {
        let row = record_where(&pair.server, |row| row.side == side).await;
        assert_eq!((row.tls, &*row.peer_identity), (TlsState::Mutual, peer));
        assert_eq!(row.outcome, Outcome::Success, "{row:?}");
    }
    pair.end().await;
}

/// Asks without end on new and on kept connections; counts what fails.
async fn load(to: SocketAddr, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> u64 {
    let mut failed = 0;
    while !stop.load(Ordering::Relaxed) {
        let answer = fetch(to, "/load").await;
        failed += u64::from(answer.status != 200);
        done.fetch_add(1, Ordering::Relaxed);
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn rotating_leaf_issuer_and_anchor_under_load_fails_nothing() {
    let pair = Secure::start("detect", App::start().await.address).await;
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let loads: Vec<_> = (0..4)
        .map(|_| tokio::spawn(load(pair.address(), stop.clone(), done.clone())))
        .collect();
    let files = [
        (&pair.callee_files, "callee"),
        (&pair.caller_files, "caller"),
    ];
    let proxies = [&pair.callee, &pair.caller];
    let mut renewals = 1.0;
    // The state after each step is in use on both sides before the next begins.
    let put = async |anchors: &str, by: &Ca, issuers: &[&Ca], renewals: f64| {
        for (files, name) in files {
            let id = format!("spiffe://test/ns/test/sa/{name}");
            let leaf = mint::leaf(by, &mint::leaf_params(&[mint::uri(&id)]), issuers);
            files.replace(anchors, &leaf);
        }
        let begin = Instant::now();
        for proxy in proxies {
            while value(&metrics(proxy).await, &["cert_refreshes_total"]) < renewals {
                assert!(begin.elapsed() < 2 * DEADLINE, "not renewed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let before = done.load(Ordering::Relaxed);
        let more = || (done.load(Ordering::Relaxed) > before + 20).then_some(());
        wait_for("more requests", more).await;
    };
    let first = &pair.anchor;
    for _ in 0..2 {
        renewals += 1.0;
        put(&first.pem, first, &[], renewals).await;
    }
    // Another issuer of the same anchor.
    let issuer = mint::intermediate(first, mint::ca_params("issuer"));
    renewals += 1.0;
    put(&first.pem, &issuer, &[&issuer], renewals).await;
    // Another anchor: both trusted, then leaves of the new one, then the new one alone.
    let second = mint::anchor("second anchor");
    let both = format!("{}{}", first.pem, second.pem);
    for (anchors, by) in [(&both, &issuer), (&both, &second), (&second.pem, &second)] {
        let issuers: &[&Ca] = if std::ptr::eq(by, &issuer) {
            &[by]
        } else {
            &[]
        };
        renewals += 1.0;
        put(anchors, by, issuers, renewals).await;
    }
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        assert_eq!(load.await.unwrap(), 0, "requests failed");
    }
    let text = metrics(&pair.caller).await;
    assert_eq!(value(&text, &["whodunit_tls_failed_total"]), 0.0);
    // Connections go on with the certificate they began with: one per load, and at most one
    // more per rotation.
    let connected = value(&text, &["whodunit_tls_connected_total"]);
    assert!(connected <= 4.0 + renewals, "{connected} connections");
    pair.end().await;
}

/// Returns `[identity]` of a proxy that asks a server, with its token in `dir`.
pub(crate) fn asking(dir: &Path, authority: &Authority, server: &Server, name: &str) -> String {
    let token = authority.token_key().issue(&Subject {
        namespace: "test".to_owned(),
        account: name.to_owned(),
        instance: format!("{name}-0"),
    });
    let file = dir.join(format!("{name}.token"));
    std::fs::write(&file, token).unwrap();
    format!(
        "[identity]\ntrust_anchors = \"{}\"\nserver = \"{}\"\ntoken_file = \"{}\"\n\
         state_file = \"{}\"",
        authority.anchors_file().display(),
        server.address,
        file.display(),
        dir.join(format!("{name}.pem")).display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_certifies_again_and_again_and_its_end_stops_nothing() {
    let app = App::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start().await;
    let lifetimes = Lifetimes::default();
    let folder = dir.path().join("identity");
    let now_s = crate::server::now_us() / 1_000_000;
    let authority = Authority::open(&folder, "test", lifetimes, now_s).unwrap();
    let callee_table = asking(dir.path(), &authority, &server, "callee");
    let caller_table = asking(dir.path(), &authority, &server, "caller");
    let callee_setup = |server: &Server| {
        Setup::new("callee", server)
            .inbound("detect", app.address)
            .table(&callee_table)
    };
    // A request fails closed while there is no certificate.
    let callee = callee_setup(&server).start();
    let mut told = endpoint(at(&callee, "in"), "callee-0", true);
    told.identity = CALLEE.to_owned();
    server.discover("callee", &[told]);
    let caller = Setup::new("caller", &server)
        .outbound("detect", "callee")
        .table(&caller_table)
        .start();
    let answer = fetch(at(&caller, "callee"), "/early").await;
    assert_eq!(answer.headers["whodunit-cause"], "tls_failed");
    assert!(app.seen.lock().unwrap().is_empty());

    server.certify(Authority::open(&folder, "test", lifetimes, now_s).unwrap());
    let begin = Instant::now();
    while fetch(at(&caller, "callee"), "/first").await.status != 200 {
        assert!(begin.elapsed() < DEADLINE, "no certificate");
    }
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let load = tokio::spawn(load(at(&caller, "callee"), stop.clone(), done.clone()));
    // A new anchor joins the bundle and a new issuer signs from now on: renewed at once.
    whodunit_identity::authority::add_anchor(&folder, "test", lifetimes, now_s + 1).unwrap();
    whodunit_identity::authority::renew_issuer(&folder, lifetimes, now_s).unwrap();
    let begin = Instant::now();
    for proxy in [&caller, &callee] {
        while value(&metrics(proxy).await, &["cert_refreshes_total"]) < 3.0 {
            assert!(begin.elapsed() < 2 * DEADLINE, "not renewed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(load.await.unwrap(), 0, "requests failed");

    // Without the server a proxy that starts anew takes the certificate it kept.
    end(caller).await;
    end(callee).await;
    let kept = std::fs::read_to_string(dir.path().join("callee.pem")).unwrap();
    assert!(kept.contains("PRIVATE KEY"));
    server.halt();
    let alone = callee_setup(&server).start();
    let begin = Instant::now();
    while value(&metrics(&alone).await, &["cert_refreshes_total"]) < 1.0 {
        assert!(
            begin.elapsed() < DEADLINE,
            "the kept certificate is not used"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    end(alone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_before_their_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let lifetimes = Lifetimes {
        leaf: Duration::from_secs(3),
        ..Lifetimes::default()
    };
    let now_s = crate::server::now_us() / 1_000_000;
    let folder = dir.path().join("identity");
    let authority = Authority::open(&folder, "test", lifetimes, now_s).unwrap();
    let table = asking(dir.path(), &authority, &server, "callee");
    server.certify(authority);
    let app = App::start().await;
    let callee = Setup::new("callee", &server)
        .inbound("detect", app.address)
        .table(&table)
        .start();
    let begin = Instant::now();
    while value(&metrics(&callee).await, &["cert_refreshes_total"]) < 3.0 {
        assert!(begin.elapsed() < 2 * DEADLINE, "not renewed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    end(callee).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_new_certificate_leaves_the_old_one_in_use() {
    let pair = Secure::start("detect", App::start().await.address).await;
    std::fs::write(pair.callee_files.path("leaf.pem"), "junk").unwrap();
    let begin = Instant::now();
    while value(&metrics(&pair.callee).await, &["renewal_failures_total"]) < 1.0 {
        assert!(begin.elapsed() < 2 * DEADLINE, "not noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fetch(pair.address(), "/still").await.status, 200);
    let told = wait_for("a report of it", || {
        pair.server.received(|received| {
            let fails = |report: &&ReportRequest| report.certificate_renewal_fails;
            received.reports.iter().find(fails).cloned()
        })
    });
    assert!(told.await.certificate_expires_s.is_some());
    pair.end().await;
}

#[test]
fn missing_files_stop_the_start_and_are_named() {
    let text = "[workload]\nnamespace = \"n\"\nname = \"a\"\ninstance = \"a-0\"\n\
                [[listener]]\nname = \"in\"\nlisten = \"127.0.0.1:0\"\ndirection = \"inbound\"\n\
                forward = \"127.0.0.1:9\"\n[identity]\ntrust_anchors = \"/nowhere/anchors.pem\"\n\
                certificate = \"leaf.pem\"\nprivate_key = \"leaf.key\"\n";
    let config = whodunit_proxy::Config::parse(text, Path::new("proxy.toml")).unwrap();
    let why = config.check_files().unwrap_err();
    assert!(why.starts_with("read /nowhere/anchors.pem: "), "{why}");
    let error = whodunit_proxy::Proxy::start(config)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("/nowhere/anchors.pem"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_goes_by_what_certificates_prove() {
    let app = App::start().await;
    let rule = |name: &str, who: &str| {
        format!(
            "[[policy.rule]]\nname = \"{name}\"\naction = \"allow\"\npaths = [\"/{name}\"]\n{who}\n"
        )
    };
    let policy = [
        "[policy]\ndefault = \"deny\"\n".to_owned(),
        rule("account", "identities = [\"caller.test\"]"),
        rule("whole", &format!("identities = [\"{CALLER}\"]")),
        rule("namespace", "namespaces = [\"test\"]"),
        rule("below", "identities = [\"*.test\"]"),
        rule("any", "identities = [\"*\"]"),
        rule("stranger", "identities = [\"stranger.test\"]"),
        rule("elsewhere", "namespaces = [\"other\"]"),
        rule("far", "identities = [\"*\"]\nnetworks = [\"10.0.0.0/8\"]"),
    ];
    let pair = Secure::policed("detect", app.address, CALLEE, &policy.concat()).await;
    for (name, allowed) in [
        ("account", true),
        ("whole", true),
        ("namespace", true),
        ("below", true),
        ("any", true),
        ("stranger", false),
        ("elsewhere", false),
        ("far", false),
        ("unnamed", false),
    ] {
        let path = format!("/{name}");
        let status = fetch(pair.address(), &path).await.status.as_u16();
        assert_eq!(status, if allowed { 200 } else { 403 }, "{name}");
        // In plain text nobody proves anything.
        let plain = fetch(at(&pair.callee, "in"), &path).await.status.as_u16();
        assert_eq!(plain, 403, "{name} in plain text");
    }
    let denied = record(&pair.server, Side::Outbound, "/stranger").await;
    assert_eq!(denied.cause, Cause::PolicyDenied);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_share_one_connection_for_many_streams() {
    let app = App::start().await;
    let pair = Secure::start("http2", app.address).await;
    let mut asked = Vec::new();
    let mut senders = Vec::new();
    for _ in 0..2 {
        let mut sender = http2(at(&pair.caller, "callee")).await;
        for _ in 0..150 {
            let request = http::Request::get("http://callee.test/held")
                .body(http_body_util::Empty::<bytes::Bytes>::new())
                .unwrap();
            asked.push(tokio::spawn(sender.send_request(request)));
        }
        senders.push(sender);
    }
    wait_for("all to be there", || {
        (app.seen.lock().unwrap().len() == 300).then_some(())
    })
    .await;
    assert_eq!(pair.callee.open_connections(), 1, "of the caller's proxy");
    app.go_on.notify_waiters();
    for answer in asked {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
    drop(senders);
    end(pair.caller).await;
    end(pair.callee).await;
}
