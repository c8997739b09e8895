//! Connections that the kernel redirects, in network namespaces of their own.
//!
//! One namespace stands for a pod, with the application, its proxy and the rules; one for the
//! rest of the world. Both sides of the test run in this process, on threads that have moved,
//! so the rules exempt its user and applications are processes of another one.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use http::StatusCode;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use whodunit_model::capture::Redirect;
use whodunit_model::record::{Detected, Kind, Side, Twin};
use whodunit_model::{Cause, Outcome};
use whodunit_proxy::Running;

use crate::app::App;
use crate::client::fetch;
use crate::mesh::{Setup, end, endpoint, record, record_where};
use crate::server::Server;

/// Whom connections are redirected of.
const APPLICATION_UID: u32 = 2_103;

/// The two namespaces of a test, gone when it ends.
struct Namespaces {
    pod: String,
    world: String,
}

impl Namespaces {
    /// Makes them, unless this machine or this user cannot.
    #[expect(
        clippy::print_stderr,
        reason = "whoever reads the output of tests wants to know what did not run"
    )]
    fn make(test: &str) -> Option<Self> {
        let missing = if !rustix::process::geteuid().is_root() {
            "it takes root"
        } else if !["ip -V", "nft -v", "bash --version"].into_iter().all(runs) {
            "it takes the commands ip, nft and bash"
        } else if !may_make_namespaces(test) {
            "it takes the rights to make network namespaces and rules of nftables"
        } else {
            let pid = std::process::id();
            let pod = format!("whodunit-test-{pid}-{test}");
            let made = Self {
                world: format!("{pod}-world"),
                pod,
            };
            made.connect();
            return Some(made);
        };
        eprintln!("skipped: {missing}");
        None
    }

    fn connect(&self) {
        let Self { pod, world } = self;
        for name in [pod, world] {
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
        }
        let ends = [(pod, 2), (world, 1)];
        run(&format!(
            "ip -n {pod} link add eth0 address 02:00:00:00:00:02 type veth \
             peer name eth0 address 02:00:00:00:00:01 netns {world}"
        ));
        for (name, own) in ends {
            run(&format!("ip -n {name} addr add 10.9.0.{own}/24 dev eth0"));
            run(&format!(
                "ip -n {name} addr add fd00:9::{own}/64 dev eth0 nodad"
            ));
            run(&format!("ip -n {name} link set eth0 up"));
        }
        // The first question for a neighbor is often lost, and asked again after a second.
        for (name, other) in [(pod, 1), (world, 2)] {
            for address in [format!("10.9.0.{other}"), format!("fd00:9::{other}")] {
                run(&format!(
                    "ip -n {name} neigh replace {address} lladdr 02:00:00:00:00:0{other} \
                     dev eth0 nud permanent"
                ));
            }
        }
        let redirect = Redirect {
            proxy_uid: 0,
            skip_inbound: vec![7_777],
            ..Redirect::default()
        };
        let mut nft = Command::new("ip")
            .args(["netns", "exec", pod, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("nft");
        // Loading the rules again changes nothing.
        let rules = redirect.ruleset().repeat(2);
        let mut input = nft.stdin.take().expect("a pipe");
        input.write_all(rules.as_bytes()).expect("written");
        drop(input);
        assert!(nft.wait().expect("ends").success(), "{rules}");
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.pod, &self.world] {
            let _best_effort = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn command(words: &str) -> Command {
    let mut words = words.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words);
    command
}

/// Says whether this is root with the rights of root.
fn may_make_namespaces(test: &str) -> bool {
    let name = format!("whodunit-test-{}-{test}-probe", std::process::id());
    let words = [
        format!("ip netns add {name}"),
        format!("ip netns exec {name} nft list tables"),
        format!("ip netns del {name}"),
    ];
    let done = |words: &String| command(words).output().is_ok_and(|it| it.status.success());
    words.iter().all(done)
}

fn runs(words: &str) -> bool {
    command(words).output().is_ok()
}

#[track_caller]
fn run(words: &str) {
    let output = command(words).output().expect(words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}: {said}");
}

/// Runs something on a thread of its own inside a namespace.
fn inside<T, F>(namespace: &str, make: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let path = format!("/run/netns/{namespace}");
    std::thread::spawn(move || {
        let file = File::open(&path).expect(&path);
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("moved");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(make())
    })
}

/// The same, waited for without blocking.
async fn away<T, F>(namespace: &str, make: impl FnOnce() -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let thread = inside(namespace, make);
    let joined = tokio::task::spawn_blocking(move || thread.join());
    joined.await.expect("a thread").expect("no panic")
}

/// An application in the world, until it is dropped.
struct Abroad {
    /// Ends the application when it is dropped.
    _stop: oneshot::Sender<()>,
}

impl Abroad {
    async fn start(namespace: &str, at: SocketAddr) -> Self {
        let (started, is_started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        inside(namespace, move || async move {
            let _app = App::start_at(at).await;
            started.send(()).expect("awaited");
            let _dropped = stopped.await;
        });
        is_started.await.expect("started");
        Self { _stop: stop }
    }
}

/// A process of an application that asks for a path and returns what it got.
async fn ask(to: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n");
    say(to, &format!("printf '{request}' >&3 && cat <&3")).await
}

/// A process of an application that connects and does something with descriptor 3.
async fn say(to: SocketAddr, then: &str) -> String {
    let (host, port) = (to.ip(), to.port());
    let script = format!("exec 3<>/dev/tcp/{host}/{port} && {then}");
    let output = tokio::task::spawn_blocking(move || {
        Command::new("bash")
            .args(["-c", &script])
            .uid(APPLICATION_UID)
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
    });
    let output = output.await.expect("a thread").expect("bash");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn proxy(server: &Server) -> Running {
    let listener = |name: &str, listen: &str, direction: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\nlisten = \"{listen}\"\n\
             direction = \"{direction}\"\nforward = \"original-dst\"\n"
        )
    };
    Setup::new("pod", server)
        .table(&listener("in", "[::]:4143", "inbound"))
        .table(&listener("out", "[::]:4140", "outbound"))
        .start()
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect(text)
}

#[test]
fn connections_are_carried_to_where_they_were_going() {
    let Some(namespaces) = Namespaces::make("carried") else {
        return;
    };
    let world = namespaces.world.clone();
    let test = inside(&namespaces.pod, move || async move {
        let server = Server::start().await;
        let app = App::start_at(at("[::]:8080")).await;
        let proxy = proxy(&server);
        for (index, (pod, abroad, nobody)) in [
            ("10.9.0.2", "10.9.0.1", "10.9.0.99"),
            ("[fd00:9::2]", "[fd00:9::1]", "[fd00:9::99]"),
        ]
        .into_iter()
        .enumerate()
        {
            let stranger = at(&format!("{abroad}:9000"));
            let callee = at(&format!("{abroad}:9001"));
            let service = at(&format!("{nobody}:80"));
            let _stranger = Abroad::start(&world, stranger).await;
            let _callee = Abroad::start(&world, callee).await;
            server.discover_at(service, &[endpoint(callee, "callee-0", false)]);

            // The address of a service, where nobody is.
            let path = format!("/service-{index}");
            let answer = ask(service, &path).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let row = record(&server, Side::Outbound, &path).await;
            assert_eq!((&*row.service, &*row.dst.instance), ("callee", "callee-0"));
            assert_eq!(*row.endpoint, callee.to_string());
            assert_eq!(row.detected, Detected::Bytes);

            // An address that nobody knows.
            let path = format!("/stranger-{index}");
            let answer = ask(stranger, &path).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let row = record(&server, Side::Outbound, &path).await;
            assert_eq!((&*row.service, &*row.dst.workload), ("", ""));
            assert_eq!((row.outcome, row.twin), (Outcome::Success, Twin::No));
            assert_eq!(*row.endpoint, stranger.to_string());

            // Somebody calls the application.
            let own = at(&format!("{pod}:8080"));
            let path = format!("/in-{index}");
            let asked = path.clone();
            let status = away(
                &world,
                move || async move { fetch(own, &asked).await.status },
            );
            assert_eq!(status.await, StatusCode::OK);
            let row = record(&server, Side::Inbound, &path).await;
            assert_eq!((&*row.service, &*row.dst.instance), ("pod", "pod-0"));
            assert_eq!(*row.endpoint, own.to_string());

            // The proxy calls its own instance, by that address.
            let path = format!("/own-{index}");
            assert_eq!(fetch(own, &path).await.status, StatusCode::OK);
            record(&server, Side::Inbound, &path).await;

            // What stays on the loopback interface is nobody's business.
            let path = format!("/lo-{index}");
            let lo = if index == 0 { "127.0.0.1" } else { "[::1]" };
            let answer = ask(at(&format!("{lo}:8080")), &path).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            app.headers(&path);
            assert!(server.records().iter().all(|row| *row.path != *path));
        }
        crate::sending::conserved(&proxy).await;
        end(proxy).await;
    });
    test.join().expect("no panic");
}

#[test]
fn connections_to_the_proxy_itself_are_refused_and_recorded() {
    let Some(namespaces) = Namespaces::make("loops") else {
        return;
    };
    let world = namespaces.world.clone();
    let test = inside(&namespaces.pod, move || async move {
        let server = Server::start().await;
        let proxy = proxy(&server);
        for (address, side) in [
            ("10.9.0.2:4143", Side::Inbound),
            // Redirected like any other port, and still an address of the proxy.
            ("10.9.0.2:4140", Side::Inbound),
            ("[fd00:9::2]:4143", Side::Inbound),
            ("127.0.0.1:4140", Side::Outbound),
        ] {
            let to = at(address);
            let before = server.records().len();
            let knock = move || async move {
                let mut heard = Vec::new();
                // The reset may come before the client has seen that it was accepted.
                let Ok(mut stream) = TcpStream::connect(to).await else {
                    return heard;
                };
                let _may_be_late = stream.write_all(b"hello").await;
                let _reset = stream.read_to_end(&mut heard).await;
                heard
            };
            let heard = match side {
                Side::Inbound => away(&world, knock).await,
                Side::Outbound => knock().await,
            };
            assert!(heard.is_empty(), "{heard:?}");
            let rows = || server.records().split_off(before);
            record_where(&server, |_| !rows().is_empty()).await;
            let rows = rows();
            let [row] = rows.as_slice() else {
                panic!("{address}: {rows:?}");
            };
            assert_eq!((row.kind, row.side), (Kind::Connection, side), "{address}");
            assert_eq!((row.outcome, row.cause), (Outcome::Failure, Cause::Loop));
        }
        crate::sending::conserved(&proxy).await;
        end(proxy).await;
    });
    test.join().expect("no panic");
}

#[test]
fn what_is_spoken_is_remembered_per_destination_and_some_ports_are_skipped() {
    let Some(namespaces) = Namespaces::make("spoken") else {
        return;
    };
    let world = namespaces.world.clone();
    let test = inside(&namespaces.pod, move || async move {
        let server = Server::start().await;
        let proxy = proxy(&server);
        let greeter = at("10.9.0.1:2525");
        let (started, is_started) = oneshot::channel();
        inside(&world, move || async move {
            let listener = TcpListener::bind(greeter).await.expect("free");
            started.send(()).expect("awaited");
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.expect("a client");
                stream.write_all(b"220 ready\n").await.expect("written");
                let _client_ends = stream.read_to_end(&mut Vec::new()).await;
            }
        });
        is_started.await.expect("started");
        let _web = Abroad::start(&world, at("10.9.0.1:9000")).await;
        for expected in [Detected::FallBack, Detected::Remembered] {
            let before = server.records().len();
            let line = say(greeter, "read -r line <&3 && echo \"$line\"").await;
            assert_eq!(line, "220 ready\n");
            let rows = || server.records().split_off(before);
            let ended = |row: &whodunit_model::RequestRecord| row.kind == Kind::Connection;
            record_where(&server, |_| rows().iter().any(ended)).await;
            let rows = rows();
            let row = rows.iter().find(|row| ended(row)).expect("awaited");
            assert_eq!((row.detected, row.side), (expected, Side::Outbound));
            assert_eq!(*row.endpoint, *"10.9.0.1:2525");
        }
        // Another destination is not suspected of the same.
        let answer = ask(at("10.9.0.1:9000"), "/web").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let row = record(&server, Side::Outbound, "/web").await;
        assert_eq!(row.detected, Detected::Bytes);

        // A port that is skipped is reached past the proxy.
        let app = App::start_at(at("10.9.0.2:7777")).await;
        let to = app.address;
        let direct = away(
            &world,
            move || async move { fetch(to, "/direct").await.status },
        );
        assert_eq!(direct.await, StatusCode::OK);
        crate::sending::conserved(&proxy).await;
        assert!(server.records().iter().all(|row| &*row.path != "/direct"));
        end(proxy).await;
    });
    test.join().expect("no panic");
}
