//! Mints certificates, good ones and every kind of bad one.

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, SanType,
};
use time::{Duration, OffsetDateTime};

/// The names of the workload `web` in namespace `shop` of trust domain `test`.
pub(crate) const WEB: &str = "spiffe://test/ns/shop/sa/web";
pub(crate) const WEB_DNS: &str = "web.shop.serviceaccount.identity.whodunit.test";

/// Something that signs certificates.
pub(crate) struct Ca {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) der: Vec<u8>,
    pub(crate) pem: String,
}

/// A chain, the leaf first, and the key of the leaf.
#[derive(Clone)]
pub(crate) struct Minted {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) key: Vec<u8>,
    pub(crate) key_pem: String,
}

impl Minted {
    /// Returns the chain in PEM form.
    pub(crate) fn pem(&self) -> String {
        let pems = self.chain.iter().map(|der| {
            let base64 = base64(der);
            let lines: Vec<&str> = base64
                .as_bytes()
                .chunks(64)
                .map(|line| std::str::from_utf8(line).unwrap())
                .collect();
            format!(
                "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
                lines.join("\n")
            )
        });
        pems.collect()
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let number =
            chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            out.push(if digit <= chunk.len() {
                char::from(DIGITS[(number >> (18 - 6 * digit)) as usize & 63])
            } else {
                '='
            });
        }
    }
    out
}

/// Returns the parameters of a CA that is valid for a day.
pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(1);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// Mints a CA that signs itself.
pub(crate) fn anchor(name: &str) -> Ca {
    let key = KeyPair::generate().unwrap();
    let params = ca_params(name);
    let certificate = params.self_signed(&key).unwrap();
    Ca {
        der: certificate.der().to_vec(),
        pem: certificate.pem(),
        issuer: Issuer::new(params, key),
    }
}

/// Mints a CA that another one has signed.
pub(crate) fn intermediate(by: &Ca, params: CertificateParams) -> Ca {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &by.issuer).unwrap();
    Ca {
        der: certificate.der().to_vec(),
        pem: certificate.pem(),
        issuer: Issuer::new(params, key),
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(text).unwrap())
}

