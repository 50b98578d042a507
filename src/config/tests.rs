//! Whole files: what they give, and every kind of mistake with its exact message.

use super::*;
use crate::policy::rules::{Action, Scope};
use crate::smtp::reply::Reply;
use proptest::prelude::*;
use std::net::IpAddr;

mod auth;
mod http;
mod sources;

fn place() -> Place {
    Place { name: "config.toml".into(), dir: "/etc/b".into(), machine: "web1.example.net".into() }
}

/// The defaults, on a machine called `relay.test`: for the tests of other modules.
pub(crate) fn defaults() -> Config {
    let place = Place { name: "test".into(), dir: "/".into(), machine: "relay.test".into() };
    Config::parse("", &place).unwrap().config
}

fn read(text: &str) -> Config {
    Config::parse(text, &place()).unwrap_or_else(|errors| panic!("{errors}")).config
}

/// What is said about `text`, without the last line that counts the problems.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let errors = Config::parse(text, &place()).expect_err("should not be accepted").to_string();
    let s = if expected.len() == 1 { "" } else { "s" };
    let count = format!("{} problem{s} in config.toml", expected.len());
    let expected: Vec<_> = expected.iter().map(|line| format!("config.toml:{line}\n")).collect();
    assert_eq!(errors, format!("{}{count}", expected.concat()));
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let c = read("");
    assert_eq!(c.hostname.as_str(), "web1.example.net");
    assert_eq!(c.data_dir, Path::new("/etc/b/data"));
    assert_eq!(c.control.socket, Path::new("/etc/b/data/control.sock"));
    assert_eq!(c.listen.len(), 1);
    assert_eq!(c.listen[0].address.to_string(), "127.0.0.1:2525");
    assert!(c.relay.networks.contains(IpAddr::from([127, 9, 9, 9])));
    assert!(c.relay.networks.contains("::1".parse().unwrap()));
    assert!(!c.relay.networks.contains(IpAddr::from([10, 0, 0, 1])));
    assert_eq!((c.limits.message_size, c.limits.line_length), (50 << 20, 100 << 10));
    assert_eq!(c.lanes.rules.headers.len(), 1);
    assert_eq!((c.lanes.gather, c.delivery.dot_timeout), (secs(30), secs(600)));
    assert_eq!((c.delivery.greeting_timeout, c.delivery.data_timeout), (secs(300), secs(120)));
    assert_eq!((c.delivery.port, c.delivery.allow_private), (25, false));
    assert_eq!(c.delivery.tls, Tls::Opportunistic);
    let limits = &c.sites.default;
    assert_eq!((limits.connections, limits.reserved_for_direct), (10, 2));
    assert_eq!((limits.deliveries_per_connection, limits.recipients_per_transaction), (100, 100));
    assert_eq!((limits.rates.len(), c.sites.rules.len(), c.tenants.len()), (0, 0, 0));
    assert_eq!(c.retry.direct.waits.first(), Some(&secs(30)));
    assert_eq!(c.retry.direct.delay_notice, Some(secs(4 * 3_600)));
    assert_eq!((c.retry.bulk.waits.len(), c.retry.bulk.expire), (6, secs(172_800)));
    assert_eq!((c.retry.bulk.delay_notice, c.retry.bulk.jitter), (None, 0.2));
    assert_eq!((c.store.engine, c.log.json, c.log.level.as_str()), (Engine::Sqlite, false, "info"));
}

/// All that is set, without the lines on which it stands.
fn values(mut config: Config) -> String {
    config.sites.default_lines.clear();
    config.sites.rules.iter_mut().for_each(|rule| rule.lines.clear());
    format!("{config:?}")
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[test]
fn config_toml_of_the_source_tree_is_the_reference() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
    assert_eq!(
        std::fs::read_to_string(file).unwrap(),
        reference(),
        "run `bulkhead config default`"
    );
    let from_file = Config::parse(&reference(), &place()).unwrap().config;
    assert_eq!(values(from_file), values(read("")));
}

#[test]
fn the_reference_has_every_key_and_its_examples_are_good() {
    let uncommented: String = reference()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let explained = Config::parse(&uncommented, &place()).unwrap();
    let declared = keys::SECTIONS.iter().map(|section| section.keys.len()).sum::<usize>();
    assert_eq!(explained.settings.len(), declared);
    assert!(explained.settings.iter().all(|setting| setting.origin != Origin::Default));
    for section in keys::SECTIONS {
        for key in section.keys.iter().filter(|key| matches!(key.default, keys::Fallback::Is(_))) {
            assert!(!key.doc.is_empty(), "{} {}", section.name, key.name);
        }
    }
    assert!(reference().lines().all(|line| line.chars().count() <= 100));
}

