//! The server side of TLS: a certificate chain and its key, read from files, and read again when
//! they are renewed (docs/compatibility.md 5.1).
//!
//! Knows no sockets, and not when to read. Cryptography comes from ring and is passed explicitly:
//! nothing is installed for the whole process.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig, SupportedProtocolVersion};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};
use zeroize::Zeroizing;

use crate::certificate::{
    self, CertificateFacts, OPENSSL_OPTIONS, UnusableCertificate, Validity, seconds_now, time_as_text,
};
use crate::private_file::Mode;
use crate::private_file::ownership::trust_file_at;

/// The size limit of a file with certificates or a key, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The oldest version of TLS that a client may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MinimumVersion {
    /// TLS 1.2 (RFC 5246). Clients that support 1.3 use it.
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl MinimumVersion {
    fn versions(self) -> Vec<&'static SupportedProtocolVersion> {
        match self {
            Self::Tls12 => vec![&TLS13, &TLS12],
            Self::Tls13 => vec![&TLS13],
        }
    }
}

/// The TLS of a server. Its listeners share it: a renewed certificate is for all of them.
#[derive(Debug, Clone)]
pub(crate) struct ServerTls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    certificates: PathBuf,
    key: PathBuf,
    minimum: MinimumVersion,
    presented: RwLock<Arc<Presented>>,
}

/// A certificate with the configuration that presents it. A reload makes another one, which shares
/// no session with this one.
#[derive(Debug)]
pub(crate) struct Presented {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) names: CertificateNames,
    pub(crate) facts: CertificateFacts,
    chain: Vec<CertificateDer<'static>>,
    key_mode: Mode,
}

/// The DNS names in the certificate of a server, without wildcards. A server of another name cannot
/// present that certificate to a client that verifies it.
pub(crate) type CertificateNames = Arc<[String]>;

impl ServerTls {
    /// Returns what new connections present.
    pub(crate) fn presented(&self) -> Arc<Presented> {
        Arc::clone(&self.0.presented.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the file of the certificates.
    pub(crate) fn certificate_file(&self) -> &Path {
        &self.0.certificates
    }

    /// Returns the files of certificates and key.
    pub(crate) fn files(&self) -> [PathBuf; 2] {
        [self.0.certificates.clone(), self.0.key.clone()]
    }

    /// Reads both files again, for new connections. Returns whether the certificates are others.
    /// After an error, the previous ones stay.
    pub(crate) fn reload(&self) -> Result<bool, TlsError> {
        let Shared { certificates, key, minimum, .. } = &*self.0;
        let found = read(certificates, key, *minimum)?;
        let current = self.presented();
        if found.chain == current.chain {
            return Ok(false);
        }
        // A clock that is ahead, or a file that was put back, must not end a working service.
        let now = seconds_now();
        if current.facts.validity_at(now) == Validity::Now && found.facts.validity_at(now) != Validity::Now {
            let CertificateFacts { not_before, not_after, .. } = found.facts;
            return Err(TlsError::NotValidNow { certificates: certificates.clone(), not_before, not_after });
        }
        found.warn_of_readable_key(key);
        *self.0.presented.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        Ok(true)
    }
}

impl Presented {
    fn warn_of_readable_key(&self, key: &Path) {
        if self.key_mode.is_world_readable() {
            tracing::warn!(
                "every user of this machine can read the TLS key (mode {:o}); run: chmod o-r {}",
                self.key_mode,
                key.display()
            );
        }
    }

    /// Returns whether the certificate is valid for this name or address.
    pub(crate) fn certifies(&self, name: &str) -> bool {
        self.chain.first().is_some_and(|certificate| certificate::certifies(certificate, name))
    }

    /// Returns a name of the certificate by which a client on this machine reaches this address:
    /// `localhost` or a name below it (RFC 6761, section 6.3), or any name if other machines can
    /// reach the address, too.
    pub(crate) fn name_for(&self, ip: IpAddr) -> Option<&str> {
        let is_here = |name: &str| {
            let name = name.to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        };
        let is_default_loopback = ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST;
        self.names
            .iter()
            .map(String::as_str)
            .find(|name| if is_here(name) { is_default_loopback } else { !ip.is_loopback() })
            // A wildcard cannot certify it.
            .filter(|name| self.certifies(name))
    }

    /// Logs a warning for each property of the certificate that makes clients refuse it. `address`
    /// is that of the main listener.
    pub(crate) fn warn_of_unusable(&self, address: SocketAddr, file: &Path) {
        let (file, facts) = (file.display(), &self.facts);
        if !facts.is_for_servers {
            tracing::warn!(
                "the TLS certificate {file} is not for servers (extendedKeyUsage), so that clients refuse it; make another \
                 one with extendedKeyUsage=serverAuth"
            );
        }
        if facts.names.is_empty() {
            tracing::warn!(
                "the TLS certificate {file} has no names (subjectAltName), so that most clients refuse it; make another one, \
                 with openssl: {OPENSSL_OPTIONS}"
            );
        } else if address.ip().to_canonical().is_loopback()
            && !self.certifies(&address.ip().to_canonical().to_string())
            && self.name_for(address.ip().to_canonical()).is_none()
        {
            tracing::warn!(
                "the TLS certificate {file} names {}, but neither localhost nor {}, so that clients of this address refuse it",
                facts.names_as_text(),
                address.ip()
            );
        }
    }

    /// Returns whether one of these authorities has signed the certificate, directly or through
    /// the others of its file.
    pub(crate) fn is_issued_by(
        &self,
        authorities: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities);
        let algorithms = ring::default_provider().signature_verification_algorithms;
        let Some((certificate, others)) = self.chain.split_first() else { return false };
        let Ok(certificate) = EndEntityCert::try_from(certificate) else { return false };
        let (usage, now) = (KeyUsage::server_auth(), UnixTime::now());
        certificate.verify_for_usage(algorithms.all, &roots.roots, others, now, usage, None, None).is_ok()
    }
}

impl FromStr for MinimumVersion {
    type Err = &'static str;

