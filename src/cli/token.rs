//! `bulkhead tenant-token`: a token by which a customer's programs send by HTTP, and the line that
//! makes it known.

use super::Failure;
use super::args::Common;
use crate::base::random;
use crate::receive::http::token_hash;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::json;
use std::io::Write;

/// What tokens begin with, so that they are found where they should not be.
const MARK: &str = "bulkhead_";

pub(super) fn run(common: &Common, out: &mut impl Write) -> Result<(), Failure> {
    let secret = random::unforeseeable::<32>();
    let secret =
        secret.map_err(|_| Failure::Trouble("the system has no randomness".to_string()))?;
    let token = format!("{MARK}{}", BASE64.encode(secret));
    let hash = token_hash(token.as_bytes());
    if common.json {
        writeln!(out, "{}", json!({ "token": token, "hash": hash }))?;
    } else {
        writeln!(out, "{token}")?;
        writeln!(out, "The customer's program sends it; it is kept nowhere. In his [[tenants]]:")?;
        writeln!(out, "tokens = [\"{hash}\"]")?;
        writeln!(out, "A running node takes it with `bulkhead reload`.")?;
    }
    Ok(())
}
