//! What proxies are told about who may ask for what.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use whodunit_control::discovery;
use whodunit_control::policies::Policies;
use whodunit_model::policy::{Action, Mode, Policy, Rule};
use whodunit_model::topology::{Endpoint, Service, ServiceName};
use whodunit_wire::linkerd::inbound::inbound_server_policies_client::InboundServerPoliciesClient;
use whodunit_wire::linkerd::inbound::inbound_server_policies_server::InboundServerPolicies as _;
use whodunit_wire::linkerd::inbound::{PortSpec, Server as Message};
use whodunit_wire::policy;
use whodunit_wire::tonic::transport::server::TcpIncoming;
use whodunit_wire::tonic::transport::{Channel, Server};
use whodunit_wire::tonic::{Code, Request, Streaming};

use crate::{DEADLINE, eventually};

fn numbered(n: usize) -> Policy {
    Policy {
        rules: vec![Rule::new(&format!("rule-{n}"), Action::Deny)],
        ..Policy::plain(Mode::Deny)
    }
}

fn web(policy: Option<Policy>) -> Service {
    Service {
        name: ServiceName {
            namespace: "n".to_owned(),
            name: "web".to_owned(),
        },
        workload: "web".to_owned(),
        protocol: None,
        external: false,
        policy,
        routes: vec![],
        address: None,
        endpoints: vec![Endpoint {
            address: ([127, 0, 0, 1], 80).into(),
            instance: "web-0".to_owned(),
            version: String::new(),
            meshed: true,
            ready: false,
            identity: String::new(),
            server_name: String::new(),
        }],
    }
}

fn request(workload: &str, port: u32) -> PortSpec {
    PortSpec {
        workload: workload.to_owned(),
        port,
    }
}

async fn connect(policies: Policies) -> InboundServerPoliciesClient<Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound");
    let server = Server::builder()
        .add_service(policies.into_service())
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    InboundServerPoliciesClient::new(endpoint.connect().await.expect("connects"))
}

async fn next(stream: &mut Streaming<Message>) -> Policy {
    let message = tokio::time::timeout(DEADLINE, stream.message()).await;
    let message = message
        .expect("in time")
        .expect("no error")
        .expect("no end");
    policy::policy(message).expect("a policy")
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_see_parts_of_the_history_in_order_and_its_end() {
    const CHANGES: usize = 400;
    let (source, discovery) = discovery::channel("a test");
    let policies = Policies::new(Some(discovery));
    let counters = policies.counters();
    // In process, so that no socket buffer reads ahead of it.
    let never = policies
        .watch_port(Request::new(request("n:web-0", 80)))
        .await;
    let never = never.expect("watches").into_inner();
    let client = connect(policies).await;
    source.set(vec![web(Some(numbered(0)))]);
    let index: BTreeMap<String, usize> = (0..=CHANGES).map(|n| (format!("rule-{n}"), n)).collect();
    let watchers: Vec<_> = (0..8)
        .map(|_| {
            let (mut client, index) = (client.clone(), index.clone());
            tokio::spawn(async move {
                let stream = client.watch_port(request("n:web-0", 80)).await;
                let mut stream = stream.expect("watches").into_inner();
                let mut seen: Vec<usize> = Vec::new();
                while seen.last() != Some(&CHANGES) {
                    let policy = next(&mut stream).await;
                    seen.push(index[&*policy.rules[0].name]);
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
        source.set(vec![web(Some(numbered(n)))]);
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
async fn what_is_not_known_is_not_spoken_of() {
    let (source, discovery) = discovery::channel("a test");
    let mut client = connect(Policies::new(Some(discovery))).await;
    source.set(vec![web(Some(numbered(1)))]);
    for other in [
        request("n:web-1", 80),
        request("n:web-0", 81),
        request("m:web-0", 80),
    ] {
        let status = client.get_port(other).await.expect_err("not known");
        assert_eq!(status.code(), Code::NotFound);
    }
    for junk in [
        request("web-0", 80),
        request("n:web-0", 70_000),
        request("", 80),
    ] {
        let status = client.watch_port(junk).await.expect_err("no workload");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let known = client
        .get_port(request("n:web-0", 80))
        .await
        .expect("known");
    assert_eq!(policy::policy(known.into_inner()), Ok(numbered(1)));
    // A service without a policy is open; that is known, too.
    source.set(vec![web(None)]);
    let stream = client.watch_port(request("n:web-0", 80)).await;
    let mut stream = stream.expect("watches").into_inner();
    let open = next(&mut stream).await;
    assert!(open.is_open());
    let refused = connect(Policies::new(None))
        .await
        .get_port(request("n:web-0", 80))
        .await;
    assert_eq!(
        refused.expect_err("nothing known").code(),
        Code::FailedPrecondition
    );
}