#[test]
fn a_file_of_its_own_reads_as_written() {
    let c = read(
        r#"
        hostname = "Relay.Example.Net"
        data_dir = "/var/lib/bulkhead"
        listen = [{ address = "0.0.0.0:25" }, { address = "[::1]:2525" }]
        [relay]
        networks = ["10.0.0.0/8", "192.0.2.7"]
        [lanes.direct]
        [lanes.bulk]
        headers = ["X-Newsletter", "Precedence: Bulk"]
        strip = ["X-Newsletter"]
        gather = "0s"
        [[tenants]]
        name = "c1842"
        networks = ["10.1.0.0/16"]
        sender_domains = ["Shop.Example"]
        weight = 3
        [[tenants]]
        name = "c7"
        [dns]
        servers = ["127.0.0.1:5353"]
        [delivery]
        port = 2_525
        allow_private = true
        tls = "off"
        [sites.default]
        connections = 1
        rate = ["100/s", "50_000/day"]
        connection_rate = "30/min"
        [sites."Gmail.com"]
        connections = 20
        [sites.".outlook.com"]
        rate = "none"
        reserved_for_direct = 0
        [retry.bulk]
        waits = ["10s"]
        jitter = 0
        delay_notice = "1h"
        [control]
        socket = "/run/bulkhead.sock"
        [log]
        format = "json"
        level = "warn,bulkhead::deliver=debug"
        "#,
    );
    assert_eq!(c.hostname.as_str(), "relay.example.net");
    let addresses: Vec<_> = c.listen.iter().map(|l| l.address.to_string()).collect();
    assert_eq!(addresses, ["0.0.0.0:25", "[::1]:2525"]);
    assert!(c.relay.networks.contains(IpAddr::from([192, 0, 2, 7])));
    assert!(!c.relay.networks.contains(IpAddr::from([127, 0, 0, 1])));
    assert_eq!(c.lanes.rules.headers[1].pattern.as_deref(), Some("bulk"));
    assert_eq!(c.lanes.rules.strip, ["x-newsletter"]);
    let [first, second] = &c.tenants[..] else { panic!("two tenants") };
    assert_eq!((first.weight, second.weight, second.name.as_str()), (3, 1, "c7"));
    assert_eq!(first.sender_domains, ["shop.example"]);
    assert!(second.sender_domains.is_empty());
    assert_eq!((c.sites.default.connections, c.sites.default.reserved_for_direct), (1, 0));
    let rates: Vec<String> = c.sites.default.rates.iter().map(ToString::to_string).collect();
    assert_eq!(rates, ["100/s", "50000/d"]);
    assert_eq!(c.sites.default.connection_rates[0].to_string(), "30/min");
    let [gmail, outlook] = &c.sites.rules[..] else { panic!("two rules") };
    assert_eq!(
        (gmail.name.as_str(), gmail.connections, &gmail.rates),
        ("gmail.com", Some(20), &None)
    );
    assert_eq!((outlook.name.as_str(), &outlook.rates), ("outlook.com", &Some(Vec::new())));
    assert_eq!((c.retry.bulk.jitter, c.retry.bulk.delay_notice), (0.0, Some(secs(3_600))));
    assert_eq!((c.control.socket.to_str(), c.log.json), (Some("/run/bulkhead.sock"), true));
    assert_eq!((c.delivery.port, c.delivery.tls), (2_525, Tls::Off));
}

#[test]
fn a_domain_has_limits_of_its_own() {
    let c = read(
        "[domains.\"Example.com\"]\nrate = [\"60/min\", \"1000/d\"]\n\
         [domains.\"b.test\"]\nrecipients_per_transaction = 7",
    );
    let [domain, other] = &c.domains[..] else { panic!("two domains") };
    let rates: Vec<String> = domain.rates.iter().map(ToString::to_string).collect();
    assert_eq!(
        (domain.name.as_str(), &domain.lines[..]),
        ("example.com", &[(LimitKey::Rate, 2)][..])
    );
    assert_eq!(rates, ["60/min", "1000/d"]);
    assert_eq!((domain.recipients_per_transaction, &other.rates[..]), (None, &[][..]));
    assert_eq!(other.recipients_per_transaction, Some(7));
    check(
        "[domains.\"a.test\"]\nrecipients_per_transaction = 0",
        &["2:30: [domains.\"a.test\"] recipients_per_transaction = 0: must be 1 to 1000"],
    );
}

