//! What a real name server's answers come to. The server is that of the black-box tests.

use super::*;
use crate::config::ListenAddress;
use crate::config::tests::defaults;
use server::{Answering, Dns};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::Runtime;

#[path = "../../../tests/support/dns.rs"]
#[allow(dead_code, unreachable_pub, reason = "its other users need more of it")]
mod server;

/// What the server runs on.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

fn config(servers: SocketAddr) -> Config {
    let mut config = defaults();
    config.dns.servers = vec![servers];
    config.dns.timeout = Duration::from_millis(200);
    config.delivery.allow_private = true;
    config
}

fn resolve_by(config: &Config, domain: &str) -> Resolution {
    let domain = Domain::parse(domain).unwrap();
    runtime().block_on(async { Resolver::new(config).unwrap().resolve(&domain).await })
}

fn resolve(dns: &Dns, domain: &str) -> Resolution {
    resolve_by(&config(dns.address()), domain)
}

/// `10 mx.test 127.0.0.1 ::1 | …`
#[track_caller]
fn hosts(resolution: Resolution) -> String {
    let Resolution::Hosts(hosts) = resolution else { panic!("no hosts: {resolution:?}") };
    let one = |host: &MxHost| {
        let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
        format!("{} {} {}", host.preference, host.name, addresses.join(" "))
    };
    hosts.iter().map(one).collect::<Vec<_>>().join(" | ")
}

#[test]
fn hosts_come_by_preference_with_all_their_addresses() {
    let dns = Dns::new();
    dns.mx("d.test", &[(20, "c.test"), (10, "B.test"), (10, "a.test"), (5, "gone.test")]);
    dns.a("a.test", "127.0.0.2").a("b.test", "127.0.0.4").a("b.test", "127.0.0.3");
    dns.a("c.test", "::1").a("c.test", "127.0.0.5");
    let want = "10 a.test 127.0.0.2 | 10 b.test 127.0.0.3 127.0.0.4 | 20 c.test 127.0.0.5 ::1";
    assert_eq!(hosts(resolve(&dns, "d.test")), want);
    assert_eq!(hosts(resolve(&dns, "D.Test")), want, "names have no case");
}

#[test]
fn a_domain_without_mx_is_its_own_host() {
    let dns = Dns::new();
    dns.a("plain.test", "127.0.0.2").cname("alias.test", "plain.test");
    assert_eq!(hosts(resolve(&dns, "plain.test")), "0 plain.test 127.0.0.2");
    assert_eq!(hosts(resolve(&dns, "alias.test")), "0 alias.test 127.0.0.2");
}

#[test]
fn an_alias_has_the_mx_of_what_it_stands_for() {
    let dns = Dns::new();
    dns.mx("real.test", &[(10, "mx.test")]).a("mx.test", "127.0.0.2");
    dns.cname("alias.test", "real.test").cname("loop.test", "pool.test");
    dns.cname("pool.test", "loop.test");
    assert_eq!(hosts(resolve(&dns, "alias.test")), "10 mx.test 127.0.0.2");
    assert!(!matches!(resolve(&dns, "loop.test"), Resolution::Hosts(_)), "and a loop ends");
}

#[test]
fn only_a_certain_no_is_final() {
    let dns = Dns::new();
    dns.null_mx("null.test").mx("hostless.test", &[(10, "gone.test")]);
    assert_eq!(resolve(&dns, "null.test"), Resolution::NullMx);
    assert_eq!(resolve(&dns, "nowhere.test"), Resolution::NoSuchDomain);
    assert_eq!(resolve(&dns, "hostless.test"), Resolution::NoSuchDomain);
    dns.mx("half.test", &[(10, "gone.test"), (20, "silent.test")]);
    for (answering, name) in
        [(Answering::ServFail, "failing.test"), (Answering::Never, "silent.test")]
    {
        dns.a(name, "127.0.0.2").answer_for(name, answering);
        let resolution = resolve(&dns, name);
        assert!(
            matches!(&resolution, Resolution::Temporary(why) if why.contains(name)),
            "{resolution:?}"
        );
    }
    let half = resolve(&dns, "half.test");
    assert!(matches!(half, Resolution::Temporary(_)), "one host may be there: {half:?}");
}