    fn from_str(version: &str) -> Result<Self, Self::Err> {
        match version {
            "tls-1.2" => Ok(Self::Tls12),
            "tls-1.3" => Ok(Self::Tls13),
            _ => Err("Valid minimum version strings are tls-1.2 and tls-1.3"),
        }
    }
}

/// The certificate or the key cannot be used.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    /// The file cannot be read.
    #[error("cannot read the TLS {what} {}", file.display())]
    Read { what: &'static str, file: PathBuf, source: io::Error },
    /// The file has another format.
    #[error(
        "the TLS {what} {0} is not a PEM file, which has lines such as -----BEGIN CERTIFICATE-----; convert one that is DER with: \
         openssl {command} -inform DER -in {0} -out NEW_FILE",
        file.display()
    )]
    NotPem { what: &'static str, command: &'static str, file: PathBuf },
    /// A section of the file is damaged.
    #[error("the TLS {what} {} is a damaged PEM file; was it copied whole?", file.display())]
    Damaged { what: &'static str, file: PathBuf },
    /// The file has no such section; perhaps the two files are swapped.
    #[error("there is no {what} in {}; is it the right file?", file.display())]
    NoSection { what: &'static str, file: PathBuf },
    /// The key is encrypted, and a server cannot ask for a password.
    #[error("the TLS key {0} is encrypted; decrypt it with: openssl pkey -in {0} -out NEW_FILE", file.display())]
    Encrypted { file: PathBuf },
    /// Key and certificate belong to different pairs.
    #[error(
        "the TLS key {} does not belong to the first certificate in {}; the certificate of this server comes first, those that signed it \
         after it",
        key.display(),
        certificates.display()
    )]
    KeyMismatch { key: PathBuf, certificates: PathBuf },
    /// The algorithm of the key is not supported.
    #[error(
        "the TLS key {} with the certificate {} cannot be used; a key is RSA with 2048 bits or more, ECDSA P-256 or P-384, or Ed25519",
        key.display(),
        certificates.display()
    )]
    Unusable { key: PathBuf, certificates: PathBuf, source: rustls::Error },
    /// No client can verify the certificate.
    #[error("the TLS certificate {} cannot be used: {cause}", certificates.display())]
    NoClient { certificates: PathBuf, cause: UnusableCertificate },
    /// The time of a renewed certificate is not the present, unlike that of the one in use.
    #[error(
        "the TLS certificate {} is valid from {} to {}, which is not now",
        certificates.display(),
        time_as_text(*not_before),
        time_as_text(*not_after)
    )]
    NotValidNow { certificates: PathBuf, not_before: u64, not_after: u64 },
    /// Unreachable with the versions and the provider that [`load`] requests.
    #[error("the requested versions of TLS are not available")]
    Versions(#[source] rustls::Error),
}

