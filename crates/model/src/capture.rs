//! Redirecting what an application sends and gets to the proxy beside it, on Linux.
//!
//! The rules are a text for `nft -f`. They hold for one network namespace, whoever set that
//! up: the namespace of a pod or of a local instance.

use std::fmt::Write as _;
use std::net::SocketAddr;

/// Name of the `inet` table that holds all the rules, and nothing else.
pub const TABLE: &str = "whodunit";

/// User id that proxies run under where their connections are told by it.
pub const PROXY_UID: u32 = 2_102;

/// Port that connections of applications are redirected to.
pub const OUTBOUND_PORT: u16 = 4_140;

/// Port that connections to applications are redirected to.
pub const INBOUND_PORT: u16 = 4_143;

/// What is redirected where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Whose connections are left alone: the proxy's.
    pub proxy_uid: u32,
    /// Where the proxy takes connections to the application.
    pub inbound_port: u16,
    /// Where the proxy takes connections of the application.
    pub outbound_port: u16,
    /// Ports of the application with a listener of their own, and where that listens.
    pub inbound_listeners: Vec<(u16, u16)>,
    /// Addresses of services with a listener of their own, and where that listens.
    pub outbound_listeners: Vec<(SocketAddr, u16)>,
    /// Ports of the application that clients reach directly.
    pub skip_inbound: Vec<u16>,
    /// Ports of others that the application reaches directly.
    pub skip_outbound: Vec<u16>,
}

impl Default for Redirect {
    fn default() -> Self {
        Self {
            proxy_uid: PROXY_UID,
            inbound_port: INBOUND_PORT,
            outbound_port: OUTBOUND_PORT,
            inbound_listeners: Vec::new(),
            outbound_listeners: Vec::new(),
            skip_inbound: Vec::new(),
            skip_outbound: Vec::new(),
        }
    }
}

impl Redirect {
    /// Returns the rules, as `nft -f` reads them. Loading them twice is the same as once;
    /// `delete table inet whodunit` takes all of them away.
    ///
    /// What stays on the loopback interface is left alone, with one exception: a proxy that
    /// calls its own instance by an address of the machine goes through its inbound side as any
    /// other caller does. It reaches the application from a loopback address, which is not
    /// redirected again.
    #[must_use]
    pub fn ruleset(&self) -> String {
        let Self {
            proxy_uid,
            inbound_port,
            outbound_port,
            ..
        } = self;
        let mut to_proxy = skip(&self.skip_inbound);
        for (port, listener) in &self.inbound_listeners {
            // Writing to a string cannot fail.
            let _ = writeln!(to_proxy, "\t\ttcp dport {port} redirect to :{listener}");
        }
        let mut from_proxy = skip(&self.skip_outbound);
        for (service, listener) in &self.outbound_listeners {
            let family = if service.is_ipv4() { "ip" } else { "ip6" };
            let (address, port) = (service.ip(), service.port());
            let _ = writeln!(
                from_proxy,
                "\t\t{family} daddr {address} tcp dport {port} redirect to :{listener}"
            );
        }
        let own = format!("meta skuid {proxy_uid} oifname \"lo\"");
        format!(
            "table inet {TABLE}\n\
             delete table inet {TABLE}\n\
             table inet {TABLE} {{\n\
             \tchain hairpin {{\n\
             {to_proxy}\
             \t\tmeta l4proto tcp redirect to :{inbound_port}\n\
             \t}}\n\
             \tchain outbound {{\n\
             \t\ttype nat hook output priority -100; policy accept;\n\
             \t\tmeta l4proto != tcp accept\n\
             \t\t{own} ip saddr != 127.0.0.0/8 ip daddr != 127.0.0.0/8 jump hairpin\n\
             \t\t{own} ip6 saddr != ::1 ip6 daddr != ::1 jump hairpin\n\
             \t\tmeta skuid {proxy_uid} accept\n\
             \t\toifname \"lo\" accept\n\
             {from_proxy}\
             \t\tmeta l4proto tcp redirect to :{outbound_port}\n\
             \t}}\n\
             \tchain inbound {{\n\
             \t\ttype nat hook prerouting priority -100; policy accept;\n\
             \t\tmeta l4proto != tcp accept\n\
             {to_proxy}\
             \t\tmeta l4proto tcp redirect to :{inbound_port}\n\
             \t}}\n\
             }}\n"
        )
    }
}

/// Returns the rule that lets ports be.
fn skip(ports: &[u16]) -> String {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    let mut rule = String::new();
    for (at, port) in ports.iter().enumerate() {
        let before = if at == 0 { "\t\ttcp dport { " } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(rule, "{before}{port}");
    }
    if !rule.is_empty() {
        rule.push_str(" accept\n");
        rule = rule.replace(" accept", " } accept");
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_a_pod() {
        let redirect = Redirect {
            skip_inbound: vec![9_090, 22, 22],
            skip_outbound: vec![443],
            inbound_listeners: vec![(8_080, 20_001)],
            outbound_listeners: vec![(([198, 18, 128, 1], 80).into(), 20_002)],
            ..Redirect::default()
        };
        let expected = "\
table inet whodunit
delete table inet whodunit
table inet whodunit {
\tchain hairpin {
\t\ttcp dport { 22, 9090 } accept
\t\ttcp dport 8080 redirect to :20001
\t\tmeta l4proto tcp redirect to :4143
\t}
\tchain outbound {
\t\ttype nat hook output priority -100; policy accept;
\t\tmeta l4proto != tcp accept
\t\tmeta skuid 2102 oifname \"lo\" ip saddr != 127.0.0.0/8 ip daddr != 127.0.0.0/8 jump hairpin
\t\tmeta skuid 2102 oifname \"lo\" ip6 saddr != ::1 ip6 daddr != ::1 jump hairpin
\t\tmeta skuid 2102 accept
\t\toifname \"lo\" accept
\t\ttcp dport { 443 } accept
\t\tip daddr 198.18.128.1 tcp dport 80 redirect to :20002
\t\tmeta l4proto tcp redirect to :4140
\t}
\tchain inbound {
\t\ttype nat hook prerouting priority -100; policy accept;
\t\tmeta l4proto != tcp accept
\t\ttcp dport { 22, 9090 } accept
\t\ttcp dport 8080 redirect to :20001
\t\tmeta l4proto tcp redirect to :4143
\t}
}
";
        assert_eq!(redirect.ruleset(), expected);
        assert!(!Redirect::default().ruleset().contains("dport"));
    }
}
