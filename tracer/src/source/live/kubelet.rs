//! The kubelet's own list of pods: over its read-only port where that is open, else over HTTPS with
//! our service account's token. The token is sent only to the holder of a certificate that lies in
//! the kubelet's folder on this node; without one nobody is asked.

use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
};

use super::api::{self, slim};
use super::{objects, plain};
use crate::context::{Origin, Pod};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const READ_ONLY_PORT: u16 = 10255;
const PORT: u16 = 10250;
/// A kubelet that does not answer within this time is left alone for a while.
const TIME: Duration = Duration::from_secs(2);
/// Longest answer read, in bytes.
const ANSWER_MAX: usize = 32 << 20;
/// Most pods taken over.
const PODS_MAX: usize = 10_000;
/// Longest certificate file or token read, in bytes.
const FILE_MAX: u64 = 256 << 10;
/// Our own credential, where we run in a pod.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Serving certificates: kubelet's, k3s and RKE2, microk8s, k0s.
const CERTIFICATES: [&str; 6] = [
    "var/lib/kubelet/pki/kubelet-server-current.pem",
    "var/lib/kubelet/pki/kubelet.crt",
    "var/lib/rancher/k3s/agent/serving-kubelet.crt",
    "var/lib/rancher/rke2/agent/serving-kubelet.crt",
    "var/snap/microk8s/current/certs/kubelet.crt",
    "var/lib/k0s/kubelet/pki/kubelet.crt",
];

/// Kubelet's pods.
#[derive(Debug, Default)]
pub(super) struct Pods {
    pub(super) pods: Vec<Pod>,
    /// Those that are none, or beyond [`PODS_MAX`].
    pub(super) left_out: u64,
}

/// The pods of this node as kubelet tells them. Takes at most [`TIME`] for each way of asking.
pub(super) async fn list(host_root: &Path) -> anyhow::Result<Pods> {
    let open = SocketAddr::new(HERE, READ_ONLY_PORT);
    if let Ok(Ok(pods)) = tokio::time::timeout(TIME, plainly(open)).await {
        return Ok(pods);
    }
    let token = read(Path::new(TOKEN)).context("kubelet: we have no token of our own")?;
    let pins = pins(host_root);
    if pins.is_empty() {
        bail!("kubelet: its certificate is not on this node; it gets no token from us");
    }
    let work = securely(SocketAddr::new(HERE, PORT), token.trim(), pins);
    tokio::time::timeout(TIME, work).await.context("the kubelet does not answer")?
}

async fn plainly(address: SocketAddr) -> anyhow::Result<Pods> {
    get(TcpStream::connect(address).await?, None).await
}

async fn securely(
    address: SocketAddr,
    token: &str,
    pins: Vec<CertificateDer<'static>>,
) -> anyhow::Result<Pods> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Pinned { pins, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::from(HERE);
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    get(stream, Some(token)).await
}

async fn get<S>(stream: S, token: Option<&str>) -> anyhow::Result<Pods>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut request = Request::get("/pods").header("host", "localhost");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = answer.status();
    if !status.is_success() {
        bail!("kubelet: {status}");
    }
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
    connection.abort();
    let body = body.map_err(|error| anyhow::anyhow!("kubelet: {error}"))?.to_bytes();
    pods(&body)
}

