//! A mesh comes up, stays up, and goes down.

use std::fs;
use std::net::TcpListener;
use std::time::Instant;

use whodunit_launch::{Event, state};

use crate::bench::{Bench, app, get, lives, mark, marked, until};

const QUICK: &str = "interval = '50ms', timeout = '5s', threshold = 2";

fn shop() -> String {
    let web = app(
        "web",
        "calls = ['stock']\nenv.CALLEE = '{stock}'\nready = 'http://{self}/'",
    );
    format!(
        "{web}{}",
        app("stock", "ready = 'http://127.0.0.1:{port}/health'")
    )
}

#[tokio::test]
async fn what_is_called_is_ready_before_its_callers_start() {
    let mut bench = Bench::start(&shop());
    bench.all_ready().await;
    assert_eq!(
        bench.seen(),
        [
            "server ready",
            "starting stock-0",
            "ready stock-0",
            "starting web-0",
            "ready web-0",
            "all ready"
        ]
    );
    let (web, ready) = bench.endpoint("web-0");
    assert!(ready && bench.endpoint("stock-0").1);
    let answer = tokio::task::spawn_blocking(move || get(web, "/via"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer, (200, "web-0 via stock-0".to_owned()));
    bench.stopped().await;
}

#[tokio::test]
async fn stopping_ends_callers_first_and_the_server_last_and_leaves_nothing() {
    let mut bench = Bench::start(&shop());
    let pid = bench.starting("stock-0").await;
    bench.all_ready().await;
    let mark = mark(pid);
    assert_eq!(
        marked(&mark).len(),
        5,
        "two applications, two proxies, one server"
    );
    let state_file = bench.folder.path().join("state/local.json");
    let state = state::read(&state_file).unwrap();
    assert_eq!(
        (state.pid, state.name.as_str()),
        (std::process::id(), "test")
    );

    let remains = bench.stopped().await;
    assert_eq!(marked(&mark), Vec::<u32>::new());
    let stopped: Vec<&str> = remains
        .seen
        .iter()
        .filter_map(|line| line.strip_prefix("stopped "))
        .collect();
    assert_eq!(
        stopped,
        ["web-0", "web-0.proxy", "stock-0", "stock-0.proxy", "server"]
    );
    assert!(!state_file.exists());
    let log = fs::read_to_string(remains.folder.path().join("data/logs/web-0.log")).unwrap();
    assert_eq!(log, "web-0 starts\n");
}

#[tokio::test]
async fn a_mesh_can_be_started_again_on_the_same_data() {
    let mut bench = Bench::start(&shop());
    bench.all_ready().await;
    let key = |folder: &std::path::Path| fs::read(folder.join("data/run/redaction.key")).unwrap();
    let first = key(bench.folder.path());
    let remains = bench.stopped().await;
    let mut bench = Bench::start_in(remains.folder, &shop());
    bench.all_ready().await;
    assert_eq!(key(bench.folder.path()), first);
    bench.stopped().await;
}

#[tokio::test]
async fn a_taken_port_is_replaced_and_that_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = taken.local_addr().unwrap().port();
    let mut bench = Bench::start(&app("web", &format!("port = {wanted}")));
    let used = bench
        .event(|event| match event {
            Event::PortReplaced {
                what,
                wanted: port,
                used,
            } => {
                assert_eq!((what.as_str(), *port), ("service `web`", wanted));
                Some(*used)
            }
            _ => None,
        })
        .await;
    let front_door = bench
        .event(|event| match event {
            Event::AllReady { app, .. } => Some(app.clone()),
            _ => None,
        })
        .await;
    assert_eq!(front_door, Some(format!("http://127.0.0.1:{used}")));
    assert_eq!(bench.endpoint("web-0").0.port(), used);
    bench.stopped().await;
}

