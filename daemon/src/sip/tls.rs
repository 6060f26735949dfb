//! Certificates of SIP over TLS (RFC 3261 §26.3, RFC 5922). Enters: PEM files; leaves: what handshakes need, both ways,
//! or one sentence about the file that is wrong. What never happens here: a handshake, a socket, a key in an error.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use x509_cert::der::Decode as _;

/// Who must show a certificate to call over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// Everybody.
    #[default]
    Required,
    /// Nobody; but who shows one must show a good one.
    Optional,
}

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Ours, with those that lead to its authority behind it, PEM.
    pub certificate: Option<PathBuf>,
    /// Its key, PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: Option<PathBuf>,
    /// Authorities of those who call us; none, and nobody is asked for a certificate.
    pub client_ca: Option<PathBuf>,
    /// What happens without one.
    pub client_certificates: ClientCertificates,
    /// Authorities of servers, or the servers' own certificates; none takes the system's authorities.
    pub ca: Option<PathBuf>,
}

/// What is wrong with a file, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It is not there, or not for us.
    #[error("{key}: {} cannot be read ({reason}); give the user of callboxd the right to read it, or change the key", path.display())]
    Unreadable {
        /// Key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: io::ErrorKind,
    },
    /// Everybody may read a private key.
    #[error("{setting}: {} may be read by everybody on this machine; run: chmod o= {}", path.display(), path.display())]
    Exposed {
        /// Key of the configuration.
        setting: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Its content is not what the key wants.
    #[error("{key}: {} holds no {wanted} in PEM; {advice}", path.display())]
    Content {
        /// Key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// Certificate and key do not belong together.
    #[error("{setting}: {} is not the key of the certificate in {}; give both from one issue", key.display(), certificate.display())]
    Mismatch {
        /// Key of the configuration.
        setting: &'static str,
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        certificate: PathBuf,
    },
    /// One of two keys that need each other.
    #[error("{missing}: is missing, and TLS needs it beside {given}; set both")]
    Half {
        /// Key of the configuration that is not set.
        missing: &'static str,
        /// The one that is.
        given: &'static str,
    },
    /// Something that the library refuses.
    #[error("{key}: {} cannot be used: {reason}; have the certificate issued again", path.display())]
    Refused {
        /// Key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The library's words.
        reason: String,
    },
}

/// What handshakes need. Whoever has an old one keeps it: a reload changes later handshakes only.
#[derive(Debug, Clone)]
pub struct Tls {
    server: Option<Arc<ServerConfig>>,
    client: Arc<ClientConfig>,
    expires: Option<SystemTime>,
    fingerprint: Option<[u8; 32]>,
}

impl Tls {
    /// Reads the files. `sip.tls` without certificate is the caller's to refuse.
    ///
    /// # Errors
    /// [`TlsError`], one sentence.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let own = match (&files.certificate, &files.key) {
            (Some(certificate), Some(key)) => Some(identity(SIP, certificate, key, &provider)?),
            (None, None) => None,
            (Some(_), None) => return Err(TlsError::Half { missing: "sip.key", given: "sip.certificate" }),
            (None, Some(_)) => return Err(TlsError::Half { missing: "sip.certificate", given: "sip.key" }),
        };
        let server = match (&own, &files.certificate) {
            (Some(own), Some(path)) => Some(Arc::new(server(files, own, path, &provider)?)),
            _ => None,
        };
        let client = Arc::new(client(files, own.as_ref(), &provider)?);
        let leaf = own.as_ref().and_then(|own| own.cert.first());
        let expires = leaf.and_then(|leaf| not_after(leaf));
        let fingerprint = leaf.map(|leaf| {
            use sha2::Digest as _;
            sha2::Sha256::digest(leaf).into()
        });
        Ok(Self { server, client, expires, fingerprint })
    }

    /// For who calls us; none without a certificate of ours.
    pub(super) fn server(&self) -> Option<&Arc<ServerConfig>> {
        self.server.as_ref()
    }

    /// For whom we call.
    pub(super) fn client(&self) -> &Arc<ClientConfig> {
        &self.client
    }

    /// When our certificate ends.
    pub fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// Whether both show the same certificate.
    pub fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// The keys of the configuration that name a certificate and its private key.
type Names = (&'static str, &'static str);

const SIP: Names = ("sip.certificate", "sip.key");

/// What a server needs for TLS that asks nobody for a certificate, and when its own ends. `names` are the keys of the
/// configuration, for errors.
///
/// # Errors
/// [`TlsError`], one sentence.
pub fn web_server(
    names: (&'static str, &'static str),
    certificate: &Path,
    key: &Path,
) -> Result<(ServerConfig, Option<SystemTime>), TlsError> {
    let provider = Arc::new(ring::default_provider());
    let own = identity(names, certificate, key, &provider)?;
    let expires = own.cert.first().and_then(|leaf| not_after(leaf));
    let refused = |error: rustls::Error| TlsError::Refused {
        key: names.0,
        path: certificate.to_owned(),
        reason: error.to_string(),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, expires))
}