#[test]
fn a_host_that_cannot_be_asked_for_does_not_hide_the_others() {
    let dns = Dns::new();
    dns.mx("d.test", &[(10, "failing.test"), (20, "mx.test")]).a("mx.test", "127.0.0.2");
    dns.answer_for("failing.test", Answering::ServFail);
    assert_eq!(hosts(resolve(&dns, "d.test")), "20 mx.test 127.0.0.2");
}

#[test]
fn nobody_listening_is_temporary() {
    // Bound and not read: nothing else can take the port meanwhile.
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap();
    assert!(matches!(resolve_by(&config(address), "d.test"), Resolution::Temporary(_)));
    drop(deaf);
    assert!(matches!(resolve_by(&config(address), "d.test"), Resolution::Temporary(_)));
}

#[test]
fn a_failure_is_not_remembered() {
    let dns = Dns::new();
    dns.a("d.test", "127.0.0.2").answer(Answering::ServFail);
    let config = config(dns.address());
    let domain = Domain::parse("d.test").unwrap();
    runtime().block_on(async {
        let resolver = Resolver::new(&config).unwrap();
        assert!(matches!(resolver.resolve(&domain).await, Resolution::Temporary(_)));
        dns.answer(Answering::Normally);
        assert_eq!(hosts(resolver.resolve(&domain).await), "0 d.test 127.0.0.2");
        let asked = dns.queries_total();
        assert_eq!(hosts(resolver.resolve(&domain).await), "0 d.test 127.0.0.2");
        assert_eq!(dns.queries_total(), asked, "but an answer is");
    });
}

#[test]
fn strangers_cannot_lead_mail_to_private_addresses() {
    let dns = Dns::new();
    dns.mx("inside.test", &[(10, "a.test"), (20, "b.test")]);
    dns.a("a.test", "127.0.0.1").a("a.test", "::1").a("b.test", "10.0.0.1");
    dns.mx("mixed.test", &[(10, "a.test"), (20, "c.test")]);
    dns.a("c.test", "192.168.1.1").a("c.test", "8.8.8.8");
    let mut config = config(dns.address());
    config.delivery.allow_private = false;
    let forbidden = Resolution::Forbidden("127.0.0.1, ::1, 10.0.0.1".into());
    assert_eq!(resolve_by(&config, "inside.test"), forbidden);
    assert_eq!(hosts(resolve_by(&config, "mixed.test")), "20 c.test 8.8.8.8");
    let literal = Resolution::Forbidden("127.0.0.1".into());
    assert_eq!(resolve_by(&config, "[127.0.0.1]"), literal);
}

#[test]
fn a_literal_is_not_asked_for() {
    let dns = Dns::new();
    assert!(hosts(resolve(&dns, "[127.0.0.7]")).ends_with(" 127.0.0.7"));
    assert!(hosts(resolve(&dns, "[IPv6:::1]")).ends_with(" ::1"));
    assert_eq!(dns.queries_total(), 0);
}

#[test]
fn mail_goes_only_to_better_hosts_than_ourselves() {
    let dns = Dns::new();
    dns.a("relay.test", "127.0.0.2").a("better.test", "127.0.0.3").a("worse.test", "127.0.0.4");
    dns.mx("ours.test", &[(10, "relay.test"), (20, "worse.test")]);
    dns.mx("backup.test", &[(5, "better.test"), (10, "relay.test"), (20, "worse.test")]);
    assert_eq!(resolve(&dns, "ours.test"), Resolution::Loop);
    assert_eq!(resolve(&dns, "relay.test"), Resolution::Loop);
    assert_eq!(hosts(resolve(&dns, "backup.test")), "5 better.test 127.0.0.3");
    // Better hosts that cannot be found now are no reason to give up.
    dns.mx("later.test", &[(5, "failing.test"), (10, "relay.test")]);
    dns.answer_for("failing.test", Answering::ServFail);
    assert!(matches!(resolve(&dns, "later.test"), Resolution::Temporary(_)));
    // Under another name, but at the address of a listener that others can reach.
    let mut config = config(dns.address());
    let listening = SocketAddr::from(([10, 9, 8, 7], config.delivery.port));
    config.listen[0].address = ListenAddress::Tcp(listening);
    dns.a("other-name.test", "10.9.8.7");
    assert_eq!(resolve_by(&config, "other-name.test"), Resolution::Loop);
}

