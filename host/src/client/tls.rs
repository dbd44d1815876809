//! Which servers the client trusts, and why a TLS connection fails.
//!
//! TLS 1.3 only (docs/compatibility.md 4). Each client has its own configuration; nothing is set
//! for the whole process.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    version,
};
use thiserror::Error;

/// The most bytes of a file of certificates. All certificates of a system have less than one MiB.
const MAX_CA_BYTES: u64 = 4 << 20;

/// What a server must prove.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    /// A file of certificates that are trusted beside those of the system: one in DER if its name
    /// ends in `.der`, any number in PEM otherwise.
    pub(crate) ca: Option<PathBuf>,
    /// Accepts every certificate.
    pub(crate) no_verify: bool,
}

/// The trusted certificates cannot be loaded.
#[derive(Debug, Error)]
pub(crate) enum TrustError {
    /// The file cannot be read.
    #[error("--tls-ca: cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    /// The file is larger than any file of certificates.
    #[error("--tls-ca: {path} is larger than 4 MiB; give a file of certificates")]
    TooLarge { path: PathBuf },
    /// The file holds no certificate that can be used.
    #[error("--tls-ca: {path} holds no certificate{why}; a file named .der is DER, any other is PEM")]
    NoCertificate { path: PathBuf, why: String },
    /// The TLS library refuses the configuration.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
}

impl Trust {
    /// Returns the configuration of a client. Loads the certificates of the system only for
    /// `https`.
    pub(crate) fn client_config(&self, https: bool) -> Result<ClientConfig, TrustError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca {
            add_extra(&mut roots, path)?;
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?;
        if self.no_verify {
            let verifier = Arc::new(NoVerification(provider));
            return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
        }
        if https {
            // A certificate that cannot be read is not trusted; the failure of the connection names
            // it.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

fn add_extra(roots: &mut RootCertStore, path: &Path) -> Result<(), TrustError> {
    let none = |why: Option<String>| TrustError::NoCertificate {
        path: path.to_owned(),
        why: why.map(|why| format!(" that can be used ({why})")).unwrap_or_default(),
    };
    let read = |source| TrustError::Read { path: path.to_owned(), source };
    let mut content = Vec::new();
    let file = File::open(path).map_err(read)?;
    file.take(MAX_CA_BYTES + 1).read_to_end(&mut content).map_err(read)?;
    if content.len() as u64 > MAX_CA_BYTES {
        return Err(TrustError::TooLarge { path: path.to_owned() });
    }
    let certificates: Vec<_> = if path.extension().is_some_and(|extension| extension == "der") {
        vec![CertificateDer::from(content)]
    } else {
        CertificateDer::pem_slice_iter(&content)
            .collect::<Result<_, pem::Error>>()
            .map_err(|error| none(Some(error.to_string())))?
    };
    if certificates.is_empty() {
        return Err(none(None));
    }
    for certificate in certificates {
        roots.add(certificate).map_err(|error| none(Some(error.to_string())))?;
    }
    Ok(())
}

/// Why a TLS connection failed, with a hint for the user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TlsFailure {
    /// The peer did not prove that it is the server.
    Untrusted(&'static str),
    /// The peer speaks another protocol, or another version of TLS.
    OtherProtocol(&'static str),
}

impl TlsFailure {
    /// Searches the causes of a failed connection for one that concerns TLS.
    pub(crate) fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref() {
                return Self::from_rustls(error);
            }
            next = error.source();
            if let Some(io) = error.downcast_ref::<io::Error>() {
                // Before the handshake is complete, a peer that does not speak TLS closes so.
                if matches!(io.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
                    return Some(Self::OtherProtocol(PLAIN_HTTP_HINT));
                }
                // An I/O error does not count what it wraps as its source.
                next = io.get_ref().map(|wrapped| wrapped as &(dyn Error + 'static)).or(next);
            }
        }
        None
    }

    fn from_rustls(error: &rustls::Error) -> Option<Self> {
        use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage, PeerIncompatible};
        match error {
            InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Some(Self::Untrusted("Give --host the name that the certificate was made for.")),
            InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => Some(Self::Untrusted(
                "Renew the certificate of the server, or set the clock of this machine.",
            )),
            InvalidCertificate(_) => Some(Self::Untrusted(
                "If the server is yours, give the certificate of the authority that signed its certificate with \
                 --tls-ca FILE or INFLUXDB3_TLS_CA.",
            )),
            InvalidMessage(_) => Some(Self::OtherProtocol(PLAIN_HTTP_HINT)),
            PeerIncompatible(_)
            | AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure) => {
                Some(Self::OtherProtocol("Does the server allow TLS 1.3? This program requires it."))
            }
            _ => None,
        }
    }
}

const PLAIN_HTTP_HINT: &str = "If the server speaks plain HTTP, its URL begins with http://.";

/// Accepts every certificate, for `--tls-no-verify`.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
