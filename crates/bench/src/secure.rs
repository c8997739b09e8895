//! Identities for proxies of ours, and clients that speak mesh TLS with them.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use whodunit_identity::rustls::pki_types::ServerName;
use whodunit_identity::rustls::{ClientConfig, ClientConnection};
use whodunit_identity::{Authority, Credentials, Lifetimes, MeshName, Tls, TrustAnchors, request};

use crate::canned::{BODY_BYTES, Canned};
use crate::engine::Engine;

const TRUST_DOMAIN: &str = "bench.local";
const NAMESPACE: &str = "bench";

/// Who every proxy and every client is: one workload is enough to prove and to check.
const ACCOUNT: &str = "app";

/// How long all first answers may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// For the application, whose turn is taken by waiting.
const TURN: Duration = Duration::from_millis(2);

/// Connections that are opened before the application gets a turn.
const OPEN_AT_ONCE: usize = 64;

/// The identity of all proxies and clients, in files and in use.
pub(crate) struct Identity {
    folder: PathBuf,
    name: MeshName,
    client: Arc<ClientConfig>,
}

impl Identity {
    /// Makes an authority in a folder, and one certificate of it.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let now_s = i64::try_from(now.as_secs())?;
        let folder = folder.join("identity");
        let authority = Authority::open(&folder, TRUST_DOMAIN, Lifetimes::default(), now_s)?;
        let asked = request::fresh()?;
        let certified = authority.certify(&asked.csr, NAMESPACE, ACCOUNT, now_s)?;
        let mut chain = vec![certified.leaf];
        chain.extend(certified.intermediates);
        let credentials = Credentials::from_der(chain, asked.key)?;
        fs::write(folder.join("leaf.pem"), credentials.to_pem())?;
        let anchors = TrustAnchors::from_pem(&fs::read(authority.anchors_file())?)?;
        let client = Tls::new(&credentials, Arc::new(anchors))?.client;
        Ok(Self {
            folder,
            name: MeshName::new(TRUST_DOMAIN, NAMESPACE, ACCOUNT)?,
            client,
        })
    }

    /// Returns the table that gives a proxy this identity.
    pub(crate) fn table(&self) -> String {
        let folder = self.folder.display();
        format!(
            "[identity]\ntrust_anchors = \"{folder}/anchors.pem\"\n\
             certificate = \"{folder}/leaf.pem\"\nprivate_key = \"{folder}/leaf.pem\"\n"
        )
    }

    /// Returns the identity as a listener expects it of its endpoint.
    pub(crate) fn expected(&self) -> String {
        self.name.spiffe.as_str().to_owned()
    }

    /// Opens connections, shakes hands, and has one HTTP/1 request answered on each.
    pub(crate) fn open(
        &self,
        number: usize,
        target: SocketAddr,
        engine: &mut Engine,
    ) -> Result<Vec<Client>> {
        let canned = Canned::new();
        let asked = self.name.dns.clone().context("a name to ask for")?;
        let asked = ServerName::try_from(asked)?;
        let mut clients = Vec::with_capacity(number);
        for index in 0..number {
            let tls = ClientConnection::new(self.client.clone(), asked.clone())?;
            let mut client = Client {
                socket: TcpStream::connect(target).with_context(|| format!("connect {target}"))?,
                tls,
                answer: 0,
            };
            client.ask(&canned.http1_request).context("a handshake")?;
            clients.push(client);
            if index % OPEN_AT_ONCE == 0 {
                engine.run(TURN, false)?;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let whole = canned.http1_answer.len().min(BODY_BYTES);
        let mut left = number;
        while left > 0 {
            if Instant::now() > deadline {
                bail!("{left} of {number} secured connections had no answer within {PATIENCE:?}");
            }
            engine.run(TURN, false)?;
            left = 0;
            for client in &mut clients {
                left += usize::from(!client.has_answer(whole)?);
            }
        }
        Ok(clients)
    }
}

/// A connection that is held.
pub(crate) struct Client {
    socket: TcpStream,
    tls: ClientConnection,
    /// Bytes of the answer so far.
    answer: usize,
}

impl Client {
    /// Shakes hands and sends a request.
    fn ask(&mut self, request: &[u8]) -> Result<()> {
        self.socket.set_read_timeout(Some(PATIENCE))?;
        while self.tls.is_handshaking() {
            self.tls.complete_io(&mut self.socket)?;
        }
        self.tls.writer().write_all(request)?;
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        self.socket.set_nonblocking(true)?;
        Ok(())
    }

    /// Reads what is there; says whether the answer has come to `bytes`.
    fn has_answer(&mut self, bytes: usize) -> Result<bool> {
        if self.answer >= bytes {
            return Ok(true);
        }
        match self.tls.read_tls(&mut self.socket) {
            Ok(0) => bail!("a secured connection was closed"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("read from a secured connection"),
        }
        let state = self.tls.process_new_packets()?;
        let mut plain = vec![0; state.plaintext_bytes_to_read()];
        self.tls.reader().read_exact(&mut plain)?;
        self.answer += plain.len();
        Ok(self.answer >= bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_what_its_table_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let identity = Identity::new(folder.path()).expect("an identity");
        for name in ["anchors.pem", "leaf.pem"] {
            let path = folder.path().join("identity").join(name);
            assert!(identity.table().contains(&format!("{}", path.display())));
            let text = fs::read_to_string(path).expect("a file");
            assert!(text.contains("BEGIN CERTIFICATE"), "{name}");
        }
        assert_eq!(
            identity.expected(),
            "spiffe://bench.local/ns/bench/sa/app",
            "the name that proxies expect of each other"
        );
    }
}
