//! What subscribers are told.

use std::sync::atomic::Ordering;

use whodunit_control::destination::Destinations;
use whodunit_control::discovery;
use whodunit_model::topology::{Endpoint, Service, ServiceName};
use whodunit_wire::destination::Destination;
use whodunit_wire::linkerd::destination::destination_server::Destination as _;
use whodunit_wire::linkerd::destination::{GetDestination, Update};
use whodunit_wire::tonic::{Code, Request, Streaming};

use crate::{DEADLINE, StateFile, connect, eventually};

fn request(path: &str) -> GetDestination {
    GetDestination {
        scheme: "k8s".to_owned(),
        path: path.to_owned(),
        context_token: String::new(),
    }
}

/// Applies updates until `seen` has the endpoints with these ports.
async fn converge(stream: &mut Streaming<Update>, seen: &mut Destination, ports: &[u16]) {
    let has = |seen: &Destination| {
        let mut found: Vec<u16> = seen.endpoints.iter().map(|e| e.address.port()).collect();
        found.sort_unstable();
        found == ports
    };
    while !has(seen) {
        let update = tokio::time::timeout(DEADLINE, stream.message()).await;
        seen.apply(update.expect("in time").expect("no error").expect("no end"));
    }
}

#[tokio::test]
async fn a_stream_converges_on_every_change_of_the_file() {
    let file = StateFile::new();
    let mut client = connect(Destinations::new(Some(file.follow()))).await;
    let mut stream = client.get(request("web.n")).await.unwrap().into_inner();
    let mut seen = Destination::default();

    file.put("web 1 2");
    converge(&mut stream, &mut seen, &[1, 2]).await;
    assert_eq!(
        (seen.workload.as_str(), seen.service.as_str()),
        ("web", "web")
    );
    file.put("web 2 3");
    converge(&mut stream, &mut seen, &[2, 3]).await;
    file.put("web");
    converge(&mut stream, &mut seen, &[]).await;
    assert!(seen.exists, "the service has no instance, but exists");
    file.put("web 4");
    converge(&mut stream, &mut seen, &[4]).await;
    file.put("voting 5");
    converge(&mut stream, &mut seen, &[]).await;
    assert!(!seen.exists);
}

#[tokio::test]
async fn nothing_is_said_before_a_state_is_known() {
    let (source, discovery) = discovery::channel("a test");
    let mut client = connect(Destinations::new(Some(discovery))).await;
    let mut stream = client.get(request("web.n")).await.unwrap().into_inner();
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), stream.message()).await;
    assert!(early.is_err(), "told {early:?} before anything was known");
    source.set(vec![]);
    let mut seen = Destination {
        exists: true,
        ..Destination::default()
    };
    let update = tokio::time::timeout(DEADLINE, stream.message())
        .await
        .expect("in time");
    seen.apply(update.unwrap().unwrap());
    assert!(!seen.exists);
    drop(source);
    let end = tokio::time::timeout(DEADLINE, stream.message())
        .await
        .expect("in time");
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_slow_subscriber_is_dropped_and_holds_up_nobody() {
    let (source, discovery) = discovery::channel("a test");
    let destinations = Destinations::new(Some(discovery));
    let counters = destinations.counters();
    // In process: no socket buffer reads ahead of the subscriber.
    let slow = destinations
        .get(Request::new(request("web.n")))
        .await
        .unwrap();
    for port in 1..=200 {
        let before = counters.updates.load(Ordering::Relaxed);
        source.set(vec![web(port)]);
        eventually("the change is told or the subscriber dropped", || {
            counters.updates.load(Ordering::Relaxed) > before
                || counters.slow_dropped.load(Ordering::Relaxed) == 1
        })
        .await;
    }
    assert_eq!(counters.slow_dropped.load(Ordering::Relaxed), 1);
    eventually("the subscriber is gone", || {
        counters.subscribers.load(Ordering::Relaxed) == 0
    })
    .await;

    // It still gets what was queued, then a reason; a new subscriber gets the newest state.
    let told = tokio_stream::StreamExt::collect::<Vec<_>>(slow.into_inner()).await;
    let end = told.last().unwrap().as_ref().unwrap_err();
    assert_eq!(end.code(), Code::ResourceExhausted);
    let mut client = connect(destinations).await;
    let mut stream = client.get(request("web.n")).await.unwrap().into_inner();
    converge(&mut stream, &mut Destination::default(), &[200]).await;
}

