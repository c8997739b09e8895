//! Certifies proxies: the `Identity` service of Linkerd's proxy API.
//!
//! A proxy shows a token that says whom it stands beside and asks for a certificate of a
//! key it has just drawn. What the certificate names comes from the token, never from the
//! request. A new issuer in the directory is taken up without a restart.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::{Request, Response, Status};
use whodunit_identity::Authority;
use whodunit_identity::name::LOCAL_TRUST_DOMAIN;
pub use whodunit_identity::{AuthorityError, Lifetimes};
use whodunit_wire::linkerd::identity::identity_server::{Identity, IdentityServer};
use whodunit_wire::linkerd::identity::{CertifyRequest, CertifyResponse};
use whodunit_wire::timestamp;

/// How often the directory is looked at for a new issuer.
const LOOK: Duration = Duration::from_secs(1);

/// The `Identity` service.
#[derive(Clone, Debug)]
pub struct Identities {
    authority: Arc<Mutex<Authority>>,
}

impl Identities {
    /// Opens the authority in `dir`, and makes it first where there is none.
    ///
    /// # Errors
    /// When files cannot be read or written, or are damaged.
    pub fn open(dir: &Path, lifetimes: Lifetimes) -> Result<Self, AuthorityError> {
        let authority = Authority::open(dir, LOCAL_TRUST_DOMAIN, lifetimes, now_s())?;
        Ok(Self {
            authority: Arc::new(Mutex::new(authority)),
        })
    }

    /// Returns the gRPC service.
    #[must_use]
    pub fn into_service(self) -> IdentityServer<Self> {
        IdentityServer::new(self).max_decoding_message_size(64 * 1024)
    }

    /// Takes up new issuers for ever.
    pub async fn follow(self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = String::new();
        loop {
            ticks.tick().await;
            let refreshed = self.lock().refresh(now_s());
            match refreshed {
                Ok(true) => tracing::info!("certificates are signed by a new issuer"),
                Ok(false) => last.clear(),
                Err(error) => {
                    let why = error.to_string();
                    if why != last {
                        tracing::warn!(%error, "cannot use the issuer in the identity directory");
                    }
                    last = why;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Authority> {
        self.authority
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl Identity for Identities {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        let authority = self.lock();
        let subject = authority.token_key().check(&request.token);
        let Some(subject) = subject else {
            return Err(Status::permission_denied(
                "the token is not one of this mesh: start the proxy anew with `whodunit run`",
            ));
        };
        let csr = &request.certificate_signing_request;
        let certified = authority.certify(csr, &subject.namespace, &subject.account, now_s());
        let certified = certified.map_err(|error| {
            let text = error.to_string();
            match error {
                AuthorityError::Request(_) | AuthorityError::Name(_) => {
                    Status::invalid_argument(text)
                }
                _ => Status::internal(text),
            }
        })?;
        tracing::debug!(
            namespace = subject.namespace,
            workload = subject.account,
            instance = subject.instance,
            "certified"
        );
        Ok(Response::new(CertifyResponse {
            leaf_certificate: certified.leaf,
            intermediate_certificates: certified.intermediates,
            valid_until: Some(timestamp(certified.not_after_s)),
        }))
    }
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
