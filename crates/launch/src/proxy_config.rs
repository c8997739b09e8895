//! Writes the configuration of the proxy beside one instance.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;
use whodunit_model::Protocol;
use whodunit_model::route_rule::{PathMatch, RouteRule, Timeouts};

/// `proxy.toml`, key by key.
#[derive(Debug, Serialize)]
pub(crate) struct ProxyConfig {
    pub(crate) workload: Workload,
    pub(crate) admin: Admin,
    pub(crate) listener: Vec<Listener>,
    pub(crate) control: Control,
    pub(crate) record: Record,
    pub(crate) capture: Capture,
    pub(crate) shutdown: Shutdown,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<Policy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Identity>,
}

/// What holds until the server was heard, which then knows more.
#[derive(Debug, Serialize)]
pub(crate) struct Policy {
    pub(crate) default: &'static str,
    pub(crate) watch: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) instance: String,
    pub(crate) version: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Admin {
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Serialize)]
pub(crate) struct Listener {
    name: String,
    listen: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    direction: &'static str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    route: Vec<Route>,
}

/// What holds for some of the requests of a listener.
#[derive(Debug, Serialize)]
struct Route {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_template: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    timeout: Timeouts,
    retry: Retry,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    split: Vec<Weighted>,
}

#[derive(Debug, Serialize)]
struct Retry {
    attempts: u8,
    on: Vec<String>,
    non_idempotent: bool,
}

#[derive(Debug, Serialize)]
struct Weighted {
    service: String,
    namespace: String,
    weight: u32,
}