fn web(port: u16) -> Service {
    Service {
        name: ServiceName {
            namespace: "n".to_owned(),
            name: "web".to_owned(),
        },
        workload: "web".to_owned(),
        protocol: None,
        external: false,
        policy: None,
        routes: vec![],
        address: None,
        endpoints: vec![Endpoint {
            address: ([127, 0, 0, 1], port).into(),
            instance: "web-0".to_owned(),
            version: String::new(),
            meshed: true,
            identity: String::new(),
            server_name: String::new(),
            ready: true,
        }],
    }
}

#[tokio::test]
async fn readiness_moves_endpoints_in_and_out() {
    let (source, discovery) = discovery::channel("a test");
    let mut client = connect(Destinations::new(Some(discovery))).await;
    let mut stream = client.get(request("web.n:80")).await.unwrap().into_inner();
    let mut seen = Destination::default();
    let with = |ready: [bool; 2]| {
        let mut service = web(1);
        service.endpoints.extend(web(2).endpoints);
        for (endpoint, ready) in service.endpoints.iter_mut().zip(ready) {
            endpoint.ready = ready;
        }
        vec![service]
    };
    source.set(with([true, false]));
    converge(&mut stream, &mut seen, &[1]).await;
    source.set(with([false, true]));
    converge(&mut stream, &mut seen, &[2]).await;
    source.set(with([false, false]));
    converge(&mut stream, &mut seen, &[1, 2]).await;
}

#[tokio::test]
async fn an_address_is_somebodys() {
    let (source, discovery) = discovery::channel("a test");
    let mut client = connect(Destinations::new(Some(discovery))).await;
    let mut service = web(1);
    service.address = Some(([10, 0, 0, 1], 80).into());
    service.endpoints.extend(web(2).endpoints);
    service.endpoints[0].ready = false;
    service.endpoints[0].address = ([10, 0, 1, 1], 1).into();
    source.set(vec![service]);
    // A service's own address is for its ready instances; an instance's is for that one, on
    // any port.
    for (address, ports) in [
        ("10.0.0.1:80", &[2][..]),
        ("10.0.1.1:1", &[1]),
        ("10.0.1.1:9", &[9]),
        ("127.0.0.1:2", &[2]),
    ] {
        let mut stream = client.get(request(address)).await.unwrap().into_inner();
        let mut seen = Destination::default();
        converge(&mut stream, &mut seen, ports).await;
        assert_eq!(seen.workload, "web");
    }
    let mut stream = client
        .get(request("10.0.0.1:81"))
        .await
        .unwrap()
        .into_inner();
    converge(&mut stream, &mut Destination::default(), &[]).await;
}

#[tokio::test]
async fn junk_names_are_refused_and_a_server_without_discovery_says_so() {
    let (_source, discovery) = discovery::channel("a test");
    let mut client = connect(Destinations::new(Some(discovery))).await;
    for path in ["", "web", ".n", &"x.y".repeat(200)] {
        let status = client.get(request(path)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{path}");
        assert!(status.message().contains("name.namespace"), "{status}");
    }
    let mut client = connect(Destinations::new(None)).await;
    let status = client.get(request("web.n")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("--topology"), "{status}");
}

#[tokio::test]
async fn a_profile_names_the_service() {
    let (source, discovery) = discovery::channel("a test");
    source.set(vec![web(1)]);
    let mut client = connect(Destinations::new(Some(discovery))).await;
    let mut stream = client
        .get_profile(request("web.n"))
        .await
        .unwrap()
        .into_inner();
    let profile = tokio::time::timeout(DEADLINE, stream.message())
        .await
        .expect("in time");
    assert_eq!(profile.unwrap().unwrap().fully_qualified_name, "web.n");
}
