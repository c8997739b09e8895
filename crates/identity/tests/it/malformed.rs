//! Certificates that must be refused, whichever side shows them.

use std::time::Duration;

use rcgen::{ExtendedKeyUsagePurpose, SubjectPublicKeyInfo};
use time::OffsetDateTime;
use whodunit_identity::rustls::pki_types::{CertificateDer, UnixTime};
use whodunit_identity::{Leaf, Refused, TrustAnchors, Use};

use crate::mint::{self, Ca, Minted, WEB, WEB_DNS, dns, leaf, leaf_params, uri};

fn verify(anchor: &Ca, minted: &Minted, side: Use) -> Result<Leaf, Refused> {
    let anchors = TrustAnchors::from_pem(anchor.pem.as_bytes()).unwrap();
    let chain: Vec<CertificateDer<'_>> = minted
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    anchors.verify(&chain, side, UnixTime::now(), Some("test"))
}

#[test]
fn every_bad_certificate_is_refused_on_both_sides() {
    let anchor = mint::anchor("anchor");
    let bad = mint::bad(&anchor);
    assert!(bad.len() >= 45, "{}", bad.len());
    for case in bad {
        for side in [Use::Client, Use::Server] {
            let verified = verify(&anchor, &case.minted, side);
            assert!(verified.is_err(), "{}: {verified:?}", case.name);
        }
    }
}

#[test]
fn reasons_are_told_apart() {
    let anchor = mint::anchor("anchor");
    let bad = mint::bad(&anchor);
    let check = |name: &str, expected: fn(&Refused) -> bool| {
        let case = bad.iter().find(|case| case.name == name).unwrap();
        let refused = verify(&anchor, &case.minted, Use::Client).unwrap_err();
        assert!(expected(&refused), "{name}: {refused:?}");
    };
    check("no names", |r| *r == Refused::NoIdentity);
    check("two URIs", |r| *r == Refused::ManyIdentities);
    check("two DNS names", |r| *r == Refused::ManyIdentities);
    check("URI and DNS name of others", |r| {
        *r == Refused::ManyIdentities
    });
    check("a query", |r| matches!(r, Refused::BadName(_)));
    check("a wildcard", |r| matches!(r, Refused::BadName(_)));
    check("another trust domain", |r| {
        matches!(r, Refused::TrustDomain { .. })
    });
    check("expired", |r| *r == Refused::Expired);
    check("not yet valid", |r| *r == Refused::NotYetValid);
    check("a leaf that is a CA", |r| *r == Refused::Authority);
    check("for code signing", |r| *r == Refused::Purpose);
    check("an unknown anchor, shown", |r| *r == Refused::UnknownIssuer);
    check("signed by itself", |r| *r == Refused::UnknownIssuer);
    check("an issuer that is no CA", |r| *r == Refused::Issuer);
    check("an issuer that may not sign", |r| *r == Refused::Issuer);
    check("40 issuers", |r| *r == Refused::LongChain(41));
    check("a DNS name its issuer may not sign", |r| {
        *r == Refused::NameConstraint
    });
    check("names that cannot be read", |r| *r == Refused::Malformed);
    check("a byte too many", |r| *r == Refused::Malformed);
}

#[test]
fn good_certificates_are_taken() {
    let anchor = mint::anchor("anchor");
    let both = leaf(&anchor, &leaf_params(&[uri(WEB), dns(WEB_DNS)]), &[]);
    let taken = verify(&anchor, &both, Use::Client).unwrap();
    assert_eq!(&*taken.identity, WEB);
    assert_eq!(taken.trust_domain.as_deref(), Some("test"));
    // As Linkerd has it: a DNS name and no URI.
    let linkerd = leaf(&anchor, &leaf_params(&[dns(WEB_DNS)]), &[]);
    let taken = verify(&anchor, &linkerd, Use::Server).unwrap();
    assert_eq!(&*taken.identity, WEB_DNS);
    // With two issuers, and the anchor shown as well.
    let first = mint::intermediate(&anchor, mint::ca_params("first"));
    let second = mint::intermediate(&first, mint::ca_params("second"));
    let deep = leaf(
        &second,
        &leaf_params(&[uri(WEB)]),
        &[&second, &first, &anchor],
    );
    assert_eq!(&*verify(&anchor, &deep, Use::Client).unwrap().identity, WEB);
    // A clock that is 20 s behind the issuer's.
    let mut params = leaf_params(&[uri(WEB)]);
    params.not_before = OffsetDateTime::now_utc() + Duration::from_secs(15);
    verify(&anchor, &leaf(&anchor, &params, &[]), Use::Client).unwrap();
}