#[tokio::test]
async fn each_instance_has_ports_and_a_folder_of_its_own() {
    let mut bench = Bench::start(&app("web", "instances = 3"));
    bench.all_ready().await;
    for instance in ["web-0", "web-1", "web-2"] {
        let (address, ready) = bench.endpoint(instance);
        assert!(ready);
        let answer = tokio::task::spawn_blocking(move || get(address, "/"))
            .await
            .unwrap();
        assert_eq!(answer.unwrap(), (200, instance.to_owned()));
    }
    bench.stopped().await;
}

#[tokio::test]
async fn what_dies_is_started_again_and_is_not_ready_meanwhile() {
    let mut bench = Bench::start(&app("web", ""));
    bench.all_ready().await;
    let (address, _) = bench.endpoint("web-0");
    fs::write(bench.own("web-0", "die"), "").unwrap();
    let _dies_while_answering = tokio::task::spawn_blocking(move || get(address, "/"))
        .await
        .unwrap();
    let (how, lines) = bench
        .event(|event| match event {
            Event::Exited {
                how, last_lines, ..
            } => Some((how.clone(), last_lines.clone())),
            _ => None,
        })
        .await;
    assert_eq!(how, "exit code 3");
    assert_eq!(lines.last().unwrap(), "web-0 was told to die");
    bench.ready("web-0").await;
    assert!(bench.endpoint("web-0").1);
    assert!(
        bench
            .seen()
            .iter()
            .any(|line| line.starts_with("restarting web-0 in 0.0 s"))
    );
    bench.stopped().await;
}

#[tokio::test]
async fn the_server_and_the_proxies_are_started_again_too() {
    let mut bench = Bench::start(&app("web", ""));
    let pid = bench.starting("web-0").await;
    bench.all_ready().await;
    let mark = mark(pid);
    let others: Vec<u32> = marked(&mark)
        .into_iter()
        .filter(|other| *other != pid)
        .collect();
    assert_eq!(others.len(), 2);
    for other in others {
        let other = rustix::process::Pid::from_raw(i32::try_from(other).unwrap()).unwrap();
        rustix::process::kill_process(other, rustix::process::Signal::KILL).unwrap();
    }
    let mut ready = Vec::new();
    while ready.len() < 2 {
        let next = bench.event(|event| match event {
            Event::Ready { instance, .. } => Some(instance.clone()),
            _ => None,
        });
        ready.push(next.await);
    }
    ready.sort();
    assert_eq!(ready, ["server", "web-0.proxy"]);
    assert!(lives(pid), "the application goes on");
    let (address, _) = bench.endpoint("web-0");
    let answer = tokio::task::spawn_blocking(move || get(address, "/"))
        .await
        .unwrap();
    assert_eq!(answer.unwrap().0, 200);
    bench.stopped().await;
}

#[tokio::test]
async fn restart_policies_are_followed() {
    let mut bench = Bench::start(
        "[service.never]\ncommand = 'sleep 0.3; exit 1'\nshell = true\nrestart = 'never'\n\
         [service.once]\ncommand = 'true'\nrestart = 'on-failure'\n\
         [service.again]\ncommand = 'sleep 0.3; exit 1'\nshell = true\nrestart = 'on-failure'\n\
         backoff = '10ms'\n",
    );
    for _ in 0..3 {
        bench.starting("again-0").await;
    }
    let remains = bench.stopped().await;
    let starts = |name: &str| {
        remains
            .seen
            .iter()
            .filter(|line| **line == format!("starting {name}"))
            .count()
    };
    assert_eq!((starts("never-0"), starts("once-0")), (1, 1));
    assert!(starts("again-0") >= 3);
}

