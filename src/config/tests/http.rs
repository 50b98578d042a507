//! `[http]`, and the tokens of its customers.

use super::*;

#[test]
fn http_is_read_and_what_would_show_tokens_is_refused() {
    let hash = "AB".repeat(32);
    let config = read(&format!(
        "[http]\nlisten = \"[::1]:8025\"\nrecipients = 7\n[[tenants]]\nname = \"t\"\n\
         tokens = [\"{hash}\"]"
    ));
    assert_eq!(config.http.listen, Some("[::1]:8025".parse().unwrap()));
    assert_eq!((config.http.recipients, config.http.connections), (7, 200));
    assert_eq!(config.tenants[0].tokens, [hash.to_lowercase()]);
    assert_eq!(read("").http.listen, None);

    check(
        "[http]\nlisten = \"10.0.0.1:80\"",
        &["2:10: [http] listen is no loopback address, and tokens would be read on the way; give \
           tls = true"],
    );
    check(
        "[http]\nlisten = \"10.0.0.1:80\"\ntls = true",
        &["3:7: [http] tls wants a certificate; give [tls] certificate"],
    );
    check(
        "[http]\nlisten = \"127.0.0.1:2525\"",
        &["2:10: [http] listen is that of a [[listen]], too; take another port"],
    );
    let tenant = |name: &str| format!("[[tenants]]\nname = \"{name}\"\ntokens = [\"{hash}\"]\n");
    check(
        &(tenant("a") + &tenant("b")),
        &["6:10: [[tenants]] tokens has a token that another tenant has; each has its own"],
    );
    check(
        &tenant("*"),
        &["3:10: [[tenants]] tokens is for one tenant; give it an entry with its name"],
    );
}

#[test]
fn what_is_no_hash_is_not_shown() {
    let text = "[[tenants]]\nname = \"a\"\ntokens = [\"bulkhead_secret\"]";
    let error = Config::parse(text, &place()).err().unwrap().to_string();
    assert!(error.contains("3:11") && error.contains("`bulkhead tenant-token`"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}
