//! How a proxy of a local mesh proves to its server whom it stands beside.
//!
//! The launcher and the server share a key in the identity directory. A token names
//! namespace, account and instance, and carries a keyed hash of them: nobody without
//! the key can make one, and it certifies nobody else.

use aws_lc_rs::hmac;

/// What tokens begin with, so that another kind can follow.
const KIND: &str = "whodunit-token-v1";

/// Longest token that is looked at, bytes.
const BYTES_MAX: usize = 1_024;

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The namespace.
    pub namespace: String,
    /// The service account; in a local mesh the workload.
    pub account: String,
    /// The instance.
    pub instance: String,
}

/// Makes and checks tokens.
pub struct TokenKey(hmac::Key);

impl TokenKey {
    /// Takes a key of 32 random bytes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Returns the token of a subject. Its names have no slash.
    #[must_use]
    pub fn issue(&self, subject: &Subject) -> String {
        let claim = claim(&subject.namespace, &subject.account, &subject.instance);
        let tag = hmac::sign(&self.0, claim.as_bytes());
        let mut token = claim;
        token.push('/');
        for byte in tag.as_ref() {
            token.push_str(&format!("{byte:02x}"));
        }
        token
    }

    /// Returns whom a token speaks for; none if it was not made with this key.
    #[must_use]
    pub fn check(&self, token: &[u8]) -> Option<Subject> {
        let token = std::str::from_utf8(token).ok().map(str::trim)?;
        if token.len() > BYTES_MAX {
            return None;
        }
        let (claimed, tag) = token.rsplit_once('/')?;
        let tag = from_hex(tag)?;
        hmac::verify(&self.0, claimed.as_bytes(), &tag).ok()?;
        let mut parts = claimed.split('/').skip(1).map(str::to_owned);
        Some(Subject {
            namespace: parts.next()?,
            account: parts.next()?,
            instance: parts.next()?,
        })
    }
}

impl std::fmt::Debug for TokenKey {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

fn claim(namespace: &str, account: &str, instance: &str) -> String {
    format!("{KIND}/{namespace}/{account}/{instance}")
}

/// Reads 32 bytes from their hexadecimal digits.
pub(crate) fn from_hex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    let mut out = [0; 32];
    if text.len() != 2 * out.len() {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_key_can_make_a_token() {
        let key = TokenKey::new(&[7; 32]);
        let web = Subject {
            namespace: "emojivoto".to_owned(),
            account: "web".to_owned(),
            instance: "web-0".to_owned(),
        };
        let token = key.issue(&web);
        assert_eq!(key.check(token.as_bytes()), Some(web.clone()));
        assert_eq!(key.check(format!("{token}\n").as_bytes()), Some(web));
        assert_eq!(TokenKey::new(&[8; 32]).check(token.as_bytes()), None);
        let voting = token.replace("/web/", "/voting/");
        for forged in [
            "",
            "/",
            "whodunit-token-v1/a/b/c/",
            &token[..token.len() - 1],
            voting.as_str(),
            &format!("{token}0"),
            &"a/".repeat(4_000),
        ] {
            assert_eq!(key.check(forged.as_bytes()), None, "{forged}");
        }
        assert_eq!(key.check(&[0xff, 0xfe]), None);
    }
}
