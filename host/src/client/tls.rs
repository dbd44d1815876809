//! Which servers the client takes for the right ones.
//!
//! TLS 1.3 only (COMPAT section 4). Nothing here is set for the whole process: each client has a configuration of its
//! own.

use std::error::Error;
use std::io;
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

/// What makes a server trusted.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    /// A file of certificates that are trusted beside the system's: one in DER if it is named `.der`, any number in PEM
    /// otherwise.
    pub(crate) ca: Option<PathBuf>,
    /// Believe every server.
    pub(crate) no_verify: bool,
}

/// The trusted certificates cannot be had.
#[derive(Debug, Error)]
pub(crate) enum TrustError {
    /// There is no such file, or it may not be read.
    #[error("--tls-ca: cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    /// It is something else.
    #[error("--tls-ca: {path} holds no certificate{why}; a file named .der is DER, any other is PEM")]
    NoCertificate { path: PathBuf, why: String },
    /// The cryptography is not as it was built.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
}

impl Trust {
    /// What a client needs. The system's certificates are looked for only if the server is to be reached with https.
    pub(crate) fn client_config(&self, https: bool) -> Result<ClientConfig, TrustError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca {
            add_extra(&mut roots, path)?;
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?;
        if self.no_verify {
            let anybody = Arc::new(Anybody(provider));
            return Ok(builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth());
        }
        if https {
            // What of it cannot be read is not trusted, and that is what the failure will say.
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
    let content = std::fs::read(path).map_err(|source| TrustError::Read { path: path.to_owned(), source })?;
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

/// Why no TLS connection came about, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It is not certain who is there.
    Untrusted(&'static str),
    /// Somebody is there who does not speak this TLS.
    OtherProtocol(&'static str),
}

impl Failure {
    /// What `error`, of a connection to be made, has to do with TLS.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref() {
                return Self::of_tls(error);
            }
            next = error.source();
            if let Some(io) = error.downcast_ref::<io::Error>() {
                // Nobody says this but a peer that has been greeted with TLS.
                if matches!(io.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
                    return Some(Self::OtherProtocol(PLAIN));
                }
                // An I/O error does not count what it wraps as its source.
                next = io.get_ref().map(|wrapped| wrapped as &(dyn Error + 'static)).or(next);
            }
        }
        None
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
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
                "If the server is yours, give the certificate of the authority that signed the server's with --tls-ca FILE \
                 or INFLUXDB3_TLS_CA.",
            )),
            InvalidMessage(_) => Some(Self::OtherProtocol(PLAIN)),
            PeerIncompatible(_)
            | AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure) => {
                Some(Self::OtherProtocol("Does the server allow TLS 1.3? Nothing older is spoken here."))
            }
            _ => None,
        }
    }
}

const PLAIN: &str = "If the server speaks plain HTTP, its URL begins with http://.";

/// Believes every server, since it was told to.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
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
