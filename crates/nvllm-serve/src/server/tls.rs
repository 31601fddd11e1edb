//! HTTPS: a certificate and its key.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, then those that vouch for it.
    pub certificates: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Errors if a file cannot be read or has not what it should, in one sentence.
    pub(super) fn acceptor(&self) -> io::Result<TlsAcceptor> {
        let certificates: Vec<_> = CertificateDer::pem_file_iter(&self.certificates)
            .and_then(Iterator::collect)
            .map_err(|e| problem("--ssl-certfile", &self.certificates, &e))?;
        if certificates.is_empty() {
            return Err(problem("--ssl-certfile", &self.certificates, &"there is no certificate in it"));
        }
        let key =
            PrivateKeyDer::from_pem_file(&self.key).map_err(|e| problem("--ssl-keyfile", &self.key, &e))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
            .map_err(|e| problem("--ssl-keyfile", &self.key, &e))?;
        config.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn problem(flag: &str, path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    let text = format!("{flag} {}: {error}", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
