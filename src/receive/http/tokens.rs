//! Who a client is by his token (`Authorization: Bearer …`, RFC 6750).
//!
//! A right token is let in from everywhere, also from where others failed: it has 256 bits that
//! nobody guesses. Wrong ones are answered late, and counted as failed logins of their address.

use super::problem::Problem;
use crate::base::text::hex;
use crate::base::time::Timestamp;
use crate::config::Config;
use crate::receive::logins::Logins;
use aws_lc_rs::digest;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap};
use std::net::IpAddr;

/// The tenant of a request.
pub(super) async fn tenant(
    headers: &HeaderMap,
    (config, logins): (&Config, &Logins),
    client: IpAddr,
    now: Timestamp,
) -> Result<String, Problem> {
    let unauthorised = |detail| {
        Problem::new(StatusCode::UNAUTHORIZED, detail)
            .remedy("send the header Authorization: Bearer TOKEN, with the token of a customer")
    };
    let Some(given) = headers.get(AUTHORIZATION) else {
        return Err(unauthorised("no token was given"));
    };
    let token = given.as_bytes().split_first_chunk::<7>();
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    let of = |token: &[u8]| config.tenants.of_token(&hash(token.trim_ascii()));
    let owner = token.and_then(|(_, token)| of(token));
    if let Some(owner) = owner {
        return Ok(owner.name.clone());
    }
    // By address, and no name that all of them have: nobody is locked out by another.
    let who = format!("token@{client}");
    let attempt = logins.begin(config, client, &who, now).await;
    attempt.map_err(|refusal| Problem::from(&refusal))?.failed(now);
    tokio::time::sleep(config.auth.delay).await;
    Err(unauthorised("the token is not known here"))
}

/// The form in which a token is kept.
#[must_use]
pub fn hash(token: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, token).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tenant::{Register, TenantRule};

    #[test]
    fn a_token_is_its_tenants_alone() {
        let of = |name: &str, tokens: &[&str]| TenantRule {
            name: name.into(),
            tokens: tokens.iter().map(|token| hash(token.as_bytes())).collect(),
            ..TenantRule::default()
        };
        let tenants = vec![of("a", &["one", "two"]), of("b", &["three"]), of("c", &[])];
        let tenants = Register::from(tenants);
        let owner = |token: &str| tenants.of_token(&hash(token.as_bytes()));
        let name = |token: &str| owner(token).map(|t| t.name.as_str());
        assert_eq!((name("one"), name("two"), name("three")), (Some("a"), Some("a"), Some("b")));
        assert_eq!((name("One"), name(""), name("on")), (None, None, None));
        assert_eq!(name(&hash(b"one")), None, "a hash is no token");
    }
}