#[test]
fn all_problems_are_told_at_once_with_place_and_remedy() {
    check(
        "[lanes.bulk]\ngathr = \"30s\"\n\n[sites.\"gmail.com\"]\nconnections = 0\n",
        &[
            "2:1: unknown key `gathr` in [lanes.bulk]; did you mean `gather`?",
            "5:15: [sites.\"gmail.com\"] connections = 0: must be 1 to 1000",
        ],
    );
}

#[test]
fn unknown_keys_get_the_best_suggestion_there_is() {
    check("hostnam = \"x\"", &["1:1: unknown key `hostnam` at the top; did you mean `hostname`?"]);
    check("[retry.bulc]", &["1:8: unknown key `bulc` in [retry]; did you mean `bulk`?"]);
    check("[limit]\nhops = 1", &["1:2: unknown key `limit` at the top; did you mean `limits`?"]);
    check("[log]\nport = 25", &["2:1: unknown key `port` in [log]; it belongs in [delivery]"]);
    check(
        "[domains.\"a.de\"]\nconnections = 3",
        &["2:1: unknown key `connections` in [domains.\"a.de\"]; it belongs in [http] or \
           [delivery] or [sites.default] or [sites.\"gmail.com\"]"],
    );
    check(
        "[dns]\ndata_dir = \"x\"",
        &["2:1: unknown key `data_dir` in [dns]; it belongs at the top of the file, above the \
             first [section]"],
    );
    check(
        "[relay]\nxyz = 1",
        &["2:1: unknown key `xyz` in [relay]; known here: networks, tenant_header, \
             tenant_header_from"],
    );
    check(
        "[lanes.direct]\nxyz = 1",
        &["2:1: unknown key `xyz` in [lanes.direct]; known here: sources"],
    );
    check(
        "[limits]\nxyz = 1",
        &["2:1: unknown key `xyz` in [limits]; see config.toml for the keys there are"],
    );
    check(
        "[[tenants]]\nname = \"a\"\nwieght = 1",
        &["3:1: unknown key `wieght` in [[tenants]]; did you mean `weight`?"],
    );
    check(
        "\"a\\u001bb\" = 1",
        &["1:1: unknown key `a\\x1bb` at the top; see config.toml for the keys there are"],
    );
}

#[test]
fn wrong_types_units_and_ranges_are_named() {
    check(
        "hostname = 5",
        &["1:12: hostname = 5: must be text in quotes, such as \"relay.example.net\""],
    );
    check("hostname = \"a b\"", &["1:12: hostname: \"a b\" is not a host name: invalid domain"]);
    check(
        "[limits]\nhops = \"10\"",
        &["2:8: [limits] hops = \"10\": must be a whole number from 1 to 1000 (without quotes)"],
    );
    check("[limits]\nhops = -1", &["2:8: [limits] hops = -1: must be 1 to 1000"]);
    check(
        "[lanes.bulk]\ngather = 30",
        &["2:10: [lanes.bulk] gather = 30: must be text in quotes, such as \"30s\""],
    );
    check(
        "[lanes.bulk]\ngather = \"30\"",
        &["2:10: [lanes.bulk] gather: \"30\" is not a duration; write it as \"30s\", \"2m\", \
             \"1h\" or \"5d\""],
    );
    check(
        "[lanes.bulk]\ngather = \"2h\"",
        &["2:10: [lanes.bulk] gather = \"2h\": must be \"0s\" to \"1h\""],
    );
    check(
        "[limits]\nmessage_size = \"25 MB\"",
        &["2:16: [limits] message_size: \"25 MB\" is not a size; write it as \"64 KiB\", \"25 \
             MiB\" or \"2 GiB\""],
    );
    check(
        "[sites.default]\nrate = \"100\"",
        &["2:8: [sites.default] rate: \"100\" is not a rate; write it as \"100/s\", \
             \"6000/min\", \"5000/h\" or \"none\""],
    );
    check(
        "[sites.default]\nrate = [\"none\", \"1/w\"]\nconnection_rate = []",
        &[
            "2:9: [sites.default] rate: \"none\" stands alone, without brackets",
            "2:17: [sites.default] rate: \"1/w\" is not a rate; write it as \"100/s\", \
             \"6000/min\", \"5000/h\" or \"none\"",
            "3:19: [sites.default] connection_rate = []: must be at least one rate, such as \
             [\"100/s\", \"20000/d\"], or \"none\"",
        ],
    );
    check(
        "[sites.default]\nrate = [\"1/s\", \"2/s\"]",
        &["2:8: [sites.default] rate = [\"1/s\", \"2/s\"]: must be rates of different windows: \
             of two for the same, one never counts"],
    );
    check(
        "[delivery]\nallow_private = \"yes\"\ntls = \"on\"",
        &[
            "2:17: [delivery] allow_private = \"yes\": must be true or false (without quotes)",
            "3:7: [delivery] tls = \"on\": must be \"opportunistic\" or \"off\"",
        ],
    );
    check(
        "[retry.bulk]\njitter = 0.6",
        &["2:10: [retry.bulk] jitter = 0.6: must be a number from 0 to 0.5"],
    );
    check(
        "[log]\nlevel = \"infoo\"",
        &["2:9: [log] level: \"infoo\" is not a level; write one of error, warn, info, debug, \
             trace, off"],
    );
}

