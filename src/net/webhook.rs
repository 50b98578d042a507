//! Tells another program by HTTP that something has happened.

use rustls::crypto::aws_lc_rs as crypto;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// How long it may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Posts a value as JSON. Over `https` the certificate has to be one that this machine trusts;
/// another place that the answer names is not gone to. Blocks.
///
/// # Errors
/// A sentence: why it did not come about, or what was answered in place of a 2xx.
pub fn post(url: &str, value: &impl Serialize) -> Result<(), String> {
    let mut config = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .max_redirects(0)
        .user_agent("bulkhead");
    if url.starts_with("https:") {
        let found = rustls_native_certs::load_native_certs();
        let roots = found.certs.iter().map(|root| Certificate::from_der(root).to_owned());
        let roots = RootCerts::from(roots.collect::<Vec<_>>());
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(crypto::default_provider()))
            .root_certs(roots);
        config = config.tls_config(tls.build());
    }
    let agent = ureq::Agent::new_with_config(config.build());
    let answer = agent.post(url).send_json(value).map_err(|error| error.to_string())?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("answered {status}")),
    }
}
