//! What proxies are told about requests to a service.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use whodunit_control::discovery;
use whodunit_control::outbound::Outbounds;
use whodunit_model::route_rule::RouteRule;
use whodunit_model::topology::{Service, ServiceName};
use whodunit_wire::linkerd::outbound::outbound_policies_client::OutboundPoliciesClient;
use whodunit_wire::linkerd::outbound::outbound_policies_server::OutboundPolicies as _;
use whodunit_wire::linkerd::outbound::traffic_spec::Target;
use whodunit_wire::linkerd::outbound::{OutboundPolicy, TrafficSpec};
use whodunit_wire::outbound;
use whodunit_wire::tonic::transport::server::TcpIncoming;
use whodunit_wire::tonic::transport::{Channel, Server};
use whodunit_wire::tonic::{Code, Request, Streaming};

use crate::{DEADLINE, eventually};

fn name() -> ServiceName {
    ServiceName {
        namespace: "n".to_owned(),
        name: "web".to_owned(),
    }
}

fn numbered(n: usize) -> Vec<RouteRule> {
    vec![RouteRule {
        name: format!("rule-{n}"),
        ..RouteRule::default()
    }]
}

fn web(routes: Vec<RouteRule>) -> Service {
    Service {
        name: name(),
        workload: "web".to_owned(),
        protocol: None,
        external: false,
        policy: None,
        routes,
        address: None,
        endpoints: vec![],
    }
}

fn request() -> TrafficSpec {
    outbound::request("n:edge-0".to_owned(), &name())
}

async fn connect(outbounds: Outbounds) -> OutboundPoliciesClient<Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound");
    let server = Server::builder()
        .add_service(outbounds.into_service())
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    OutboundPoliciesClient::new(endpoint.connect().await.expect("connects"))
}

async fn next(stream: &mut Streaming<OutboundPolicy>) -> Option<Vec<RouteRule>> {
    let message = tokio::time::timeout(DEADLINE, stream.message()).await;
    let message = message
        .expect("in time")
        .expect("no error")
        .expect("no end");
    outbound::rules(message).expect("rules")
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_see_parts_of_the_history_in_order_and_its_end() {
    const CHANGES: usize = 400;
    let (source, discovery) = discovery::channel("a test");
    let outbounds = Outbounds::new(Some(discovery));
    let counters = outbounds.counters();
    // In process, so that no socket buffer reads ahead of it.
    let never = outbounds.watch(Request::new(request())).await;
    let never = never.expect("watches").into_inner();
    let client = connect(outbounds).await;
    source.set(vec![web(numbered(0))]);
    let index: BTreeMap<String, usize> = (0..=CHANGES).map(|n| (format!("rule-{n}"), n)).collect();
    let watchers: Vec<_> = (0..8)
        .map(|_| {
            let (mut client, index) = (client.clone(), index.clone());
            tokio::spawn(async move {
                let stream = client.watch(request()).await;
                let mut stream = stream.expect("watches").into_inner();
                let mut seen: Vec<usize> = Vec::new();
                while seen.last() != Some(&CHANGES) {
                    let rules = next(&mut stream).await.expect("known");
                    seen.push(index[&rules[0].name]);
                }
                (seen, tokio::time::Instant::now())
            })
        })
        .collect();
    eventually("all watch", || {
        counters.subscribers.load(Ordering::Relaxed) == 9
    })
    .await;
    for n in 1..=CHANGES {
        source.set(vec![web(numbered(n))]);
        if n % 8 == 0 {
            // Lets the streams take a turn.
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let last = tokio::time::Instant::now();
    for watcher in watchers {
        let (seen, converged) = watcher.await.expect("converges");
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
        let late = converged.saturating_duration_since(last);
        assert!(late < Duration::from_secs(10), "{late:?}");
    }
    eventually("the one that never reads is dropped", || {
        counters.slow_dropped.load(Ordering::Relaxed) == 1
    })
    .await;
    drop(never);
}

#[tokio::test]
async fn a_service_that_is_not_known_says_nothing_about_routes() {
    let (source, discovery) = discovery::channel("a test");
    let mut client = connect(Outbounds::new(Some(discovery))).await;
    let status = client.get(request()).await.expect_err("nothing is known");
    assert_eq!(status.code(), Code::Unavailable);
    source.set(vec![]);
    let mut stream = client.watch(request()).await.expect("watches").into_inner();
    assert_eq!(next(&mut stream).await, None);
    source.set(vec![web(numbered(1))]);
    assert_eq!(next(&mut stream).await, Some(numbered(1)));
    let got = client.get(request()).await.expect("known").into_inner();
    assert_eq!(outbound::rules(got), Ok(Some(numbered(1))));
    source.set(vec![web(vec![])]);
    assert_eq!(next(&mut stream).await, Some(vec![]));
}

#[tokio::test]
async fn junk_and_addresses_are_refused() {
    let (source, discovery) = discovery::channel("a test");
    source.set(vec![web(vec![])]);
    let mut client = connect(Outbounds::new(Some(discovery))).await;
    let spec = |target| TrafficSpec {
        source_workload: String::new(),
        target,
    };
    let long = format!("{}.n", "x".repeat(300));
    for junk in ["", "web", ".n", long.as_str()] {
        let target = Some(Target::Authority(junk.to_owned()));
        let status = client.watch(spec(target)).await.expect_err("junk");
        assert_eq!(status.code(), Code::InvalidArgument, "{junk}");
    }
    let status = client.watch(spec(None)).await.expect_err("nothing asked");
    assert_eq!(status.code(), Code::InvalidArgument);
    let address: std::net::SocketAddr = ([127, 0, 0, 1], 80).into();
    let target = Some(Target::Addr(address.into()));
    let status = client.get(spec(target)).await.expect_err("an address");
    assert_eq!(status.code(), Code::NotFound);
    let refused = connect(Outbounds::new(None)).await.get(request()).await;
    let code = refused.expect_err("nothing known").code();
    assert_eq!(code, Code::FailedPrecondition);
}