#[test]
fn each_wrong_element_of_a_list_has_its_own_place() {
    check(
        "[relay]\nnetworks = [\n  \"10.0.0.1/8\",\n  \"10.0.0.0/8\",\n  7,\n]",
        &[
            "3:3: [relay] networks: \"10.0.0.1/8\" has host bits set; did you mean 10.0.0.0/8?",
            "5:3: [relay] networks = 7: must be text in quotes, such as \"10.0.0.0/8\"",
        ],
    );
    check(
        "[dns]\nservers = \"127.0.0.1\"",
        &["2:11: [dns] servers = \"127.0.0.1\": must be a list, such as [\"127.0.0.1:53\"]"],
    );
    check(
        "[dns]\nservers = [\"127.0.0.1\"]",
        &["2:12: [dns] servers: \"127.0.0.1\" is not an address with a port; write it as \
             127.0.0.1:25 or [::1]:25"],
    );
    check(
        "[lanes.bulk]\nstrip = [\"A: b\"]",
        &["2:10: [lanes.bulk] strip: \"A: b\" has a pattern; this goes by name, write \"A\""],
    );
    check(
        "[retry.direct]\nwaits = []",
        &["2:9: [retry.direct] waits: is empty; write at least one wait, such as [\"10m\"]"],
    );
}

#[test]
fn sections_of_the_wrong_shape_are_named() {
    check("relay = 5", &["1:1: `relay` is a section; write [relay]"]);
    check("[listen]\naddress = \"127.0.0.1:25\"", &["1:2: `listen` is a list; write [[listen]]"]);
    check("tenants = [5]", &["1:11: `tenants` is a list of sections; write [[tenants]]"]);
    check(
        "[sites]\nconnections = 5",
        &["2:1: [sites.\"connections\"] is a section; keys for all sites go under [sites.default]"],
    );
    check(
        "[domains]\nrate = \"1/s\"",
        &["2:1: [domains.\"rate\"] is a section; write [domains.\"example.com\"]"],
    );
    check(
        "[domains.default]\nrate = \"1/s\"",
        &["1:10: [domains.\"default\"]: what holds for all goes under [sites.default]"],
    );
    check(
        "[sites.\"a b\"]\nconnections = 5",
        &["1:8: [sites.\"a b\"]: \"a b\" is not a host name: invalid domain"],
    );
    check("[[tenants]]", &["1:1: [[tenants]] has no `name`; add a line such as name = \"shop\""]);
}

