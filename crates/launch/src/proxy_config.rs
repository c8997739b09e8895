//! Writes the configuration of the proxy beside one instance.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;
use whodunit_model::Protocol;

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
    direction: &'static str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Control {
    pub(crate) server: SocketAddr,
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

impl Listener {
    /// Where callers of the instance connect; `forward` is the application.
    pub(crate) fn inbound(
        name: String,
        listen: SocketAddr,
        protocol: Option<Protocol>,
        forward: SocketAddr,
    ) -> Self {
        let protocol = word(protocol);
        let forward = Some(forward);
        Self {
            name,
            listen,
            direction: "inbound",
            protocol,
            forward,
            service: None,
        }
    }

    /// Where the application connects to reach `service`.
    pub(crate) fn outbound(
        name: String,
        listen: SocketAddr,
        protocol: Option<Protocol>,
        service: String,
    ) -> Self {
        let protocol = word(protocol);
        let service = Some(service);
        Self {
            name,
            listen,
            direction: "outbound",
            protocol,
            forward: None,
            service,
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
                ),
            ],
            control: Control {
                server: local(7_071),
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

            [control]
            server = "127.0.0.1:7071"

            [record]
            mode = "send"
            server = "127.0.0.1:7071"
            key_file = "/data/run/redaction.key"

            [capture]
            query = ["choice"]
            headers = []

            [shutdown]
            grace_ms = 3000
        "#]]
        .assert_eq(&config.to_text().unwrap());
    }
}
