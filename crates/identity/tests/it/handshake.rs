//! Handshakes between two sides of ours, in memory.

use std::sync::Arc;

use whodunit_identity::rustls::pki_types::ServerName;
use whodunit_identity::rustls::{
    ClientConnection, Error, NamedGroup, ProtocolVersion, ServerConnection,
};
use whodunit_identity::{Credentials, Tls, TrustAnchors, refusal_of};

use crate::mint::{self, Ca, Minted};

fn tls(anchor: &Ca, minted: &Minted) -> Tls {
    let credentials =
        Credentials::from_pem(minted.pem().as_bytes(), minted.key_pem.as_bytes()).unwrap();
    let anchors = TrustAnchors::from_pem(anchor.pem.as_bytes()).unwrap();
    Tls::new(&credentials, Arc::new(anchors)).unwrap()
}

type Pair = (ClientConnection, ServerConnection);

/// Shakes hands; an error is the first that a side finds.
fn shake(client: &Tls, server: &Tls) -> Result<Pair, Error> {
    let name = ServerName::try_from("web.test").unwrap();
    let mut client = ClientConnection::new(client.client.clone(), name)?;
    let mut server = ServerConnection::new(server.server.clone())?;
    let mut bytes = Vec::new();
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        bytes.clear();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut read = bytes.as_slice();
        while !read.is_empty() {
            server.read_tls(&mut read).unwrap();
            server.process_new_packets()?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut read = bytes.as_slice();
        while !read.is_empty() {
            client.read_tls(&mut read).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok((client, server))
}

#[test]
fn both_sides_learn_the_other_over_tls_1_3_with_a_hybrid_key_exchange() {
    let anchor = mint::anchor("anchor");
    let (web, voting) = (
        mint::workload(&anchor, "web"),
        mint::workload(&anchor, "voting"),
    );
    let (client, server) = shake(&tls(&anchor, &web), &tls(&anchor, &voting)).unwrap();
    let seen = Tls::peer(server.peer_certificates()).unwrap();
    assert_eq!(&*seen.identity, "spiffe://test/ns/shop/sa/web");
    let seen = Tls::peer(client.peer_certificates()).unwrap();
    assert_eq!(&*seen.identity, "spiffe://test/ns/shop/sa/voting");
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = client
        .negotiated_key_exchange_group()
        .map(|group| group.name());
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(client.tls13_tickets_received(), 0);
}

#[test]
fn bad_certificates_end_the_handshake_whichever_side_shows_them() {
    let anchor = mint::anchor("anchor");
    let good = tls(&anchor, &mint::workload(&anchor, "web"));
    let mut shaken = 0;
    for case in mint::bad(&anchor) {
        // Some are not even taken as one's own.
        let Ok(own) = Credentials::from_der(case.minted.chain.clone(), case.minted.key.clone())
        else {
            continue;
        };
        let anchors = Arc::new(TrustAnchors::from_pem(anchor.pem.as_bytes()).unwrap());
        let bad = Tls::new(&own, anchors).unwrap();
        if own
            .leaf()
            .is_ok_and(|leaf| leaf.trust_domain.as_deref() == Some("other"))
        {
            // Which of the two is in the wrong domain depends on who is asked.
            assert!(shake(&bad, &good).is_err());
            continue;
        }
        let error = shake(&bad, &good).map(|_| ()).expect_err(case.name);
        assert!(refusal_of(&error).is_some(), "{}: {error:?}", case.name);
        let error = shake(&good, &bad).map(|_| ()).expect_err(case.name);
        assert!(refusal_of(&error).is_some(), "{}: {error:?}", case.name);
        shaken += 1;
    }
    assert!(shaken >= 35, "{shaken}");
}

#[test]
fn a_key_of_another_certificate_is_not_taken() {
    let anchor = mint::anchor("anchor");
    let (web, other) = (
        mint::workload(&anchor, "web"),
        mint::workload(&anchor, "web"),
    );
    let wrong = Credentials::from_pem(web.pem().as_bytes(), other.key_pem.as_bytes());
    assert!(wrong.unwrap_err().to_string().contains("does not fit"));
    for junk in ["", "-----BEGIN CERTIFICATE-----\n", "junk"] {
        assert!(Credentials::from_pem(junk.as_bytes(), web.key_pem.as_bytes()).is_err());
        assert!(Credentials::from_pem(web.pem().as_bytes(), junk.as_bytes()).is_err());
        assert!(TrustAnchors::from_pem(junk.as_bytes()).is_err());
    }
}

#[test]
fn a_client_that_asks_for_another_does_not_mean_us() {
    let anchor = mint::anchor("anchor");
    let web = tls(&anchor, &mint::workload(&anchor, "web"));
    assert!(web.is_for_us(None));
    assert!(web.is_for_us(Some("web.shop.serviceaccount.identity.whodunit.test")));
    assert!(web.is_for_us(Some("WEB.shop.serviceaccount.identity.whodunit.test")));
    assert!(web.is_for_us(Some("voting.shop.serviceaccount.identity.whodunit.test")));
    assert!(!web.is_for_us(Some("web.shop.serviceaccount.identity.whodunit.elsewhere")));
    assert!(!web.is_for_us(Some("db.example")));
}