#[test]
fn values_must_fit_each_other() {
    check(
        "[sites.default]\nconnections = 5\nreserved_for_direct = 5",
        &["3:23: [sites.default] reserved_for_direct = 5 leaves none of 5 connections to \
             newsletters; must be less than `connections`"],
    );
    check(
        "[sites.\"gmail.com\"]\nreserved_for_direct = 10",
        &["2:23: [sites.\"gmail.com\"] reserved_for_direct = 10 leaves none of 10 connections to \
             newsletters; must be less than `connections`"],
    );
    check(
        "[dns]\ncache_ttl_min = \"10m\"\ncache_ttl_max = \"5m\"",
        &["2:17: [dns] cache_ttl_min is more than cache_ttl_max"],
    );
    check(
        "[limits]\nmessage_size = \"60 MiB\"\ndisk = \"50 MiB\"",
        &["3:8: [limits] disk is less than message_size: such a message could not come in"],
    );
    check(
        "[retry.bulk]\nexpire = \"10m\"",
        &["2:10: [retry.bulk] expire is not more than the first of `waits`: mail would be given \
             up before its first retry"],
    );
    check(
        "[[listen]]\naddress = \"[::]:25\"\n[[listen]]\naddress = \"[::]:25\"",
        &["4:11: [[listen]] address = \"[::]:25\" is there twice; remove one [[listen]]"],
    );
    check(
        "[[tenants]]\nname = \"a\"\n[[tenants]]\nname = \"a\"",
        &["4:8: [[tenants]] name = \"a\" is there twice; a tenant has one [[tenants]]"],
    );
    check(
        "[sites.\"a.de\"]\nrate = \"1/s\"\n[sites.\"A.de\"]\nrate = \"2/s\"",
        &["4:8: [sites.\"A.de\"] rate is of a site that has another section, in other letters"],
    );
    check(
        "[domains.\"a.de\"]\nrate = \"1/s\"\n[domains.\"A.de\"]\nrate = \"2/s\"",
        &["4:8: [domains.\"A.de\"] rate is of a domain that has another section, in other letters"],
    );
    let long = "x".repeat(120);
    check(
        &format!("[control]\nsocket = \"/{long}\""),
        &["2:10: [control] socket is a path of 121 bytes with its folder, and may have 103; \
         give a shorter one"],
    );
    check("listen = []", &["1:1: [listen] is empty; a node needs at least one [[listen]]"]);
}

const EAGER: &str = "[[rules]]\nname = \"eager\"\nmx = [\"example.net\"]\ncodes = [\"421\"]\n\
                     text = 'too \\w+'\naction = \"suspend\"\nscope = \"tenant\"\n\
                     samples = [[\"mx1.example.net\", \"421 Too eager\"]]\n";

#[test]
fn reply_rules_stand_before_the_built_in_ones() {
    let builtin = read("").rules.iter().count();
    let rules = read(EAGER).rules;
    assert_eq!(rules.iter().count(), builtin + 1);
    let rule = rules.iter().next().unwrap();
    let action = Action::Suspend { scope: Scope::Tenant, time: secs(3_600) };
    assert_eq!(
        (rule.name.as_str(), rule.origin, rule.action),
        ("eager", crate::policy::rules::Origin::Config, action)
    );
    let reply = Reply::parse("421 4.7.0 TOO many").unwrap();
    assert_eq!(rules.find("mx7.example.net", &reply).map(|found| found.rule), Some(rule));
}

#[test]
fn a_reply_rule_that_cannot_work_is_refused_in_its_place() {
    let with = |from: &str, to: &str| EAGER.replace(from, to);
    check(
        &with("421 Too eager", "421 Too-eager"),
        &["8:11: [[rules]] samples has \"421 Too-eager\" from mx1.example.net: `text` of this \
             rule is not found in \"Too-eager\""],
    );
    check(
        &with("[\"421\"]", "[\"421\", \"250\"]"),
        &["4:17: [[rules]] codes: \"250\" is not a code of a refusal; write it as \"421\", \
             \"45*\", \"4.7.28\" or \"4.7.*\""],
    );
    check(
        &with("\"suspend\"", "\"fail\""),
        &["7:9: [[rules]] scope has no meaning for \"fail\"; remove it"],
    );
    check(
        &with("scope = \"tenant\"", "time = \"1s\""),
        &["7:8: [[rules]] time = \"1s\": must be \"10s\" to \"7d\""],
    );
    check(
        &with("too \\w+", "too ("),
        &["5:8: [[rules]] text: \"too (\" is not a regular expression: unclosed group"],
    );
    check(
        &with("\"example.net\"", "\".example.net.\""),
        &["3:7: [[rules]] mx: \".example.net.\" fits no host; write \"example.net\", which \
             covers all below it"],
    );
    check(
        &with("[[\"mx1.example.net\", \"421 Too eager\"]]", "[[\"421 Too eager\"]]"),
        &["8:12: [[rules]] samples: a sample is a host and its reply, such as \
             [\"mx1.example.net\", \"421 4.7.0 Slow down\"]"],
    );
    check(
        &with("\"eager\"", "\"too eager\""),
        &["2:8: [[rules]] name: \"too eager\" is not a \
         rule's name; write 1 to 64 letters, digits, or - _ ."],
    );
    let second = "[[rules]]\nname = \"b\"\ntext = \"eager\"\naction = \"ignore\"\n\
                  samples = [[\"mx1.example.net\", \"421 Too eager\"]]\n";
    check(
        &format!("{EAGER}{second}"),
        &["13:11: [[rules]] samples has \"421 Too eager\" from mx1.example.net: rule \"eager\" \
             takes it before; put this rule above that one"],
    );
    // What the first would take is not known while it cannot be read: one problem, not two.
    check(
        &format!("{}{second}", with("action = \"suspend\"\n", "")),
        &["1:1: [[rules]] has no `action`; add a line such as action = \"slow_down\""],
    );
}