impl Route {
    fn new(rule: &RouteRule) -> Self {
        let (mut path, mut path_prefix, mut path_template) = (None, None, None);
        match &rule.matches.path {
            PathMatch::Any => {}
            PathMatch::Exact(text) => path = Some(text.clone()),
            PathMatch::Prefix(text) => path_prefix = Some(text.clone()),
            PathMatch::Template(text) => path_template = Some(text.clone()),
        }
        let grpc = rule.matches.grpc.as_ref().map(|grpc| match &grpc.method {
            Some(method) => format!("{}/{method}", grpc.service),
            None => grpc.service.clone(),
        });
        let split = rule.split.iter().map(|weighted| Weighted {
            service: weighted.service.name.clone(),
            namespace: weighted.service.namespace.clone(),
            weight: weighted.weight,
        });
        Self {
            name: rule.name.clone(),
            method: rule.matches.method.clone(),
            path,
            path_prefix,
            path_template,
            grpc,
            timeout: rule.timeouts,
            retry: Retry {
                attempts: rule.retries.attempts_max,
                on: rule.retries.on.iter().map(ToString::to_string).collect(),
                non_idempotent: rule.retries.non_idempotent,
            },
            split: split.collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Control {
    pub(crate) server: SocketAddr,
    pub(crate) routes: bool,
    pub(crate) snapshot: PathBuf,
}

#[derive(Debug, Serialize)]
pub(crate) struct Record {
    pub(crate) mode: &'static str,
    pub(crate) server: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) buffer_bytes: Option<u64>,
    pub(crate) key_file: PathBuf,
}

#[derive(Debug, Serialize)]
pub(crate) struct Capture {
    pub(crate) query: Vec<String>,
    pub(crate) headers: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Shutdown {
    pub(crate) grace_ms: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Identity {
    pub(crate) server: SocketAddr,
    pub(crate) token_file: PathBuf,
    pub(crate) state_file: PathBuf,
    pub(crate) trust_anchors: PathBuf,
}

impl Listener {
    /// Where connections are redirected to that go to no other listener.
    pub(crate) fn redirected(direction: &'static str, listen: SocketAddr) -> Self {
        Self {
            name: format!("redirected-{direction}"),
            listen,
            port: None,
            direction,
            protocol: word(None),
            forward: Some("original-dst".to_owned()),
            service: None,
            route: vec![],
        }
    }

    /// Says by which port clients know an inbound listener that they are redirected to.
    pub(crate) fn known_as(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Where callers of the instance connect; `forward` is the application.
    pub(crate) fn inbound(
        name: String,
        listen: SocketAddr,
        protocol: Option<Protocol>,
        forward: SocketAddr,
    ) -> Self {
        let protocol = word(protocol);
        let forward = Some(forward.to_string());
        Self {
            name,
            listen,
            port: None,
            direction: "inbound",
            protocol,
            forward,
            service: None,
            route: vec![],
        }
    }

    /// Where the application connects to reach `service`.
    pub(crate) fn outbound(
        name: String,
        listen: SocketAddr,
        protocol: Option<Protocol>,
        service: String,
        routes: &[RouteRule],
    ) -> Self {
        let protocol = word(protocol);
        let service = Some(service);
        Self {
            name,
            listen,
            port: None,
            direction: "outbound",
            protocol,
            forward: None,
            service,
            route: routes.iter().map(Route::new).collect(),
        }
    }
}

impl ProxyConfig {
    /// Returns the text of the file.
    pub(crate) fn to_text(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

fn word(protocol: Option<Protocol>) -> &'static str {
    match protocol {
        None => "detect",
        Some(Protocol::Http1) => "http1",
        Some(Protocol::Http2) => "http2",
        Some(Protocol::Grpc) => "grpc",
        Some(Protocol::Tcp) => "opaque",
    }
}

#[cfg(test)]
mod tests {
    use crate::ports::local;

    use super::*;

    #[test]
    fn the_file_has_the_keys_that_a_proxy_knows() {
        let text = |text: &str| text.to_owned();
        let config = ProxyConfig {
            workload: Workload {
                namespace: text("emojivoto"),
                name: text("web"),
                instance: text("web-0"),
                version: text("v1"),
            },
            admin: Admin {
                listen: local(20_003),
            },
            listener: vec![
                Listener::inbound(text("web-in"), local(8_080), None, local(20_001)),
                Listener::outbound(
                    text("to-voting"),
                    local(20_002),
                    Some(Protocol::Grpc),
                    text("voting"),
                    &[RouteRule {
                        name: text("voting"),
                        ..RouteRule::default()
                    }],
                ),
            ],
            control: Control {
                server: local(7_071),
                routes: true,
                snapshot: PathBuf::from("/data/run/web-0.snapshot"),
            },
            record: Record {
                mode: "send",
                server: local(7_071),
                buffer_bytes: None,
                key_file: PathBuf::from("/data/run/redaction.key"),
            },
            capture: Capture {
                query: vec![text("choice")],
                headers: vec![],
            },
            shutdown: Shutdown { grace_ms: 3_000 },
            policy: Some(Policy {
                default: "deny",
                watch: true,
            }),
            identity: Some(Identity {
                server: local(7_071),
                token_file: PathBuf::from("/data/run/web-0.token"),
                state_file: PathBuf::from("/data/run/web-0.pem"),
                trust_anchors: PathBuf::from("/data/identity/anchors.pem"),
            }),
        };
        expect_test::expect![[r#"
            [workload]
            namespace = "emojivoto"
            name = "web"
            instance = "web-0"
            version = "v1"

            [admin]
            listen = "127.0.0.1:20003"

            [[listener]]
            name = "web-in"
            listen = "127.0.0.1:8080"
            direction = "inbound"
            protocol = "detect"
            forward = "127.0.0.1:20001"

            [[listener]]
            name = "to-voting"
            listen = "127.0.0.1:20002"
            direction = "outbound"
            protocol = "grpc"
            service = "voting"

            [[listener.route]]
            name = "voting"

            [listener.route.timeout]

            [listener.route.retry]
            attempts = 3
            on = ["connect_refused", "connect_timeout", "reset", "closed_early"]
            non_idempotent = false

            [control]
            server = "127.0.0.1:7071"
            routes = true
            snapshot = "/data/run/web-0.snapshot"

            [record]
            mode = "send"
            server = "127.0.0.1:7071"
            key_file = "/data/run/redaction.key"

            [capture]
            query = ["choice"]
            headers = []

            [shutdown]
            grace_ms = 3000

            [policy]
            default = "deny"
            watch = true

            [identity]
            server = "127.0.0.1:7071"
            token_file = "/data/run/web-0.token"
            state_file = "/data/run/web-0.pem"
            trust_anchors = "/data/identity/anchors.pem"
        "#]]
        .assert_eq(&config.to_text().unwrap());
    }
}
