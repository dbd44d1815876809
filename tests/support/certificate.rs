//! A server certificate that a test authority has signed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::TestEnv;
use super::cli::Cli;
use super::server::Server;

/// An environment with a certificate, its key, and the certificate of the authority.
pub(crate) struct TestCertificate {
    pub(crate) env: TestEnv,
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl TestCertificate {
    pub(crate) fn new() -> Self {
        Self::with_names(&["127.0.0.1", "localhost"])
    }

    /// A certificate for these host names and addresses.
    pub(crate) fn with_names(names: &[&str]) -> Self {
        let env = TestEnv::new();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "test authority");
        let authority_key = KeyPair::generate().unwrap();
        let signed = authority.self_signed(&authority_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let issuer = Issuer::from_params(&authority, &authority_key);
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let key_file = env.file("key.pem", key.serialize_pem().as_bytes());
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
        Self {
            authority: env.file("authority.pem", signed.pem().as_bytes()),
            certificate: env.file("certificate.pem", certificate.pem().as_bytes()),
            key: key_file,
            env,
        }
    }

    /// A server with this certificate, not started yet.
    pub(crate) fn serve_with(&self, args: &[&str]) -> Cli {
        self.serve_files(&self.certificate, &self.key).args(args)
    }

    /// A running server with this certificate.
    pub(crate) fn serve(&self, args: &[&str]) -> Server {
        self.serve_with(args).start()
    }

    /// A server with these two files, not started yet.
    pub(crate) fn serve_files(&self, certificate: &Path, key: &Path) -> Cli {
        self.env.serve_with(&["--tls-cert"]).arg(certificate).arg("--tls-key").arg(key)
    }
}