#[test]
fn what_a_domain_publishes_without_measure_is_cut() {
    let dns = Dns::new();
    let names: Vec<String> = (0..100).map(|n| format!("mx{n:03}.test")).collect();
    let list: Vec<(u16, &str)> = (0..).zip(names.iter().map(String::as_str)).collect();
    dns.mx("wide.test", &list);
    for (n, name) in names.iter().enumerate() {
        dns.a(name, &format!("127.0.1.{n}")).a(name, &format!("127.0.2.{n}"));
    }
    let mut config = config(dns.address());
    config.delivery.hosts_max = 5;
    let Resolution::Hosts(found) = resolve_by(&config, "wide.test") else { panic!("no hosts") };
    assert_eq!(found.iter().map(|host| host.addresses.len()).sum::<usize>(), 5);
    assert_eq!(found[0].name, "mx000.test", "the best are kept");
    // The list itself, again by TCP since it is too long for UDP, and both kinds of five names.
    assert!(dns.queries_total() <= 12, "{} questions for one domain", dns.queries_total());
}

#[test]
fn odd_mx_sets_are_read_kindly() {
    let dns = Dns::new();
    dns.mx("both.test", &[(0, "."), (10, "mx.both.test")]).a("mx.both.test", "192.168.0.1");
    dns.mx("twice.test", &[(10, "a.twice.test"), (20, "b.twice.test"), (30, "a.twice.test")]);
    dns.a("a.twice.test", "192.168.0.2").a("b.twice.test", "192.168.0.3");
    dns.mx("mapped.test", &[(10, "mx.mapped.test")]).a("mx.mapped.test", "::ffff:192.168.0.4");
    assert_eq!(hosts(resolve(&dns, "both.test")), "10 mx.both.test 192.168.0.1");
    assert_eq!(
        hosts(resolve(&dns, "twice.test")),
        "10 a.twice.test 192.168.0.2 | 20 b.twice.test 192.168.0.3"
    );
    assert_eq!(hosts(resolve(&dns, "mapped.test")), "10 mx.mapped.test 192.168.0.4");
}

#[test]
fn our_own_name_ends_the_list_even_without_an_address() {
    let dns = Dns::new();
    dns.mx("ours.test", &[(10, "relay.test"), (20, "backup.test")]).a("backup.test", "192.168.0.9");
    assert_eq!(resolve(&dns, "ours.test"), Resolution::Loop);
}

#[test]
fn a_listener_on_every_address_is_ours_at_each_of_them() {
    let dns = Dns::new();
    dns.mx("d.test", &[(10, "here.test"), (20, "else.test")]);
    dns.a("here.test", "127.0.0.9").a("else.test", "192.0.2.1");
    dns.mx("other.test", &[(10, "else.test")]);
    let mut config = config(dns.address());
    config.listen[0].address = ListenAddress::Tcp(([0, 0, 0, 0], 2525).into());
    config.delivery.port = 2525;
    assert_eq!(resolve_by(&config, "d.test"), Resolution::Loop);
    assert_eq!(hosts(resolve_by(&config, "other.test")), "10 else.test 192.0.2.1");
    config.delivery.port = 25;
    let both = "10 here.test 127.0.0.9 | 20 else.test 192.0.2.1";
    assert_eq!(hosts(resolve_by(&config, "d.test")), both, "another server on this machine");
}