#[test]
fn a_mistake_in_the_syntax_has_its_place() {
    let errors = Config::parse("[limits]\nhops = = 5\n", &place()).unwrap_err();
    assert_eq!((errors.problems[0].line, errors.problems[0].column), (Some(2), Some(8)));
    let errors =
        Config::parse("[log]\nlevel = \"info\"\nlevel = \"warn\"\n", &place()).unwrap_err();
    assert_eq!(errors.to_string(), "config.toml:3:1: duplicate key\n1 problem in config.toml");
}

#[test]
fn columns_count_characters() {
    check(
        "listen = [{ address = \"ä\", port = 1 }]",
        &[
            "1:23: [[listen]] address: \"ä\" is not an address with a port; write it as \
             127.0.0.1:25 or [::1]:25",
            "1:28: unknown key `port` in [[listen]]; it belongs in [delivery]",
        ],
    );
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent.toml");
    let errors = Config::load(&path).unwrap_err();
    assert_eq!(errors.problems.len(), 1);
    assert!(errors.to_string().contains("absent.toml: cannot read it: No such file"), "{errors}");
    std::fs::write(&path, b"hostname = \"\xff\"").unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().contains("is not UTF-8"));
    std::fs::write(&path, b"data_dir = \"q\"").unwrap();
    assert_eq!(Config::load(&path).unwrap().data_dir, dir.path().join("q"));
}

#[test]
fn what_is_shown_is_the_same_configuration() {
    let text = format!(
        "hostname = \"a.de\"\n[[tenants]]\nname = \"x\"\n[sites.default]\nconnections = 2\n\
         [sites.\"b.de\"]\nrate = \"5/s\"\n{EAGER}[[rules]]\nname = \"gone\"\ncodes = [\"450\"]\n\
         action = \"fail\"\nsamples = [[\"mx.example.net\", \"450 Gone\"]]\n"
    );
    let explained = Config::parse(&text, &place()).unwrap();
    let sites = &explained.config.sites;
    assert_eq!(sites.default_lines, [(LimitKey::Connections, 5)]);
    assert_eq!(sites.rules[0].lines, [(LimitKey::Rate, 7)]);
    let shown = explained.to_string();
    let again =
        Config::parse(&shown, &place()).unwrap_or_else(|errors| panic!("{errors}\n{shown}"));
    assert_eq!(values(again.config), values(explained.config));
    let line =
        |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap_or("").to_string();
    assert_eq!(line("hostname"), format!("{:48} # line 1", "hostname = \"a.de\""));
    assert_eq!(line("data_dir"), format!("{:48} # default", "data_dir = \"/etc/b/data\""));
    assert!(shown.contains("\n[[tenants]]\nname = \"x\" "), "{shown}");
    assert!(line("reserved_for_direct").starts_with("reserved_for_direct = 1 "), "{shown}");
    assert!(shown.contains("\n[sites.\"b.de\"]\nrate = \"5/s\" "), "{shown}");
}

proptest! {
    #[test]
    fn no_text_panics(text in "[\\[\\]a-z.=\"# \\n0-9é\\\\]{0,80}") {
        let _ = Config::parse(&text, &place());
    }

    #[test]
    fn any_value_under_any_key_is_read_or_reported(
        section in 0..keys::SECTIONS.len(),
        key in 0usize..20,
        value in prop_oneof![
            "[0-9]{1,20}", "-?[0-9]\\.[0-9]{1,9}",
            "\"[a-z0-9 :./-]{0,9}\"", Just("true".to_string()),
            Just("[]".to_string()), Just("{}".to_string()), Just("[[{}]]".to_string()),
            Just("1979-05-27".to_string()), Just("inf".to_string()), Just("nan".to_string()),
        ],
    ) {
        let section = &keys::SECTIONS[section];
        if let Some(key) = section.keys.get(key) {
            let text = format!("[{}]\n{} = {value}", section.name, key.name);
            let _ = Config::parse(&text, &place());
        }
    }
}