/// Believes only these certificates.
#[derive(Debug)]
struct Pinned {
    pins: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match self.pins.iter().any(|pin| pin.as_ref() == end_entity.as_ref()) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(TlsError::General("not this node's kubelet".into())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let all = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, all)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let all = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, all)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn pins(host_root: &Path) -> Vec<CertificateDer<'static>> {
    let texts = CERTIFICATES.iter().filter_map(|path| read(&host_root.join(path)));
    texts
        .flat_map(|text| {
            CertificateDer::pem_slice_iter(text.as_bytes()).flatten().collect::<Vec<_>>()
        })
        .collect()
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(FILE_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Reads a PodList, one pod at a time; of a pod's environment and volumes nothing is even parsed into
/// memory.
pub(super) fn pods(body: &[u8]) -> anyhow::Result<Pods> {
    let (mut items, mut all) = (api::Items::default(), Pods::default());
    items.push(body, |item| {
        let room = all.pods.len() < PODS_MAX;
        match room.then(|| serde_json::from_slice(item).ok().and_then(pod)).flatten() {
            Some(pod) => all.pods.push(pod),
            None => all.left_out += 1,
        }
    });
    items.frame().context("kubelet: not a list of pods")?;
    Ok(all)
}

fn pod(item: slim::Pod) -> Option<Pod> {
    let mut pod = Pod { origin: Origin::Kubelet, ..objects::pod(&item) };
    pod.uid.make_ascii_lowercase();
    api::bounded_pod(&mut pod)?;
    let names = plain::name(&pod.namespace) && plain::name(&pod.name);
    pod.containers.retain(|container| plain::name(&container.name));
    for container in &mut pod.containers {
        container.id = container.id.take().filter(|id| plain::id(id));
    }
    (names && plain::uid(&pod.uid)).then_some(pod)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    use super::*;

    const LIST: &str = r#"{"kind":"PodList","items":[
        {"metadata":{"name":"etcd-n1","namespace":"kube-system","uid":"c028a23c-0000-4000-8000-000000000000",
          "annotations":{"kubernetes.io/config.hash":"aa7be809be48ec01ab43fd4f1ca22e9e"}},
         "spec":{"nodeName":"n1","hostNetwork":true,"containers":[{"name":"etcd","env":[{"name":"S","value":"x"}]}]},
         "status":{"podIPs":[{"ip":"192.0.2.1"}],"containerStatuses":[{"name":"etcd",
          "containerID":"containerd://bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"}]}},
        {"metadata":{"name":"x\u001b","namespace":"a","uid":"bad"},"spec":{},"status":{}}]}"#;

    /// Answers one request with `answer`; gives what was asked.
    async fn server(answer: String) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let length = stream.read(&mut asked).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        (address, task)
    }

    #[tokio::test]
    async fn the_read_only_port() {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{LIST}", LIST.len());
        let (address, asked) = server(answer).await;
        let Pods { pods, left_out } = plainly(address).await.unwrap();
        assert_eq!((pods.len(), left_out), (1, 1), "one has no name that Kubernetes would take");
        let pod = &pods[0];
        assert_eq!(pod.uid, "aa7be809be48ec01ab43fd4f1ca22e9e", "as in the cgroup's path");
        assert_eq!((pod.name.as_str(), pod.origin), ("etcd-n1", Origin::Kubelet));
        assert!(pod.host_network && pod.containers[0].id.is_some());
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("GET /pods ") && !asked.contains("authorization"), "{asked}");
        let (address, _asked) = server("HTTP/1.1 401 Unauthorized\r\n\r\n".into()).await;
        assert!(plainly(address).await.unwrap_err().to_string().contains("401"));
    }

    #[tokio::test]
    async fn a_stranger_gets_no_token() {
        let (address, asked) = server("no TLS at all".into()).await;
        assert!(securely(address, "secret", Vec::new()).await.is_err());
        assert!(!asked.await.unwrap().contains("secret"));
        let provider = Arc::new(ring::default_provider());
        let pins = vec![CertificateDer::from(vec![1, 2, 3])];
        let pinned = Pinned { pins, provider };
        let name = ServerName::from(HERE);
        let verify = |der: Vec<u8>| {
            let der = CertificateDer::from(der);
            pinned.verify_server_cert(&der, &[], &name, &[], UnixTime::since_unix_epoch(TIME))
        };
        assert!(verify(vec![1, 2, 3]).is_ok());
        assert!(verify(vec![1, 2]).is_err());
    }

    /// A kubelet with a certificate that it signed itself, which is in its folder below the root
    /// that is given; answers one request, and gives it.
    async fn kubelet() -> (SocketAddr, tempfile::TempDir, tokio::task::JoinHandle<Option<String>>) {
        let own = rcgen::generate_simple_self_signed(["node-1".to_owned()]).unwrap();
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(CERTIFICATES[1]);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, own.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.ok()?;
            let mut asked = vec![0; 4096];
            let length = stream.read(&mut asked).await.ok()?;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{LIST}", LIST.len());
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(String::from_utf8_lossy(&asked[..length]).into_owned())
        });
        (address, root, task)
    }

    #[tokio::test]
    async fn a_certificate_of_its_own_in_its_folder_is_enough() {
        let (address, root, asked) = kubelet().await;
        let pods = securely(address, "secret", pins(root.path())).await.unwrap().pods;
        assert_eq!(pods.len(), 1);
        assert_eq!((pods[0].name.as_str(), pods[0].origin), ("etcd-n1", Origin::Kubelet));
        let asked = asked.await.unwrap().unwrap();
        assert!(asked.contains("authorization: Bearer secret"), "{asked}");
    }

    #[tokio::test]
    async fn another_certificate_gets_no_token() {
        let (address, _root, asked) = kubelet().await;
        let (_, other, _) = kubelet().await;
        let error = securely(address, "secret", pins(other.path())).await.unwrap_err();
        assert!(format!("{error:#}").contains("not this node's kubelet"), "{error:#}");
        assert_eq!(asked.await.unwrap(), None, "nothing was sent");
    }
}