#[tokio::test]
async fn who_is_unwell_gets_no_requests_until_well_again() {
    let ready = format!("ready = {{ url = 'http://127.0.0.1:{{port}}/health', {QUICK} }}");
    let mut bench = Bench::start(&app("web", &ready));
    let pid = bench.starting("web-0").await;
    bench.all_ready().await;
    fs::write(bench.own("web-0", "unwell"), "").unwrap();
    let why = bench
        .event(|event| match event {
            Event::Unready { why, .. } => Some(why.clone()),
            _ => None,
        })
        .await;
    assert!(why.ends_with("/health answers status 503"), "{why}");
    assert!(!bench.endpoint("web-0").1);
    fs::remove_file(bench.own("web-0", "unwell")).unwrap();
    bench.ready("web-0").await;
    assert!(bench.endpoint("web-0").1);
    assert!(lives(pid), "it was not started again for that");
    bench.stopped().await;
}

#[tokio::test]
async fn who_is_not_alive_is_started_again() {
    let live = format!("live = {{ url = 'http://127.0.0.1:{{port}}/health', {QUICK} }}");
    let mut bench = Bench::start(&app("web", &live));
    let pid = bench.starting("web-0").await;
    bench.all_ready().await;
    let unwell = bench.own("web-0", "unwell");
    fs::write(&unwell, "").unwrap();
    let how = bench
        .event(|event| match event {
            Event::Exited { how, .. } => Some(how.clone()),
            _ => None,
        })
        .await;
    assert!(how.starts_with("not alive any more, ended it: "), "{how}");
    fs::remove_file(&unwell).unwrap();
    assert_ne!(bench.starting("web-0").await, pid);
    assert!(!lives(pid));
    bench.ready("web-0").await;
    bench.stopped().await;
}

#[tokio::test]
async fn who_does_not_want_to_end_is_killed_with_all_it_started() {
    let mut bench = Bench::start(
        "[service.stubborn]\nshell = true\nstop_timeout = '100ms'\n\
         command = 'trap \"\" TERM; sleep 1000 & echo $! > {data}/child; while :; do wait; done'\n",
    );
    let pid = bench.starting("stubborn-0").await;
    bench.all_ready().await;
    let file = bench.own("stubborn-0", "child");
    let child = || fs::read_to_string(&file).ok()?.trim().parse::<u32>().ok();
    until("the child is started", || child().is_some_and(lives)).await;
    let child = child().unwrap();
    let remains = bench.stopped().await;
    assert!(!lives(pid) && !lives(child));
    let killed = Event::Stopped {
        instance: "stubborn-0".to_owned(),
        killed: true,
    };
    assert!(remains.events.contains(&killed), "{:?}", remains.seen);
}

#[tokio::test]
async fn stopping_at_once_waits_for_nobody() {
    let mut bench = Bench::start(
        "[service.stubborn]\nshell = true\nstop_timeout = '10m'\n\
         command = 'trap \"\" TERM; while :; do sleep 1; done'\n",
    );
    let pid = bench.starting("stubborn-0").await;
    bench.all_ready().await;
    let mark = mark(pid);
    let start = Instant::now();
    bench.stop.stop();
    bench
        .event(|event| matches!(event, Event::Stopping { at_once: false }).then_some(()))
        .await;
    bench.stop.now();
    let (outcome, _) = bench.ended().await;
    outcome.unwrap();
    assert!(start.elapsed().as_secs() < 60);
    assert_eq!(marked(&mark), Vec::<u32>::new());
}

#[tokio::test]
async fn templates_and_placeholders_reach_the_application() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("conf.in"),
        "name {{instance}} { listen {{ port }}; }\n",
    )
    .unwrap();
    let more = "env.INDEX = '{index}'\n[[service.web.files]]\ntemplate = 'conf.in'\n\
                path = 'etc/conf'";
    let mut bench = Bench::start_in(folder, &app("web", more));
    let pid = bench.starting("web-0").await;
    bench.all_ready().await;
    let conf = fs::read_to_string(bench.own("web-0", "etc/conf")).unwrap();
    let words: Vec<String> = fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .unwrap()
        .split('\0')
        .map(str::to_owned)
        .collect();
    assert_eq!(conf, format!("name web-0 {{ listen {}; }}\n", words[3]));
    bench.stopped().await;
}