fn identity(
    (for_certificate, for_key): Names,
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(for_certificate, certificate)?;
    let text = read(for_key, key)?;
    let wanted = "private key";
    let advice = "an encrypted key must be decrypted first, and a certificate belongs in the other key";
    let content = || TlsError::Content { key: for_key, path: key.to_owned(), wanted, advice };
    let key_der = PrivateKeyDer::from_pem_slice(&text).map_err(|_| content())?;
    if std::fs::metadata(key).is_ok_and(|meta| meta.permissions().mode() & 0o007 != 0) {
        return Err(TlsError::Exposed { setting: for_key, path: key.to_owned() });
    }
    let mismatch = || TlsError::Mismatch { setting: for_key, key: key.to_owned(), certificate: certificate.to_owned() };
    let refused =
        |error: rustls::Error| TlsError::Refused { key: for_key, path: key.to_owned(), reason: error.to_string() };
    match CertifiedKey::from_der(chain, key_der, provider) {
        Ok(own) => Ok(Arc::new(own)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(mismatch()),
        Err(error) => Err(refused(error)),
    }
}

fn server(
    files: &TlsFiles,
    own: &Arc<CertifiedKey>,
    path: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<ServerConfig, TlsError> {
    let refused = |key, path: &Path, reason: String| TlsError::Refused { key, path: path.to_owned(), reason };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused("sip.certificate", path, error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots("sip.client_ca", ca)?),
                Arc::clone(provider),
            );
            let verifier = match files.client_certificates {
                ClientCertificates::Required => verifier,
                ClientCertificates::Optional => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build().map_err(|error| refused("sip.client_ca", ca, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    Ok(builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(own)))))
}

fn client(
    files: &TlsFiles,
    own: Option<&Arc<CertifiedKey>>,
    provider: &Arc<CryptoProvider>,
) -> Result<ClientConfig, TlsError> {
    let verifier = Servers {
        known: match &files.ca {
            Some(path) => Some(Known::read(path, provider)?),
            None => None,
        },
        system: std::sync::OnceLock::new(),
        provider: Arc::clone(provider),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Refused { key: "sip.ca", path: PathBuf::new(), reason: error.to_string() })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(own)))),
        None => builder.with_no_client_auth(),
    })
}

/// What `sip.ca` holds.
#[derive(Debug)]
struct Known {
    /// A server that shows one of these is who it says: PBXs sign their own, often without the name of a host.
    own: Vec<CertificateDer<'static>>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
}

impl Known {
    fn read(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let own = certificates("sip.ca", path)?;
        let authorities = by_authority(roots("sip.ca", path)?, provider);
        Ok(Self { own, authorities })
    }
}

fn by_authority(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Option<Arc<WebPkiServerVerifier>> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build().ok()
}

/// Judges the servers that we call: by `sip.ca` alone if it is set, else by the system's authorities, which are read when
/// the first server is called.
#[derive(Debug)]
struct Servers {
    known: Option<Known>,
    system: std::sync::OnceLock<Option<Arc<WebPkiServerVerifier>>>,
    provider: Arc<CryptoProvider>,
}

impl Servers {
    fn authorities(&self) -> Option<&Arc<WebPkiServerVerifier>> {
        match &self.known {
            Some(known) => known.authorities.as_ref(),
            None => self
                .system
                .get_or_init(|| {
                    let mut roots = RootCertStore::empty();
                    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                    by_authority(roots, &self.provider)
                })
                .as_ref(),
        }
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.known.as_ref().is_some_and(|known| known.own.iter().any(|own| own == end_entity)) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
            return match not_after(end_entity) {
                Some(end) if end >= now => Ok(ServerCertVerified::assertion()),
                _ => Err(rustls::CertificateError::Expired.into()),
            };
        }
        let Some(authorities) = self.authorities() else {
            return Err(rustls::CertificateError::UnknownIssuer.into());
        };
        authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Unreadable { key, path: path.to_owned(), reason: error.kind() })
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(key, path)?;
    let advice = "convert it with: openssl x509 -in FILE -out FILE.pem";
    let content = || TlsError::Content { key, path: path.to_owned(), wanted: "certificate", advice };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|_| content())?;
    if found.is_empty() || found.iter().any(|der| x509_cert::Certificate::from_der(der).is_err()) {
        return Err(content());
    }
    Ok(found)
}

fn roots(key: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path)? {
        roots.add(certificate).map_err(|error| TlsError::Refused {
            key,
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate.validity.not_after.to_system_time())
}