/// Reads the certificate chain and its key, both PEM, for clients that support at least `minimum`.
/// Offers HTTP/2 before HTTP/1.1. Logs a warning if every user can read the key.
pub(crate) fn load(certificates: &Path, key: &Path, minimum: MinimumVersion) -> Result<ServerTls, TlsError> {
    let presented = read(certificates, key, minimum)?;
    presented.warn_of_readable_key(key);
    let presented = RwLock::new(Arc::new(presented));
    let (certificates, key) = (certificates.to_owned(), key.to_owned());
    Ok(ServerTls(Arc::new(Shared { certificates, key, minimum, presented })))
}

fn read(certificates: &Path, key: &Path, minimum: MinimumVersion) -> Result<Presented, TlsError> {
    let chain = read_chain(certificates)?;
    let no_section = || TlsError::NoSection { what: "certificate", file: certificates.to_owned() };
    let certificate = chain.first().cloned().ok_or_else(no_section)?;
    let (private, key_mode) = read_key(key)?;
    let facts = CertificateFacts::read(&certificate);
    if let Err(cause @ UnusableCertificate::Version1) = facts {
        return Err(TlsError::NoClient { certificates: certificates.to_owned(), cause });
    }
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&minimum.versions())
        .map_err(TlsError::Versions)?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), private)
        .map_err(|error| {
            let (key, certificates) = (key.to_owned(), certificates.to_owned());
            match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    TlsError::KeyMismatch { key, certificates }
                }
                source => TlsError::Unusable { key, certificates, source },
            }
        })?;
    let facts = facts.map_err(|cause| TlsError::NoClient { certificates: certificates.to_owned(), cause })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Presented { config: Arc::new(config), names: dns_names(&certificate), facts, chain, key_mode })
}

/// Returns the DNS names of a certificate. A wildcard is left out: it is valid for many servers.
fn dns_names(certificate: &CertificateDer<'_>) -> CertificateNames {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return CertificateNames::default();
    };
    certificate.valid_dns_names().filter(|name| !name.contains('*')).map(str::to_owned).collect()
}

/// Opens a file. A pipe may have no writer, and would hold up every later reload.
fn open_file(file: &Path) -> io::Result<File> {
    if fs::metadata(file)?.file_type().is_fifo() {
        return Err(io::Error::other("it is a pipe"));
    }
    File::open(file)
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificate";
    let mut text = Vec::new();
    trust_file_at(file)
        .map_err(io::Error::from)
        .and_then(|_| open_file(file)?.take(MAX_BYTES).read_to_end(&mut text))
        .map_err(|source| TlsError::Read { what, file: file.to_owned(), source })?;
    sections(&text, what, "x509", file)
}

fn read_key(file: &Path) -> Result<(PrivateKeyDer<'static>, Mode), TlsError> {
    let what = "key";
    let mut text = Zeroizing::new(Vec::new());
    let mode = trust_file_at(file)
        .map_err(io::Error::from)
        .and_then(|_| open_file(file))
        .and_then(|opened| {
            (&opened).take(MAX_BYTES).read_to_end(&mut text)?;
            Ok(Mode::of(&opened.metadata()?))
        })
        .map_err(|source| TlsError::Read { what, file: file.to_owned(), source })?;
    // In the label of the section, or in a header line below it (RFC 1421).
    if text.windows(b"ENCRYPTED".len()).any(|window| window == b"ENCRYPTED") {
        return Err(TlsError::Encrypted { file: file.to_owned() });
    }
    let key = sections(&text, what, "pkey", file)?.into_iter().next();
    let key = key.ok_or_else(|| TlsError::NoSection { what, file: file.to_owned() })?;
    Ok((key, mode))
}

/// Returns the sections of type `T` in a PEM file. `command` is the openssl command for that type.
fn sections<T: PemObject>(
    text: &[u8],
    what: &'static str,
    command: &'static str,
    file: &Path,
) -> Result<Vec<T>, TlsError> {
    let begin = b"-----BEGIN ";
    if !text.windows(begin.len()).any(|window| window == begin) {
        return Err(TlsError::NotPem { what, command, file: file.to_owned() });
    }
    // Without the message of the parser, which quotes the file.
    T::pem_slice_iter(text)
        .collect::<Result<_, pem::Error>>()
        .map_err(|_| TlsError::Damaged { what, file: file.to_owned() })
}
