//! Certificates for proxies that prove whom they stand beside.

use tonic::{Code, Request};
use whodunit_control::identity::Identities;
use whodunit_identity::rustls::pki_types::{CertificateDer, UnixTime};
use whodunit_identity::token::Subject;
use whodunit_identity::{Authority, Lifetimes, TrustAnchors, Use, request};
use whodunit_wire::linkerd::identity::CertifyRequest;
use whodunit_wire::linkerd::identity::identity_server::Identity as _;

#[tokio::test]
async fn a_token_gets_a_certificate_of_its_own_name_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("identity");
    let identities = Identities::open(&dir, Lifetimes::default()).unwrap();
    let authority = Authority::open(&dir, "local", Lifetimes::default(), 0).unwrap();
    let token = authority.token_key().issue(&Subject {
        namespace: "shop".to_owned(),
        account: "web".to_owned(),
        instance: "web-0".to_owned(),
    });
    let ask = |identity: &str, token: &str, csr: Vec<u8>| CertifyRequest {
        identity: identity.to_owned(),
        token: token.as_bytes().to_vec(),
        certificate_signing_request: csr,
    };
    let csr = request::fresh().unwrap().csr;
    // Whatever name is asked for, the token's is certified.
    let asked = ask("spiffe://local/ns/shop/sa/bank", &token, csr.clone());
    let answer = identities.certify(Request::new(asked)).await.unwrap();
    let answer = answer.into_inner();
    let mut chain = vec![CertificateDer::from(answer.leaf_certificate)];
    chain.extend(
        answer
            .intermediate_certificates
            .into_iter()
            .map(CertificateDer::from),
    );
    let anchors = std::fs::read(dir.join("anchors.pem")).unwrap();
    let anchors = TrustAnchors::from_pem(&anchors).unwrap();
    let leaf = anchors.verify(&chain, Use::Server, UnixTime::now(), Some("local"));
    let leaf = leaf.unwrap();
    assert_eq!(&*leaf.identity, "spiffe://local/ns/shop/sa/web");
    assert_eq!(answer.valid_until.unwrap().seconds, leaf.not_after_s);

    let forged = token.replace("/web/", "/bank/");
    for (token, csr, code) in [
        (forged.as_str(), csr.clone(), Code::PermissionDenied),
        ("", csr.clone(), Code::PermissionDenied),
        (token.as_str(), b"junk".to_vec(), Code::InvalidArgument),
    ] {
        let refused = identities.certify(Request::new(ask("", token, csr))).await;
        assert_eq!(refused.unwrap_err().code(), code);
    }
}