#[test]
fn a_certificate_for_one_side_is_not_taken_on_the_other() {
    let anchor = mint::anchor("anchor");
    let mut params = leaf_params(&[uri(WEB)]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server = leaf(&anchor, &params, &[]);
    verify(&anchor, &server, Use::Server).unwrap();
    assert_eq!(verify(&anchor, &server, Use::Client), Err(Refused::Purpose));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client = leaf(&anchor, &params, &[]);
    assert_eq!(verify(&anchor, &client, Use::Server), Err(Refused::Purpose));
}

/// The public half of an RSA key of 1,024 bits, as SubjectPublicKeyInfo.
const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDgeVpF+RfOrJra2ZsyK7j9LqYm
lEnKqcD0N17+OZhnz5vj6aZtvjiXo8X4xugKQ6rUDXnJx633BEDTzk6oRNfJh0bq
Qgj2Z4B0BT8ZR+4mzlrxaRl4WrnWgKx5QCiZppl/KRSPN+6wABZqOk4T92W6/J7l
zqPzKI4pdr6F1fZ5jQIDAQAB
-----END PUBLIC KEY-----
";

#[test]
fn short_keys_and_old_hashes_are_refused() {
    let anchor = mint::anchor("anchor");
    let key = SubjectPublicKeyInfo::from_pem(RSA_1024).unwrap();
    let params = leaf_params(&[uri(WEB)]);
    let short = params.signed_by(&key, &anchor.issuer).unwrap();
    let mut minted = Minted {
        chain: vec![short.der().to_vec()],
        key: vec![],
        key_pem: String::new(),
    };
    assert_eq!(
        verify(&anchor, &minted, Use::Client),
        Err(Refused::ShortKey(1_024))
    );
    // SHA-1 in place of SHA-256 in the two names of an RSA signature's algorithm, which have
    // the same length. It is refused for the algorithm, before the signature is looked at.
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
        .unwrap();
    let ca = mint::ca_params("rsa");
    let certificate = ca.self_signed(&rsa).unwrap();
    let anchor = Ca {
        der: certificate.der().to_vec(),
        pem: certificate.pem(),
        issuer: rcgen::Issuer::new(ca, rsa),
    };
    let good = leaf(&anchor, &params, &[]);
    verify(&anchor, &good, Use::Client).unwrap();
    const SHA256_WITH_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
    minted.chain = good.chain;
    let der = &mut minted.chain[0];
    let places: Vec<usize> = (0..der.len() - 9)
        .filter(|at| der[*at..].starts_with(&SHA256_WITH_RSA))
        .collect();
    assert_eq!(places.len(), 2);
    for at in places {
        der[at + 8] = 0x05;
    }
    let refused = verify(&anchor, &minted, Use::Client).unwrap_err();
    assert!(
        matches!(&refused, Refused::Invalid(why) if why.contains("nsupported")),
        "{refused:?}"
    );
}

#[test]
fn junk_never_panics() {
    let anchor = mint::anchor("anchor");
    let good = leaf(&anchor, &leaf_params(&[uri(WEB), dns(WEB_DNS)]), &[]);
    for at in 0..good.chain[0].len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut minted = good.clone();
            minted.chain[0][at] ^= flip;
            assert!(verify(&anchor, &minted, Use::Client).is_err(), "{at}");
        }
        let mut minted = good.clone();
        minted.chain[0].truncate(at);
        assert!(verify(&anchor, &minted, Use::Client).is_err(), "{at}");
    }
}
