//! What mesh files are taken for, and what is said about broken ones.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

#[track_caller]
fn good(text: &str) -> Mesh {
    parse(text, Path::new("shop/mesh.toml")).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn refused(text: &str, expected: Expect) {
    let error = parse(text, Path::new("mesh.toml")).expect_err("should be refused");
    expected.assert_eq(&format!("{error}\n"));
}

#[test]
fn a_small_file_has_sensible_defaults() {
    let mesh = good("[service.web]\ncommand = \"server 'a b'\"\n");
    assert_eq!(mesh.namespace, "default");
    assert_eq!(mesh.default_name(), "shop");
    let [web] = mesh.services.as_slice() else {
        panic!("one service")
    };
    let words = ["server", "a b"].map(Template::literal).to_vec();
    assert_eq!(web.command, Command::Words(words));
    assert_eq!(
        web.command_at,
        Location {
            line: 2,
            column: 11
        }
    );
    assert_eq!(
        (web.instances, web.restart, web.inbound),
        (1, Restart::Always, false)
    );
    assert_eq!(web.backoff, Duration::from_millis(250));
    assert_eq!((web.port, web.app_port, web.protocol), (None, None, None));
    assert!(web.ready.is_none() && web.live.is_none());
}

#[test]
fn every_key_is_read() {
    let mesh = good(
        r#"
        namespace = "shop"
        [service.web]
        command = ["web", "--port", "{port}"]
        version = "v2"
        port = 8080
        ports = { metrics = 0, debug = 6060 }
        instances = 3
        calls = ["db", "stock"]
        env = { DB = "{db.host}:{db.port}", METRICS = "{port:metrics}" }
        working_dir = "{folder}/web"
        restart = "on-failure"
        backoff = "1s"
        start_timeout = "2m"
        stop_timeout = "500ms"
        ready = { url = "http://{self}/ready", interval = "5s", timeout = "3s", threshold = 2 }
        live = "tcp://127.0.0.1:{port}"
        protocol = "http1"
        capture = { query = ["choice"], headers = ["X-Tenant"] }
        [[service.web.files]]
        template = "web.conf.in"
        path = "{data}/web.conf"
        [service.stock]
        command = "exec stock --listen :{port} | logger"
        shell = true
        [external.db]
        address = "db.example.com:5432"
        protocol = "opaque"
        [record]
        buffer = "12MiB"
        [server]
        listen = "127.0.0.1:9070"
        grpc_listen = "[::1]:9071"
        "#,
    );
    let web = &mesh.services[0];
    assert_eq!(mesh.namespace, "shop");
    assert_eq!(
        (web.version.as_str(), web.port, web.instances),
        ("v2", Some(8080), 3)
    );
    assert_eq!(
        web.ports,
        BTreeMap::from([("debug".into(), 6060), ("metrics".into(), 0)])
    );
    assert_eq!(web.calls, ["db", "stock"]);
    assert_eq!(web.restart, Restart::OnFailure);
    assert_eq!(web.stop_timeout, Duration::from_millis(500));
    assert_eq!(web.start_timeout, Duration::from_secs(120));
    let ready = web.ready.as_ref().unwrap();
    assert_eq!(
        (
            ready.interval.as_secs(),
            ready.timeout.as_secs(),
            ready.threshold
        ),
        (5, 3, 2)
    );
    assert_eq!(web.live.as_ref().unwrap().threshold, 3);
    assert_eq!(web.protocol, Some(Protocol::Http1));
    assert_eq!(
        (
            web.capture_query[0].as_str(),
            web.capture_headers[0].as_str()
        ),
        ("choice", "x-tenant")
    );
    assert_eq!(web.files.len(), 1);
    assert!(mesh.services[1].inbound, "it is called and names its port");
    assert!(matches!(mesh.services[1].command, Command::Shell(_)));
    assert_eq!(mesh.externals[0].address, "db.example.com:5432");
    assert_eq!(mesh.externals[0].protocol, Some(Protocol::Tcp));
    assert_eq!(mesh.record_buffer_bytes, Some(12 << 20));
    assert_eq!(mesh.server_listen, Some("127.0.0.1:9070".parse().unwrap()));
    assert_eq!(mesh.server_grpc_listen, Some("[::1]:9071".parse().unwrap()));
}

#[test]
fn services_keep_the_order_of_the_file_and_may_call_in_circles() {
    let mesh = good(
        "[service.b]\ncommand = \"b {port}\"\ncalls = [\"a\", \"b\"]\n\
         [service.a]\ncommand = \"a {port}\"\ncalls = [\"b\"]\n",
    );
    let names: Vec<&str> = mesh
        .services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert_eq!(names, ["b", "a"]);
}

#[test]
fn environment_can_be_set_from_outside() {
    let mut mesh = good("[service.bot]\ncommand = \"bot\"\nenv = { RATE = \"5\" }\n");
    mesh.service_mut("bot").unwrap().set_env("RATE", "{1}");
    assert_eq!(mesh.services[0].env["RATE"], Template::literal("{1}"));
    assert!(mesh.service_mut("web").is_none());
}

#[test]
fn text_that_is_not_toml() {
    refused(
        "[service.web\ncommand = \"x\"\n",
        expect![[r#"
            mesh.toml:1:13: this is not TOML: unclosed table, expected `]`
              1 | [service.web
                |             ^
        "#]],
    );
    refused(
        "[service.web]\ncommand = \"x\n",
        expect![[r#"
        mesh.toml:2:13: this is not TOML: invalid basic string, expected `"`
          2 | command = "x
            |             ^
    "#]],
    );
    refused(
        "namespace = \"a\"\nnamespace = \"b\"\n",
        expect![[r#"
        mesh.toml:2:1: `namespace` is there twice
          2 | namespace = "b"
            | ^^^^^^^^^
        help: remove or rename one of them
    "#]],
    );
}

#[test]
fn a_service_named_twice() {
    refused(
        "[service.web]\ncommand = \"a\"\n\n[service.web]\ncommand = \"b\"\n",
        expect![[r#"
            mesh.toml:4:10: `web` is there twice
              4 | [service.web]
                |          ^^^
            help: remove or rename one of them
        "#]],
    );
    refused(
        "[service.db]\ncommand = \"a\"\n[external.db]\naddress = \"h:1\"\n",
        expect![[r#"
            mesh.toml:3:11: `db` is a service and an external
              3 | [external.db]
                |           ^^
            help: callers could not tell the two apart: rename one of them
        "#]],
    );
}

#[test]
fn unknown_keys_and_the_nearest_known_one() {
    refused(
        "[service.web]\ncomand = \"a\"\n",
        expect![[r#"
            mesh.toml:2:1: unknown key `comand` in service `web`
              2 | comand = "a"
                | ^^^^^^
            help: did you mean `command`? there are `command`, `shell`, `version`, `port`, `app_port`, `ports`, `instances`, `calls`, `env`, `files`, `working_dir`, `restart`, `backoff`, `start_timeout`, `stop_timeout`, `ready`, `live`, `protocol`, `policy` and `capture`
        "#]],
    );
    refused(
        "[services.web]\ncommand = \"a\"\n",
        expect![[r#"
            mesh.toml:1:2: unknown key `services`
              1 | [services.web]
                |  ^^^^^^^^
            help: did you mean `service`? there are `namespace`, `service`, `external`, `policy`, `route`, `record` and `server`
        "#]],
    );
    refused(
        "[service.web]\ncommand = \"a\"\nready = { uri = \"tcp://127.0.0.1:1\" }\n",
        expect![[r#"
            mesh.toml:3:11: unknown key `uri` in `ready` of service `web`
              3 | ready = { uri = "tcp://127.0.0.1:1" }
                |           ^^^
            help: did you mean `url`? there are `url`, `interval`, `timeout` and `threshold`
        "#]],
    );
}

#[test]
fn an_unknown_service_in_calls() {
    refused(
        "[service.web]\ncommand = \"a {port}\"\ncalls = [\"votin\"]\n\
         [service.voting]\ncommand = \"v {port}\"\n",
        expect![[r#"
            mesh.toml:3:10: service `web` calls `votin`, which is not in this file
              3 | calls = ["votin"]
                |          ^^^^^^^
            help: did you mean `voting`? there are `web` and `voting`; what is not started here is declared as [external.votin]
        "#]],
    );
    refused(
        "[service.web]\ncommand = \"a\"\ncalls = [\"web\", \"web\"]\n",
        expect![[r#"
            mesh.toml:3:17: `web` is listed twice in `calls` of service `web`
              3 | calls = ["web", "web"]
                |                 ^^^^^
            help: remove one of them
        "#]],
    );
}

#[test]
fn placeholders_that_cannot_be_filled() {
    refused(
        "[service.web]\ncommand = \"a\"\ncalls = [\"db\"]\nenv = { DB = \"http://{bd}/x\" }\n\
         [external.db]\naddress = \"127.0.0.1:5432\"\n",
        expect![[r#"
            mesh.toml:4:22: service `web`: unknown placeholder `{bd}`
              4 | env = { DB = "http://{bd}/x" }
                |                      ^^^^
            help: did you mean `{db}`? there are `data`, `db`, `env:NAME`, `folder`, `index`, `instance`, `port`, `port:NAME` and `self`; write `{{` for `{` itself
        "#]],
    );
    refused(
        "[service.web]\ncommand = \"a --db {db}\"\n[external.db]\naddress = \"127.0.0.1:5432\"\n",
        expect![[r#"
            mesh.toml:2:19: service `web`: `{db}` names a service that this one does not call
              2 | command = "a --db {db}"
                |                   ^^^^
            help: add `db` to `calls`
        "#]],
    );
}

#[test]
fn ports_out_of_range() {
    refused(
        "[service.web]\ncommand = \"a {port}\"\nport = 65536\n",
        expect![[r#"
        mesh.toml:3:8: `port` of service `web` is 65536
          3 | port = 65536
            |        ^^^^^
        help: it takes a number from 0 to 65535; 0 picks a free port
    "#]],
    );
    refused(
        "[service.web]\ncommand = \"a\"\napp_port = 0\n",
        expect![[r#"
        mesh.toml:3:12: `app_port` of service `web` is 0
          3 | app_port = 0
            |            ^
        help: it takes a number from 1 to 65535, or leave it out and use {port}
    "#]],
    );
    refused(
        "[service.web]\ncommand = \"a {port}\"\nport = \"8080\"\n",
        expect![[r#"
        mesh.toml:3:8: `port` of service `web` is "8080"
          3 | port = "8080"
            |        ^^^^^^
        help: it takes a number from 0 to 65535; 0 picks a free port
    "#]],
    );
    refused(
        "[service.web]\ncommand = \"a\"\ninstances = 2\napp_port = 80\n",
        expect![[r#"
        mesh.toml:4:12: 2 instances of service `web` cannot all listen on `app_port` 80
          4 | app_port = 80
            |            ^^
        help: tell the application its port with {port} and leave `app_port` out, or run one instance
    "#]],
    );
}

#[test]
fn ports_that_two_would_share() {
    refused(
        "[service.web]\ncommand = \"a\"\nport = 80\napp_port = 80\n",
        expect![[r#"
            mesh.toml:1:10: `app_port` of service `web` is 80, and so is `port` of service `web`
              1 | [service.web]
                |          ^^^
            help: callers connect to `port`, the application listens on `app_port`: the two must differ
        "#]],
    );
    refused(
        "[service.web]\ncommand = \"a {port}\"\nport = 80\n\
         [service.api]\ncommand = \"b {port}\"\nports = { http = 80 }\n",
        expect![[r#"
            mesh.toml:4:10: `ports.http` of service `api` is 80, and so is `port` of service `web`
              4 | [service.api]
                |          ^^^
            help: give each its own port, or 0 for any free one
        "#]],
    );
}

#[test]
fn more_services_than_one_machine_could_run() {
    let service = |number| format!("[service.s{number}]\ncommand = \"a\"\n");
    let text: String = (0..=SERVICES_MAX).map(service).collect();
    refused(
        &text,
        expect![[r#"
        mesh.toml:1:1: there are 501 services and externals in it
          1 | [service.s0]
            | ^
        help: it may have 500
    "#]],
    );
}

#[test]
fn commands_that_cannot_run() {
    refused(
        "[service.web]\nport = 80\n",
        expect![[r#"
        mesh.toml:1:10: service `web` has no `command`
          1 | [service.web]
            |          ^^^
        help: `command` takes a command such as "program argument", or an array of program and arguments
    "#]],
    );
    refused(
        "[service.web]\ncommand = \" \"\n",
        expect![[r#"
        mesh.toml:2:11: `command` of service `web` names no program
          2 | command = " "
            |           ^^^
        help: it takes a command such as "program argument", or an array of program and arguments
    "#]],
    );
    refused(
        "[service.web]\ncommand = []\n",
        expect![[r#"
        mesh.toml:2:11: `command` of service `web` names no program
          2 | command = []
            |           ^^
        help: it takes a command such as "program argument", or an array of program and arguments
    "#]],
    );
    refused(
        "[service.web]\ncommand = \"a 'b\"\n",
        expect![[r#"
        mesh.toml:2:11: `command` of service `web` opens a quote ' and does not close it
          2 | command = "a 'b"
            |           ^^^^^^
        help: close the quote, or write the command as an array of words
    "#]],
    );
    refused(
        "[service.web]\ncommand = \"a | b\"\n",
        expect![[r#"
        mesh.toml:2:11: `|` in `command` of service `web` means something to a shell only
          2 | command = "a | b"
            |           ^^^^^^^
        help: set `shell = true` to have a shell run the command, or quote the word
    "#]],
    );
    refused(
        "[service.web]\ncommand = [\"a\"]\nshell = true\n",
        expect![[r#"
        mesh.toml:2:11: `command` of service `web` is an array
          2 | command = ["a"]
            |           ^^^^^
        help: it takes one text when `shell = true`, as a shell would read it
    "#]],
    );
}

#[test]
fn an_application_that_cannot_know_its_port() {
    refused(
        "[service.web]\ncommand = \"a\"\ncalls = [\"db\"]\n[service.db]\ncommand = \"db\"\n",
        expect![[r#"
            mesh.toml:4:10: service `db` cannot know which port to listen on, and `web` calls it
              4 | [service.db]
                |          ^^
            help: put {port} into its `command` or `env`; if its port is hard-wired, say which with `app_port`
        "#]],
    );
    refused(
        "[service.web]\ncommand = \"a\"\nport = 80\n",
        expect![[r#"
        mesh.toml:1:10: service `web` cannot know which port to listen on, and callers are to reach it
          1 | [service.web]
            |          ^^^
        help: put {port} into its `command` or `env`; if its port is hard-wired, say which with `app_port`
    "#]],
    );
}

#[test]
fn checks_that_cannot_be_asked() {
    refused(
        "[service.a]\ncommand = \"a {port}\"\nready = \"https://{self}/\"\n",
        expect![[r#"
        mesh.toml:3:9: `ready` of service `a` is "https://{self}/"
          3 | ready = "https://{self}/"
            |         ^^^^^^^^^^^^^^^^^
        help: it takes "http://{self}/path", "http://127.0.0.1:{port}/path" or "tcp://127.0.0.1:{port}", or a table with `url`
    "#]],
    );
    refused(
        "[service.a]\ncommand = \"a\"\nlive = { interval = \"2s\" }\n",
        expect![[r#"
        mesh.toml:3:8: `live` of service `a` has no `url`
          3 | live = { interval = "2s" }
            |        ^^^^^^^^^^^^^^^^^^^
        help: `url` takes "http://{self}/path" or "tcp://127.0.0.1:{port}"
    "#]],
    );
    refused(
        "[service.a]\ncommand = \"a\"\nlive = { url = \"tcp://127.0.0.1:1\", timeout = 2 }\n",
        expect![[r#"
            mesh.toml:3:47: `timeout` of `live` of service `a` is 2
              3 | live = { url = "tcp://127.0.0.1:1", timeout = 2 }
                |                                               ^
            help: it takes a time such as "250ms", "2s" or "1m", from 1ms to 24h
        "#]],
    );
}

#[test]
fn names_and_words_that_are_not_accepted() {
    refused(
        "[service.Web_1]\ncommand = \"a\"\n",
        expect![[r#"
        mesh.toml:1:10: "Web_1" cannot be the name of a service
          1 | [service.Web_1]
            |          ^^^^^
        help: it takes a name of lower-case letters, digits and `-`, at most 63 long
    "#]],
    );
    refused(
        "[service.self]\ncommand = \"a\"\n",
        expect![[r#"
        mesh.toml:1:10: `self` cannot be the name of a service
          1 | [service.self]
            |          ^^^^
        help: `{self}` is a placeholder already; placeholders have `data`, `env`, `folder`, `index`, `instance`, `port` and `self`
    "#]],
    );
    refused(
        "[service]\nweb = \"a\"\n",
        expect![[r#"
        mesh.toml:2:7: service `web` is not a table
          2 | web = "a"
            |       ^^^
        help: write [service.web] and its keys below
    "#]],
    );
    refused(
        "namespace = \"A\"\n[service.a]\ncommand = \"a\"\n",
        expect![[r#"
        mesh.toml:1:13: `namespace` is "A"
          1 | namespace = "A"
            |             ^^^
        help: it takes a name of lower-case letters, digits and `-`, at most 63 long
    "#]],
    );
    refused(
        "[service.a]\ncommand = \"a\"\nrestart = \"sometimes\"\n",
        expect![[r#"
        mesh.toml:3:11: `restart` of service `a` is "sometimes"
          3 | restart = "sometimes"
            |           ^^^^^^^^^^^
        help: it takes one of "always", "on-failure" and "never"
    "#]],
    );
    refused(
        "[service.a]\ncommand = \"a\"\nprotocol = \"http3\"\n",
        expect![[r#"
        mesh.toml:3:12: `protocol` of service `a` is "http3"
          3 | protocol = "http3"
            |            ^^^^^^^
        help: it takes one of "detect", "http1", "http2", "grpc" and "opaque"
    "#]],
    );
    refused(
        "[service.a]\ncommand = \"a\"\nbackoff = \"soon\"\n",
        expect![[r#"
        mesh.toml:3:11: `backoff` of service `a` is "soon"
          3 | backoff = "soon"
            |           ^^^^^^
        help: it takes a time such as "250ms", "2s" or "1m", from 1ms to 24h
    "#]],
    );
    refused(
        "[service.a]\ncommand = \"a\"\nenv = { A = 1 }\n",
        expect![[r#"
        mesh.toml:3:13: `env.A` of service `a` is 1
          3 | env = { A = 1 }
            |             ^
        help: it takes a text, in quotes
    "#]],
    );
    refused(
        "[external.db]\naddress = \"db\"\n[service.a]\ncommand = \"a\"\n",
        expect![[r#"
        mesh.toml:2:11: `address` of external `db` is "db"
          2 | address = "db"
            |           ^^^^
        help: it takes HOST:PORT, such as "127.0.0.1:5432" or "db.example.com:5432"
    "#]],
    );
    refused(
        "[server]\nlisten = \"0.0.0.0:1\"\n[service.a]\ncommand = \"a\"\n",
        expect![[r#"
        mesh.toml:2:10: `listen` of [server] is "0.0.0.0:1"
          2 | listen = "0.0.0.0:1"
            |          ^^^^^^^^^^^
        help: it takes an address of this machine only, such as "127.0.0.1:7070"
    "#]],
    );
    refused(
        "[record]\nbuffer = \"1\"\n[service.a]\ncommand = \"a\"\n",
        expect![[r#"
        mesh.toml:2:10: `buffer` of [record] is "1"
          2 | buffer = "1"
            |          ^^^
        help: it takes a size such as "6MiB", from 64KiB to 1GiB
    "#]],
    );
    refused(
        "",
        expect![[r#"
            mesh.toml:1:1: there is no service in it
            help: add one: [service.web] with command = "PROGRAM ARGUMENT …"
        "#]],
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let error = load(Path::new("/nowhere/mesh.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("/nowhere/mesh.toml: cannot read it: No such file"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.toml");
    std::fs::write(
        &path,
        vec![b'#'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1],
    )
    .unwrap();
    let error = load(&path).unwrap_err().to_string();
    assert!(error.contains("more than the 1048576 allowed"), "{error}");
    std::fs::write(&path, b"[service.a]\ncommand = \"\xffa\"\n").unwrap();
    let error = load(&path).unwrap_err().to_string();
    assert!(
        error.ends_with(":2:12: the byte 0xff is not UTF-8\nhelp: save the file as UTF-8"),
        "{error}"
    );
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(
        error.ends_with("help: name the mesh file with `-f FILE`"),
        "{error}"
    );
}

#[test]
fn relative_paths_start_from_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.toml");
    std::fs::write(&path, "[service.a]\ncommand = \"a\"\n").unwrap();
    let mesh = load(&path).unwrap();
    assert_eq!(mesh.folder, folder.path());
    assert_eq!(mesh.default_name(), "shop");
}

/// Keys that a section of the reference describes: those at the start of its table rows.
fn documented(document: &str, section: &str) -> Vec<String> {
    let heading = format!("## `{section}`");
    let plain = format!("## {section}");
    document
        .lines()
        .skip_while(|line| **line != *heading && **line != *plain)
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| {
            line.strip_prefix("| `")?
                .split('`')
                .next()
                .map(str::to_owned)
        })
        .collect()
}

#[test]
fn the_reference_describes_every_key_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let document = std::fs::read_to_string(root.join("docs/mesh-toml.md")).unwrap();
    for (section, keys) in SECTIONS {
        let mut described = documented(&document, section);
        let mut keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        described.sort_unstable();
        keys.sort_unstable();
        assert_eq!(described, keys, "section {section} of docs/mesh-toml.md");
    }
    let sections = document
        .lines()
        .filter(|line| line.starts_with("## "))
        .count();
    assert!(sections >= SECTIONS.len());
}

/// Returns the first block of a language.
fn block<'a>(document: &'a str, language: &str) -> &'a str {
    let (_, rest) = document.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```\n").unwrap().0
}

#[test]
fn the_reference_shows_a_file_and_an_error_as_they_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let document = std::fs::read_to_string(root.join("docs/mesh-toml.md")).unwrap();
    let file = block(&document, "toml");
    assert_eq!(good(file).services.len(), 2);
    let calls = file.lines().find(|line| line.starts_with("calls")).unwrap();
    let broken = file.replace(calls, "calls = [\"db\", \"stok\"]");
    let error = parse(&broken, Path::new("mesh.toml")).unwrap_err();
    assert_eq!(format!("{error}\n"), block(&document, "text"));
}

#[test]
fn the_files_of_the_examples_are_accepted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut checked = 0;
    for example in std::fs::read_dir(root).unwrap() {
        let file = example.unwrap().path().join("mesh.toml");
        if file.exists() {
            load(&file).unwrap_or_else(|error| panic!("{error}"));
            checked += 1;
        }
    }
    assert!(checked >= 2, "{checked} examples");
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        if let Err(error) = parse(&text, Path::new("mesh.toml")) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn no_file_of_odd_values_panics(
        key in prop::sample::select(
            SECTIONS.iter().flat_map(|(_, keys)| keys.iter().copied()).collect::<Vec<_>>()
        ),
        value in prop::sample::select(vec![
            "1", "-1", "0x10", "1.5", "true", "\"\"", "\"{\"", "\"a b\"", "[]", "[[]]", "[1]",
            "[\"\"]", "{}", "{ a = 1 }", "{ url = 1 }", "1979-05-27", "\"http://\"", "[{}]",
            "99999999999999999999",
        ]),
        table in prop::sample::select(vec!["", "[service.a]\n", "[record]\n", "[external.b]\n"]),
    ) {
        let text = format!("{table}{key} = {value}\n[service.z]\ncommand = \"z\"\n");
        let _ = parse(&text, Path::new("mesh.toml"));
    }
}
