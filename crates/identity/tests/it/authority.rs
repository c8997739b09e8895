//! The authority: leaves that peers take, files that survive, and rotation.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use whodunit_identity::rustls::pki_types::{CertificateDer, UnixTime};
use whodunit_identity::{
    Authority, AuthorityError, Certified, Leaf, Lifetimes, Refused, TrustAnchors, Use, authority,
    request,
};

/// Returns the present time, seconds since the Unix epoch.
fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn open(dir: &Path) -> Authority {
    Authority::open(dir, "test", Lifetimes::default(), now_s()).unwrap()
}

fn verify(dir: &Path, certified: &Certified) -> Result<Leaf, Refused> {
    let anchors = std::fs::read(dir.join("anchors.pem")).unwrap();
    let anchors = Arc::new(TrustAnchors::from_pem(&anchors).unwrap());
    let mut chain = vec![CertificateDer::from(certified.leaf.clone())];
    chain.extend(
        certified
            .intermediates
            .iter()
            .cloned()
            .map(CertificateDer::from),
    );
    anchors.verify(&chain, Use::Client, UnixTime::now(), Some("test"))
}

#[test]
fn a_leaf_names_the_workload_and_lives_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("identity");
    let authority = open(&dir);
    let request = request::fresh().unwrap();
    let certified = authority
        .certify(&request.csr, "shop", "web", now_s())
        .unwrap();
    let leaf = verify(&dir, &certified).unwrap();
    assert_eq!(&*leaf.identity, "spiffe://test/ns/shop/sa/web");
    assert_eq!(
        leaf.dns_names,
        ["web.shop.serviceaccount.identity.whodunit.test"]
    );
    assert_eq!(leaf.not_after_s, certified.not_after_s);
    let life = leaf.not_after_s - now_s();
    assert!((86_400 - 60..=86_400).contains(&life), "{life}");
    let another = request::fresh().unwrap();
    assert_ne!(another.key, request.key, "each request has a fresh key");
}

#[test]
fn the_files_are_made_once_and_are_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("deep/identity");
    drop(open(&dir));
    let before = std::fs::read(dir.join("issuer.pem")).unwrap();
    drop(open(&dir));
    assert_eq!(std::fs::read(dir.join("issuer.pem")).unwrap(), before);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in std::fs::read_dir(&dir).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn requests_that_prove_no_key_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(&dir.path().join("identity"));
    let certify = |csr: &[u8]| authority.certify(csr, "shop", "web", now_s());
    let mut csr = request::fresh().unwrap().csr;
    certify(&csr).unwrap();
    *csr.last_mut().unwrap() ^= 1;
    for wrong in [&csr[..], b"", b"junk", &vec![0x30; 20_000][..]] {
        let refused = certify(wrong);
        assert!(
            matches!(refused, Err(AuthorityError::Request(_))),
            "{refused:?}"
        );
    }
    let csr = request::fresh().unwrap().csr;
    for name in ["", "..", "a/b", "a b", "a\n"] {
        let refused = authority.certify(&csr, "shop", name, now_s());
        assert!(matches!(refused, Err(AuthorityError::Name(_))), "{name:?}");
    }
}

#[test]
fn an_expired_issuer_signs_nothing_and_is_replaced_by_the_anchor() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("identity");
    let lifetimes = Lifetimes {
        issuer: Duration::from_secs(3_600),
        ..Lifetimes::default()
    };
    let mut authority = Authority::open(&dir, "test", lifetimes, now_s() - 3_000).unwrap();
    let csr = request::fresh().unwrap().csr;
    let expired = authority.certify(&csr, "shop", "web", now_s() + 3_600);
    assert!(matches!(expired, Err(AuthorityError::IssuerExpired)));
    // A leaf never outlives its issuer.
    let certified = authority.certify(&csr, "shop", "web", now_s()).unwrap();
    assert_eq!(certified.not_after_s, authority.issuer_not_after_s());
    assert!(authority.refresh(now_s()).unwrap(), "a third was left");
    assert!(!authority.refresh(now_s()).unwrap());
    let certified = authority.certify(&csr, "shop", "web", now_s()).unwrap();
    verify(&dir, &certified).unwrap();
}

#[test]
fn an_anchor_is_replaced_in_three_steps_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("identity");
    let mut authority = open(&dir);
    let certify = |authority: &Authority| {
        let csr = request::fresh().unwrap().csr;
        authority.certify(&csr, "shop", "web", now_s()).unwrap()
    };
    let old = certify(&authority);
    authority::add_anchor(&dir, "test", Lifetimes::default(), now_s() + 1).unwrap();
    verify(&dir, &old).unwrap();
    authority::renew_issuer(&dir, Lifetimes::default(), now_s()).unwrap();
    assert!(authority.refresh(now_s()).unwrap());
    let new = certify(&authority);
    verify(&dir, &old).unwrap();
    verify(&dir, &new).unwrap();
    authority::drop_old_anchors(&dir).unwrap();
    assert_eq!(verify(&dir, &old), Err(Refused::UnknownIssuer));
    verify(&dir, &new).unwrap();
}

#[test]
fn a_damaged_issuer_is_named_and_the_one_before_stays() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("identity");
    let mut authority = open(&dir);
    std::fs::write(dir.join("issuer.pem"), "nothing").unwrap();
    let error = authority.refresh(now_s()).unwrap_err().to_string();
    assert!(error.contains("issuer.pem"), "{error}");
    let csr = request::fresh().unwrap().csr;
    authority.certify(&csr, "shop", "web", now_s()).unwrap();
    let error = Authority::open(&dir, "test", Lifetimes::default(), now_s());
    assert!(matches!(error, Err(AuthorityError::Damaged { .. })));
}
