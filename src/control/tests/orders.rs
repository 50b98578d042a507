//! Orders over the control socket: what is answered holds, and what is refused says why.

use super::*;
use crate::policy::orders::ThrottleOrder;
use crate::policy::site::setting::{LimitKey, Setting};
use crate::policy::site::{Directory, SiteLimits, sites};

/// Explains limits as a node would that sends no mail.
pub(super) fn desk(dir: &Path, clock: &Clock) -> Desk {
    let directory = Arc::new(Mutex::new(Directory::new(sites(10, &[]))));
    let explaining = Arc::clone(&directory);
    let obey = move |orders: crate::policy::orders::Orders| {
        directory.lock().unwrap().overrule(orders.throttles(), std::iter::empty());
    };
    let explain = move |name: &str| SiteLimits::foreseen(name, &explaining.lock().unwrap(), &[]);
    Desk::open(dir, clock.clone(), Box::new(obey), Box::new(explain))
}

fn set(site: &str, settings: &[&str], for_ms: Option<u64>) -> Request {
    let settings = settings.iter().map(|text| Setting::parse(text).unwrap()).collect();
    Request::ThrottleSet { site: site.into(), settings, for_ms }
}

fn suspend(tenant: Option<&str>, reason: &str, for_ms: Option<u64>) -> Request {
    let tenant = tenant.map(str::to_string);
    let reason = reason.to_string();
    Request::Suspend { site: None, tenant, campaign: None, lane: None, reason, for_ms }
}

fn resume(tenant: Option<&str>) -> Request {
    let tenant = tenant.map(str::to_string);
    Request::Resume { site: None, tenant, campaign: None, lane: None, as_usual: false }
}

/// Site, key, value of what was answered.
fn throttles(found: &[Response]) -> Vec<String> {
    let shown = |response: &Response| match response {
        Response::Throttle(order) => {
            let ThrottleOrder { site, setting, .. } = &**order;
            format!("{site} {}={}", setting.key(), setting.value())
        }
        other => format!("{other:?}"),
    };
    found.iter().map(shown).collect()
}

#[tokio::test]
async fn limits_are_set_shown_and_cleared() {
    let running = Running::start(store()).await;
    let mut client = running.client().await;
    let hour = Some(3_600_000);
    let request = set("Gmail.com", &["rate=100/s", "connections=3"], hour);
    let (found, done) = ask(&mut client, request).await;
    assert_eq!(throttles(&found), ["gmail.com rate=100/s", "gmail.com connections=3"]);
    assert_eq!(done, Ok(Counts { count: 2, leased: 0 }));
    let Response::Throttle(order) = &found[0] else { panic!("{found:?}") };
    assert_eq!((order.since, order.until), (NOW, Some(NOW.after(Duration::from_secs(3_600)))));

    let (found, _) = ask(&mut client, Request::Limits { site: "googlemail.com".into() }).await;
    let [Response::Limits(limits)] = &found[..] else { panic!("{found:?}") };
    let shown: Vec<String> =
        limits.limits.iter().map(|e| format!("{}={} {}", e.key, e.value, e.origin)).collect();
    assert_eq!(shown[0], "connections=3 live (gmail.com), until 2026-11-23T01:45:28.114Z");
    assert_eq!(shown[3], "deliveries_per_connection=50 provider gmail.com");
    assert_eq!((limits.in_use, limits.gate), (false, None));

    let keys = vec![LimitKey::Rate];
    let clear = |keys| Request::ThrottleClear { site: "gmail.com".into(), keys };
    assert_eq!(throttles(&ask(&mut client, clear(keys)).await.0), ["gmail.com rate=100/s"]);
    let (found, _) = ask(&mut client, Request::Orders).await;
    assert_eq!(throttles(&found), ["gmail.com connections=3"]);
    assert_eq!(ask(&mut client, clear(Vec::new())).await.1, Ok(Counts { count: 1, leased: 0 }));
    assert_eq!(ask(&mut client, clear(Vec::new())).await.1, Ok(Counts::default()), "none is left");
}

#[tokio::test]
async fn mail_is_suspended_and_resumed_by_exactly_what_was_said() {
    let running = Running::start(store()).await;
    let mut client = running.client().await;
    let (found, _) = ask(&mut client, suspend(Some("c1842"), "list bought", None)).await;
    let [Response::Suspension(order)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((order.scope.tenant.as_deref(), order.until), (Some("c1842"), None));
    let (found, _) = ask(&mut client, Request::Orders).await;
    assert!(matches!(&found[..], [Response::Suspension(order)] if order.reason == "list bought"));
    assert_eq!(ask(&mut client, resume(Some("c1"))).await.1, Ok(Counts::default()));
    assert_eq!(ask(&mut client, resume(Some("c1842"))).await.1, Ok(Counts { count: 1, leased: 0 }));
    assert_eq!(ask(&mut client, Request::Orders).await.1, Ok(Counts::default()));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let running = Running::start(store()).await;
    let mut client = running.client().await;
    for (request, part) in [
        (set("not a name", &["rate=1/s"], None), "is not the name of a site"),
        (set("a.test", &["rate=1/s"], Some(999)), "holds for \"1s\" to \"366d\""),
        (set("a.test", &["rate=1/s"], Some(u64::MAX)), "holds for \"1s\" to \"366d\""),
        (suspend(None, "all of it", None), "say which mail"),
        (suspend(Some("c1"), "", None), "a reason of 1 to 200 characters"),
        (resume(None), "say which mail"),
        (Request::Limits { site: "a b".into() }, "is not the name of a site"),
    ] {
        let (found, done) = ask(&mut client, request).await;
        assert!(done.clone().is_err_and(|sentence| sentence.contains(part)), "{done:?}");
        assert_eq!(found.len(), 0);
    }
    assert_eq!(ask(&mut client, Request::Orders).await.1, Ok(Counts::default()));

    let mut stream = running.stream().await;
    for wrong in [
        r#"{"verb":"suspend","tennant":"c1","lane":"bulk","reason":"x"}"#,
        r#"{"verb":"throttle_set","site":"a.test","settings":[{"key":"connections","value":0}]}"#,
        r#"{"verb":"throttle_clear","site":"a.test","keys":["speed"]}"#,
    ] {
        stream.write_all(format!("{wrong}\n").as_bytes()).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let refused = answer.lines().filter(|line| line.starts_with("{\"error\":\"not a request: "));
    assert_eq!(refused.count(), 3, "{answer}");
}

#[tokio::test]
async fn without_a_node_nobody_takes_orders() {
    let clock = Clock::system();
    let (node, terms) = (String::new(), Default::default());
    let api = Api {
        store: store(),
        clock,
        node,
        sites: no_sites(),
        terms,
        desk: None,
        reception: None,
        reload: None,
    };
    let (near, far) = UnixStream::pair().unwrap();
    tokio::spawn(async move { serve_one(far, None, &api, PATIENCE).await });
    let (_, done) = ask(&mut Client::new(near), Request::Orders).await;
    assert_eq!(done, Err("no node runs: nobody takes orders".into()));
}
