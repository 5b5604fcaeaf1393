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
use serde::Deserialize;
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

use super::plain;
use crate::context::{Container, Origin, Pod};

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
/// Static pods: the UID that their cgroups carry, and its copy in the API.
const HASHES: [&str; 2] = ["kubernetes.io/config.hash", "kubernetes.io/config.mirror"];

/// The pods of this node as kubelet tells them. Takes at most [`TIME`] for each way of asking.
pub(super) async fn list(host_root: &Path) -> anyhow::Result<Vec<Pod>> {
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

async fn plainly(address: SocketAddr) -> anyhow::Result<Vec<Pod>> {
    get(TcpStream::connect(address).await?, None).await
}

async fn securely(
    address: SocketAddr,
    token: &str,
    pins: Vec<CertificateDer<'static>>,
) -> anyhow::Result<Vec<Pod>> {
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

async fn get<S>(stream: S, token: Option<&str>) -> anyhow::Result<Vec<Pod>>
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

#[derive(Deserialize)]
struct List {
    items: Option<Vec<Item>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    uid: String,
    name: String,
    namespace: String,
    annotations: std::collections::BTreeMap<String, String>,
    labels: std::collections::BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    host_network: bool,
    dns_policy: Option<String>,
    dns_config: Option<DnsConfig>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DnsConfig {
    searches: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<Ip>,
    init_container_statuses: Vec<OneStatus>,
    container_statuses: Vec<OneStatus>,
    ephemeral_container_statuses: Vec<OneStatus>,
}

#[derive(Deserialize)]
struct Ip {
    ip: String,
}

#[derive(Deserialize)]
struct OneStatus {
    name: String,
    #[serde(rename = "containerID", default)]
    id: String,
}

/// Reads a PodList; of a pod's environment and volumes nothing is even parsed into memory.
fn pods(body: &[u8]) -> anyhow::Result<Vec<Pod>> {
    let list: List = serde_json::from_slice(body).context("kubelet: not a list of pods")?;
    let items = list.items.unwrap_or_default().into_iter();
    Ok(items.take(PODS_MAX).filter_map(pod).collect())
}

fn pod(item: Item) -> Option<Pod> {
    let Item { metadata: meta, spec, status } = item;
    let hash = HASHES.iter().find_map(|key| meta.annotations.get(*key)).cloned();
    let uid = hash.filter(|hash| plain::uid(hash)).unwrap_or(meta.uid).to_ascii_lowercase();
    if !(plain::uid(&uid) && plain::name(&meta.namespace) && plain::name(&meta.name)) {
        return None;
    }
    let statuses = [
        status.init_container_statuses,
        status.container_statuses,
        status.ephemeral_container_statuses,
    ];
    let container = |status: OneStatus| {
        let id = status.id.split_once("://").map(|(_, id)| id.to_owned());
        plain::name(&status.name)
            .then(|| Container { name: status.name, id: id.filter(|id| plain::id(id)) })
    };
    let label = |(key, value): &(String, String)| plain::label(key) && plain::label(value);
    let searches = spec.dns_config.unwrap_or_default().searches.into_iter();
    let search = |name: &String| plain::label(name.trim_end_matches('.'));
    Some(Pod {
        uid,
        namespace: meta.namespace,
        name: meta.name,
        node: spec.node_name.filter(|name| plain::name(name)),
        ips: status.pod_ips.iter().filter_map(|ip| ip.ip.parse().ok()).take(4).collect(),
        host_network: spec.host_network,
        dns_policy: spec.dns_policy.filter(|policy| plain::label(policy)),
        dns_searches: searches.filter(search).take(32).collect(),
        dns_config_known: true,
        finished: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
        labels: meta.labels.into_iter().filter(label).take(plain::LABELS_MAX).collect(),
        containers: statuses.into_iter().flatten().filter_map(container).collect(),
        origin: Origin::Kubelet,
        ..Pod::default()
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

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
        let pods = plainly(address).await.unwrap();
        assert_eq!(pods.len(), 1);
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
}
