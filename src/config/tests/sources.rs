//! `[sources]`, and which mail names which of them.

use super::*;
use crate::mail::message::Lane;

#[test]
fn sources_are_read_and_what_does_not_fit_is_refused() {
    let config = read(
        r#"
        hostname = "relay.test"
        [lanes.bulk]
        sources = ["b"]
        [sources.a]
        addresses = ["192.0.2.1", "2001:db8::1"]
        [sources.b]
        addresses = ["192.0.2.2"]
        hostname = "B.relay.test"
        [[tenants]]
        name = "t"
        sources = ["a"]
        "#,
    );
    let names = |lane, tenant| {
        let pool = config.sources.pool(lane, tenant);
        let named = config.sources.of(pool).map(|s| format!("{}={}", s.name, s.hostname));
        named.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(Lane::Direct, "x"), "a=relay.test b=b.relay.test");
    assert_eq!(names(Lane::Bulk, "x"), "b=b.relay.test");
    assert_eq!(names(Lane::Bulk, "t"), "a=relay.test");
    let one = "[sources.a]\naddresses = [\"192.0.2.1\"]\n";
    for (text, part) in [
        ("[sources.a]\n", "addresses"),
        ("[sources.\"a b\"]\naddresses = [\"192.0.2.1\"]", "is not a source's name"),
        ("[sources.a]\naddresses = [\"0.0.0.0\"]", "is not an address to send from"),
        ("[sources.a]\naddresses = [\"192.0.2.1\", \"192.0.2.2\"]", "or one of each family"),
        ("[sources.a]\naddresses = []", "or one of each family"),
        (&format!("{one}[sources.b]\naddresses = [\"192.0.2.1\"]"), "that of source \"a\" already"),
        (&format!("{one}[lanes.direct]\nsources = [\"b\"]"), "no source; there are a"),
        ("[lanes.direct]\nsources = [\"b\"]", "there is no [sources.b]"),
        ("[[tenants]]\nname = \"t\"\nsources = [\"b\"]", "there is no [sources.b]"),
    ] {
        let error = Config::parse(text, &place()).expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}
