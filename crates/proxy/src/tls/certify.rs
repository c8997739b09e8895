//! Certificates from a server: a fresh key each time, renewed long before the end.
//!
//! While the server is gone the last certificate stays in use until it expires; a proxy that
//! starts meanwhile takes the one it kept.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, timeout};
use whodunit_identity::authority::write_private;
use whodunit_identity::{Credentials, renewal, request};
use whodunit_wire::linkerd::identity::CertifyRequest;
use whodunit_wire::linkerd::identity::identity_client::IdentityClient;

use super::source::{LOOK, Source, read_file, with_anchors};
use crate::control::{Backoff, endpoint};
use crate::net;

/// How long one request for a certificate may take.
const ANSWER: Duration = Duration::from_secs(10);

/// When other anchors are trusted, certificates are renewed within this time: the issuer may
/// be another one too.
const AFTER_ANCHORS: Duration = Duration::from_secs(5);

/// Keeps a certificate of the server's in use for ever.
pub(super) async fn follow(
    source: Source,
    server: SocketAddr,
    token_file: &Path,
    state_file: Option<PathBuf>,
    seed: u64,
) {
    let mut backoff = Backoff::new(seed);
    let mut random = seed | 1;
    let mut anchors = Vec::new();
    let mut credentials = state_file.as_deref().and_then(kept);
    // With a kept certificate there is no hurry, but no reason to wait either.
    let mut due = Instant::now();
    loop {
        let looked = read_file(&source.identity.trust_anchors);
        match looked {
            Ok(bundle) if bundle != anchors => {
                let known = !anchors.is_empty();
                anchors = bundle;
                if let Some(credentials) = &credentials {
                    use_them(&source, credentials, &anchors);
                }
                if known {
                    random = next(random);
                    due = due.min(Instant::now() + AFTER_ANCHORS.mul_f64(share(random)));
                }
            }
            Ok(_) => {}
            Err(why) => tracing::debug!(why, "cannot read the trust anchors"),
        }
        if Instant::now() >= due && !anchors.is_empty() {
            match timeout(ANSWER, certify(server, token_file)).await {
                Ok(Ok((new, pem))) => {
                    backoff.reset();
                    random = next(random);
                    let left = left(&new);
                    due = Instant::now() + renewal::pause(left, random);
                    use_them(&source, &new, &anchors);
                    keep(state_file.as_deref(), &pem);
                    credentials = Some(new);
                }
                failed => {
                    let why = match failed {
                        Ok(Err(why)) => why,
                        _ => "no answer in time".to_owned(),
                    };
                    source.stats.not_renewed();
                    let pause = backoff.pause();
                    tracing::debug!(%server, why, ?pause, "cannot get a certificate");
                    due = Instant::now() + pause;
                }
            }
        }
        let pause = due.saturating_duration_since(Instant::now()).min(LOOK);
        tokio::time::sleep(pause.max(Duration::from_millis(10))).await;
    }
}

fn use_them(source: &Source, credentials: &Credentials, anchors: &[u8]) {
    match with_anchors(credentials, anchors) {
        Ok(tls) => source.put(tls),
        Err(why) => {
            source.stats.not_renewed();
            tracing::warn!(why, "cannot use a certificate, keeping the one before");
        }
    }
}

/// Asks the server; returns what it gave, and its text to keep.
async fn certify(server: SocketAddr, token_file: &Path) -> Result<(Credentials, String), String> {
    let token = read_file(token_file)?;
    let fresh = request::fresh().map_err(|error| error.to_string())?;
    let endpoint = endpoint(server).ok_or("no endpoint")?;
    let channel = net::channel(&endpoint)
        .await
        .map_err(|error| error.to_string())?;
    let request = CertifyRequest {
        // The server knows by the token.
        identity: String::new(),
        token,
        certificate_signing_request: fresh.csr,
    };
    let answer = IdentityClient::new(channel).certify(request).await;
    let answer = answer.map_err(|status| status.to_string())?.into_inner();
    let mut chain = vec![answer.leaf_certificate];
    chain.extend(answer.intermediate_certificates);
    let credentials = Credentials::from_der(chain, fresh.key).map_err(|error| error.to_string())?;
    let pem = credentials.to_pem();
    Ok((credentials, pem))
}

/// Returns the certificate that was kept, if it is not over.
fn kept(file: &Path) -> Option<Credentials> {
    let pem = read_file(file).ok()?;
    let credentials = Credentials::from_pem(&pem, &pem).ok()?;
    (left(&credentials) > Duration::ZERO).then_some(credentials)
}

fn keep(file: Option<&Path>, pem: &str) {
    if let Some(file) = file
        && let Err(error) = write_private(file, pem.as_bytes())
    {
        tracing::warn!(file = %file.display(), %error, "cannot keep the certificate");
    }
}

fn left(credentials: &Credentials) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let left = u64::try_from(credentials.not_after_s() - now);
    Duration::from_secs(left.unwrap_or(0))
}

const fn next(random: u64) -> u64 {
    let random = random ^ (random << 13);
    let random = random ^ (random >> 7);
    random ^ (random << 17)
}

fn share(random: u64) -> f64 {
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
