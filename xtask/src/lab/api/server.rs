//! The endpoint inside a test or a measurement: on a free port of loopback, with objects put in and
//! taken out, faults, and a list of what was asked. Plain HTTP, or TLS with token and certificate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::http::Uri;
use axum::serve::{IncomingStream, Listener};
use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::faults::Faults;
use super::store::Store;
use super::{Certified, Endpoint, Object, Shared, TOKEN, router};

/// Most requests remembered.
const LOG_MAX: usize = 100_000;

/// Requests as they came.
#[derive(Debug, Default)]
pub struct Log(Mutex<Vec<String>>);

impl Log {
    pub(super) fn note(&self, uri: &Uri) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < LOG_MAX {
            all.push(uri.to_string());
        }
    }
}

/// How it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP; nobody needs credentials, but a wrong token is refused.
    Plain,
    /// HTTPS; the kubeconfig has the token.
    Token,
    /// HTTPS; the kubeconfig has a client certificate.
    Certificate,
}

/// A running endpoint; dropping it ends it.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// What is wrong with it.
    pub faults: Arc<Faults>,
    kubeconfig: String,
    store: Shared,
    log: Arc<Log>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts on a free port.
    pub fn start(objects: Vec<Object>, transport: Transport) -> Result<Self> {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_at(objects, transport, here)
    }

    /// Starts at this address, as after a restart.
    pub fn start_at(
        objects: Vec<Object>,
        transport: Transport,
        listen: SocketAddr,
    ) -> Result<Self> {
        let store: Shared = Arc::new(watch::Sender::new(Store::of(objects)));
        let (faults, log) = (Arc::default(), Arc::<Log>::default());
        let endpoint = Endpoint {
            store: Arc::clone(&store),
            faults: Arc::clone(&faults),
            log: Arc::clone(&log),
            open: transport == Transport::Plain,
        };
        let listener = std::net::TcpListener::bind(listen).context("cannot listen")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tls = if transport == Transport::Plain { None } else { Some(Tls::new(None)?) };
        let kubeconfig = kubeconfig(address, transport, tls.as_ref());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = async move {
            let Ok(tcp) = TcpListener::from_std(listener) else { return };
            let router = router(endpoint);
            let serving = async {
                let _ = match tls {
                    None => axum::serve(tcp, router).await,
                    Some(tls) => tls.serve(tcp, router).await,
                };
            };
            tokio::select! { () = serving => {}, _ = stopped => {} }
        };
        let thread = std::thread::Builder::new().name("api".into()).spawn(move || {
            runtime.block_on(serve);
            runtime.shutdown_background();
        })?;
        let (stop, thread) = (Some(stop), Some(thread));
        Ok(Self { address, faults, kubeconfig, store, log, stop, thread })
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// Adds or replaces an object.
    pub fn put(&self, object: Object) {
        self.store.send_modify(|store| store.put(object));
    }

    /// Takes an object away; false when there was none.
    pub fn remove(&self, resource: &'static str, namespace: &str, name: &str) -> bool {
        let key = (resource, namespace.to_owned(), name.to_owned());
        let mut was = false;
        self.store.send_modify(|store| was = store.remove(&key));
        was
    }

    /// Forgets all changes so far, as after a restart: older watches have expired.
    pub fn compact(&self) {
        self.store.send_modify(Store::compact);
    }

    /// Paths and queries of what was asked for, oldest first.
    pub fn asked(&self) -> Vec<String> {
        self.log.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(super) struct Tls {
    acceptor: TlsAcceptor,
    /// The authority's certificate, PEM.
    pub(super) authority: String,
    client: (String, String),
}

impl Tls {
    /// An authority, a server (for loopback and `more`) and a client certificate, made anew each time.
    pub(super) fn new(more: Option<IpAddr>) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let signed = |names: &[&str], usage| -> Result<_> {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names)?;
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &authority)?;
            Ok((certificate, key))
        };
        let more = more.map(|address| address.to_string());
        let names: Vec<&str> =
            ["127.0.0.1", "localhost"].into_iter().chain(more.as_deref()).collect();
        let server = signed(&names, ExtendedKeyUsagePurpose::ServerAuth)?;
        let client = signed(&["svctrace"], ExtendedKeyUsagePurpose::ClientAuth)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone())?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()?;
        let key = PrivateKeyDer::try_from(server.1.serialize_der())
            .map_err(|why| anyhow::anyhow!("a key that is none: {why}"))?;
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![server.0.der().clone()], key)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            authority: authority.pem(),
            client: (client.0.pem(), client.1.serialize_pem()),
        })
    }

    /// Serves over TLS for ever.
    pub(super) async fn serve(self, tcp: TcpListener, router: Router) -> std::io::Result<()> {
        let listener = TlsListener { tcp, acceptor: self.acceptor };
        axum::serve(listener, router.into_make_service_with_connect_info::<Certified>()).await
    }
}

fn kubeconfig(address: SocketAddr, transport: Transport, tls: Option<&Tls>) -> String {
    let mut cluster = json!({ "server": format!("http://{address}") });
    let mut user = json!({ "token": TOKEN });
    if let Some(tls) = tls {
        cluster["server"] = json!(format!("https://{address}"));
        cluster["certificate-authority-data"] = json!(base64(tls.authority.as_bytes()));
        if transport == Transport::Certificate {
            user = json!({
                "client-certificate-data": base64(tls.client.0.as_bytes()),
                "client-key-data": base64(tls.client.1.as_bytes()),
            });
        }
    }
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "fake",
        "clusters": [{ "name": "fake", "cluster": cluster }],
        "users": [{ "name": "svctrace", "user": user }],
        "contexts": [{ "name": "fake", "context": { "cluster": "fake", "user": "svctrace" } }],
    });
    format!("{config:#}\n")
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= chunk.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
    text
}

/// Accepts connections and greets them by TLS; who greets badly is dropped.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.tcp).await;
            let greeted =
                tokio::time::timeout(Duration::from_secs(2), self.acceptor.accept(stream));
            if let Ok(Ok(stream)) = greeted.await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Certified {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(stream.io().get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty()))
    }
}