/// Returns the parameters of a leaf as it should be.
pub(crate) fn leaf_params(names: &[SanType]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "web");
    params.not_before = OffsetDateTime::now_utc() - Duration::minutes(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::hours(1);
    params.subject_alt_names = names.to_vec();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

/// Mints a leaf; `issuers` are shown with it.
pub(crate) fn leaf(by: &Ca, params: &CertificateParams, issuers: &[&Ca]) -> Minted {
    let key = KeyPair::generate().unwrap();
    leaf_of(by, params, issuers, &key)
}

fn leaf_of(by: &Ca, params: &CertificateParams, issuers: &[&Ca], key: &KeyPair) -> Minted {
    let certificate = params.signed_by(key, &by.issuer).unwrap();
    let mut chain = vec![certificate.der().to_vec()];
    chain.extend(issuers.iter().map(|issuer| issuer.der.clone()));
    Minted {
        chain,
        key: key.serialize_der(),
        key_pem: key.serialize_pem(),
    }
}

/// Mints a good leaf of the workload `name` in namespace `shop`.
pub(crate) fn workload(by: &Ca, name: &str) -> Minted {
    let id = format!("spiffe://test/ns/shop/sa/{name}");
    let alias = format!("{name}.shop.serviceaccount.identity.whodunit.test");
    leaf(by, &leaf_params(&[uri(&id), dns(&alias)]), &[])
}

/// A certificate that must be refused on either side, with a private key that fits, so
/// that it can be shown in a real handshake.
pub(crate) struct Bad {
    pub(crate) name: &'static str,
    pub(crate) minted: Minted,
}

/// Mints every bad certificate.
pub(crate) fn bad(anchor: &Ca) -> Vec<Bad> {
    let mut out = Vec::new();
    let mut add = |name, minted| out.push(Bad { name, minted });

    // Names.
    let web = || vec![uri(WEB), dns(WEB_DNS)];
    let names: [(&'static str, Vec<SanType>); 27] = [
        ("no names", vec![]),
        (
            "only an address",
            vec![SanType::IpAddress([127, 0, 0, 1].into())],
        ),
        (
            "only a mail address",
            vec![SanType::Rfc822Name(Ia5String::try_from("a@b").unwrap())],
        ),
        (
            "two URIs",
            vec![uri(WEB), uri("spiffe://test/ns/shop/sa/bank")],
        ),
        ("the same URI twice", vec![uri(WEB), uri(WEB)]),
        (
            "two DNS names",
            vec![
                dns(WEB_DNS),
                dns("bank.shop.serviceaccount.identity.whodunit.test"),
            ],
        ),
        (
            "URI and DNS name of others",
            vec![
                uri(WEB),
                dns("bank.shop.serviceaccount.identity.whodunit.test"),
            ],
        ),
        (
            "a wildcard",
            vec![dns("*.shop.serviceaccount.identity.whodunit.test")],
        ),
        ("a wildcard beside a URI", vec![uri(WEB), dns("*.test")]),
        ("an underscore in a DNS name", vec![dns("web_1.test")]),
        ("a NUL in a DNS name", vec![dns("web.test\0.evil")]),
        ("an address as DNS name", vec![dns("127.0.0.1")]),
        ("an empty DNS name", vec![dns("")]),
        (
            "uppercase scheme",
            vec![uri("SPIFFE://test/ns/shop/sa/web")],
        ),
        ("another scheme", vec![uri("https://test/ns/shop/sa/web")]),
        (
            "uppercase trust domain",
            vec![uri("spiffe://TEST/ns/shop/sa/web")],
        ),
        ("a port", vec![uri("spiffe://test:443/ns/shop/sa/web")]),
        ("a user", vec![uri("spiffe://me@test/ns/shop/sa/web")]),
        ("no trust domain", vec![uri("spiffe:///ns/shop/sa/web")]),
        ("no path", vec![uri("spiffe://test")]),
        (
            "a slash at the end",
            vec![uri("spiffe://test/ns/shop/sa/web/")],
        ),
        ("an empty segment", vec![uri("spiffe://test/ns//sa/web")]),
        ("a dot segment", vec![uri("spiffe://test/ns/./sa/web")]),
        (
            "two dots",
            vec![uri("spiffe://test/ns/shop/../bank/sa/web")],
        ),
        ("an escape", vec![uri("spiffe://test/ns/shop/sa/w%65b")]),
        ("a query", vec![uri("spiffe://test/ns/shop/sa/web?a=b")]),
        ("a fragment", vec![uri("spiffe://test/ns/shop/sa/web#a")]),
    ];
    for (name, names) in names {
        add(name, leaf(anchor, &leaf_params(&names), &[]));
    }
    let other = leaf_params(&[uri("spiffe://other/ns/shop/sa/web")]);
    add("another trust domain", leaf(anchor, &other, &[]));

    // Times.
    let now = OffsetDateTime::now_utc();
    let mut params = leaf_params(&web());
    params.not_after = now - Duration::seconds(5);
    add("expired", leaf(anchor, &params, &[]));
    let mut params = leaf_params(&web());
    params.not_before = now + Duration::minutes(5);
    add("not yet valid", leaf(anchor, &params, &[]));
    let mut params = leaf_params(&web());
    params.not_before = now + Duration::minutes(30);
    params.not_after = now - Duration::minutes(30);
    add("ends before it begins", leaf(anchor, &params, &[]));

    // Powers.
    let mut params = leaf_params(&web());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    add("a leaf that is a CA", leaf(anchor, &params, &[]));
    let mut params = leaf_params(&web());
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
    ];
    add(
        "a leaf that may sign certificates",
        leaf(anchor, &params, &[]),
    );
    let mut params = leaf_params(&web());
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    add(
        "a key that is not for signatures",
        leaf(anchor, &params, &[]),
    );
    let mut params = leaf_params(&web());
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    add("for code signing", leaf(anchor, &params, &[]));

    // Trust.
    let stranger = self::anchor("anchor");
    add(
        "an anchor of the same name",
        leaf(&stranger, &leaf_params(&web()), &[]),
    );
    let stranger = self::anchor("stranger");
    add(
        "an unknown anchor, shown",
        leaf(&stranger, &leaf_params(&web()), &[&stranger]),
    );
    let key = KeyPair::generate().unwrap();
    let alone = leaf_params(&web()).self_signed(&key).unwrap();
    add(
        "signed by itself",
        Minted {
            chain: vec![alone.der().to_vec()],
            key: key.serialize_der(),
            key_pem: key.serialize_pem(),
        },
    );
    let mut minted = leaf(anchor, &leaf_params(&web()), &[]);
    *minted.chain[0].last_mut().unwrap() ^= 1;
    add("a flipped bit in the signature", minted);

    // Chains.
    let sub = intermediate(anchor, ca_params("issuer"));
    add(
        "an issuer that is not shown",
        leaf(&sub, &leaf_params(&web()), &[]),
    );
    let mut params = ca_params("expired issuer");
    params.not_after = now - Duration::minutes(1);
    let expired = intermediate(anchor, params);
    add(
        "an expired issuer",
        leaf(&expired, &leaf_params(&web()), &[&expired]),
    );
    let mut params = ca_params("leaf as issuer");
    params.is_ca = IsCa::ExplicitNoCa;
    let weak = intermediate(anchor, params);
    add(
        "an issuer that is no CA",
        leaf(&weak, &leaf_params(&web()), &[&weak]),
    );
    let mut params = ca_params("issuer for nothing");
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let weak = intermediate(anchor, params);
    add(
        "an issuer that may not sign",
        leaf(&weak, &leaf_params(&web()), &[&weak]),
    );
    let mut params = ca_params("issuer of leaves");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let first = intermediate(anchor, params);
    let second = intermediate(&first, ca_params("second"));
    add(
        "a longer path than allowed",
        leaf(&second, &leaf_params(&web()), &[&second, &first]),
    );
    let mut chain = vec![intermediate(anchor, ca_params("0"))];
    for n in 1..40 {
        let next = intermediate(&chain[n - 1], ca_params(&n.to_string()));
        chain.push(next);
    }
    let issuers: Vec<&Ca> = chain.iter().rev().collect();
    add(
        "40 issuers",
        leaf(issuers[0], &leaf_params(&web()), &issuers),
    );
    for (name, subtree, excluded) in [
        (
            "a DNS name its issuer may not sign",
            GeneralSubtree::DnsName("elsewhere".to_owned()),
            false,
        ),
        (
            "a DNS name its issuer must not sign",
            GeneralSubtree::DnsName("test".to_owned()),
            true,
        ),
    ] {
        let mut params = ca_params("constrained");
        let (permitted, excluded) = if excluded {
            (vec![], vec![subtree])
        } else {
            (vec![subtree], vec![])
        };
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: permitted,
            excluded_subtrees: excluded,
        });
        let constrained = intermediate(anchor, params);
        add(
            name,
            leaf(&constrained, &leaf_params(&web()), &[&constrained]),
        );
    }

    // Extensions.
    let mut params = leaf_params(&web());
    let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55_555, 1], vec![5, 0]);
    unknown.set_criticality(true);
    params.custom_extensions = vec![unknown];
    add("an unknown critical extension", leaf(anchor, &params, &[]));
    let mut params = leaf_params(&[]);
    let junk = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0x7f, 1]);
    params.custom_extensions = vec![junk];
    add("names that cannot be read", leaf(anchor, &params, &[]));
    let mut params = leaf_params(&web());
    // A second list of names, with one DNS name.
    let again = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 3, 0x82, 1, b'x']);
    params.custom_extensions = vec![again];
    add("two lists of names", leaf(anchor, &params, &[]));
    let mut minted = leaf(anchor, &leaf_params(&web()), &[]);
    minted.chain[0].push(0);
    add("a byte too many", minted);
    out
}
