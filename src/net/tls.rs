//! TLS on both sides: of receivers, opportunistic; of clients, with our certificate.
//!
//! As a client, encryption where it is offered, without asking who is there (RFC 7435): a receiving
//! host's certificate proves nothing as long as its name comes from plain DNS, and the alternative
//! to an unchecked certificate is clear text. So any certificate will do; the handshake's own
//! signatures are still checked.

use crate::base::text::hex;
use crate::config::ServerTls;
use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as crypto};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::path::Path;
use std::sync::Arc;

/// The settings of every TLS handshake as a client.
///
/// # Errors
/// The cryptography provider has none of the protocol versions.
pub(super) fn client_config() -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(crypto::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Why there is no TLS for clients.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file that cannot be read, or holds something else.
    #[error("[tls] {key} {file}: {what}")]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// Its file.
        file: String,
        /// What is wrong with it, and what helps.
        what: String,
    },
    /// Both can be read, and are of no use together.
    #[error("[tls] {0}: {1}; is it the key of this certificate?")]
    Unfit(String, Error),
}

/// The settings of every TLS handshake as a server, with the certificate of these files; `None`
/// where there is none. Clients may show a certificate of their own: that it is theirs is checked,
/// and what it is worth is for others to say.
///
/// # Errors
/// [`CertificateError`].
pub fn server_config(files: &ServerTls) -> Result<Option<Arc<ServerConfig>>, CertificateError> {
    let Some(certificate) = &files.certificate else { return Ok(None) };
    let key_file = files.key.as_ref().unwrap_or(certificate);
    let wrong = |key, file: &Path, what: String| CertificateError::File {
        key,
        file: file.display().to_string(),
        what,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| wrong("certificate", certificate, error.to_string()))?;
    if chain.is_empty() {
        let what = "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_string();
        return Err(wrong("certificate", certificate, what));
    }
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|error| wrong("key", key_file, error.to_string()))?;
    let unfit = |error| CertificateError::Unfit(certificate.display().to_string(), error);
    let provider = Arc::new(crypto::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(unfit)?;
    // Programs on web servers connect anew for each message and come back with no ticket.
    config.send_tls13_tickets = 0;
    Ok(Some(Arc::new(config)))
}

/// The SHA-256 fingerprint of a certificate: 64 hexadecimal digits in lower case.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex(digest::digest(&digest::SHA256, certificate).as_ref())
}

/// That the other side has the key of the certificate it shows.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            verify_tls12_signature(message, certificate, signature, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Takes every certificate.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

/// Of a client, too: its certificate is known by its fingerprint, or is worth nothing.
impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}
