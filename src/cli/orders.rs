//! `bulkhead throttle`, `suspend` and `resume`: what an operator orders of a running node, and
//! what holds for a site and why.
//!
//! Limits are shown without a node, too: from the configuration and the orders on disk.

use super::Failure;
use super::args::{Common, ScopeArgs, Suspend, ThrottleVerb};
use super::connect;
use super::queue::Printer;
use super::table;
use crate::base::time::Clock;
use crate::config::Config;
use crate::control::orders;
use crate::control::protocol::{Request, Response};
use crate::policy::orders::{Suspension, ThrottleOrder, site_name};
use crate::policy::site::{Directory, SiteLimits};
use std::io::{self, Write};
use std::time::Duration;

/// One of the three verbs.
pub(super) enum Order<'a> {
    Throttle(&'a ThrottleVerb),
    Suspend(&'a Suspend),
    Resume(&'a ScopeArgs),
}

pub(super) fn run(common: &Common, order: &Order<'_>, out: &mut impl Write) -> Result<(), Failure> {
    let (config, runtime) = connect::begin(common)?;
    let mut printer = Printer { out, json: common.json, clock: Clock::system() };
    runtime.block_on(verb(&config, order, &mut printer))
}

pub(super) async fn verb(
    config: &Config,
    order: &Order<'_>,
    printer: &mut Printer<'_, impl Write>,
) -> Result<(), Failure> {
    match order {
        Order::Throttle(verb) => throttle(config, verb, printer).await,
        Order::Suspend(suspend) => suspend_or_list(config, suspend, printer).await,
        Order::Resume(scope) => {
            if scope.is_empty() {
                return Err(Failure::Usage(WHICH.into()));
            }
            let ScopeArgs { site, tenant, campaign, lane } = (*scope).clone();
            let request = Request::Resume { site, tenant, campaign, lane, as_usual: false };
            let nothing = "nothing is suspended by exactly that; see `bulkhead suspend`";
            resume(config, &request, nothing, printer).await
        }
    }
}

const WHICH: &str = "say which mail: --site, --tenant, --campaign, --lane; all that is given must \
                     match";

async fn throttle(
    config: &Config,
    verb: &ThrottleVerb,
    printer: &mut Printer<'_, impl Write>,
) -> Result<(), Failure> {
    match verb {
        ThrottleVerb::Show { site: Some(site) } => {
            let limits = limits(config, site, &printer.clock).await?;
            print(printer, &limits, table::limits)
        }
        ThrottleVerb::Show { site: None } => {
            let (overrides, _) = standing(config, &printer.clock).await?;
            print(printer, &overrides, |all| match all.is_empty() {
                true => "no limit is overridden\n".to_string(),
                false => table::overrides(all),
            })
        }
        ThrottleVerb::Set { site, settings, lasts } => {
            let (site, settings) = (site.clone(), settings.clone());
            let request = Request::ThrottleSet { site, settings, for_ms: lasts.map(ms) };
            let (set, _) = carry_out(config, &request).await?;
            print(printer, &set, |set| set.iter().map(table::said_of_override).collect())
        }
        ThrottleVerb::Clear { site, keys } => {
            let request = Request::ThrottleClear { site: site.clone(), keys: keys.clone() };
            let (cleared, _) = carry_out(config, &request).await?;
            if cleared.is_empty() {
                let sentence = "nothing was overridden under that name; see `bulkhead throttle \
                                show`";
                return Err(Failure::Trouble(sentence.into()));
            }
            let line = |o: &ThrottleOrder| format!("cleared {} {}\n", o.site, o.setting.key());
            print(printer, &cleared, |cleared| cleared.iter().map(line).collect())
        }
    }
}

async fn suspend_or_list(
    config: &Config,
    suspend: &Suspend,
    printer: &mut Printer<'_, impl Write>,
) -> Result<(), Failure> {
    let Suspend { scope, reason, lasts, list } = suspend;
    let says_nothing = scope.is_empty() && reason.is_none() && lasts.is_none();
    if *list || says_nothing {
        if !says_nothing {
            return Err(Failure::Usage("--list goes alone: it lists all that is suspended".into()));
        }
        let (_, suspensions) = standing(config, &printer.clock).await?;
        return print(printer, &suspensions, |all| match all.is_empty() {
            true => "nothing is suspended\n".to_string(),
            false => table::suspensions(all),
        });
    }
    if scope.is_empty() {
        return Err(Failure::Usage(WHICH.into()));
    }
    let Some(reason) = reason.clone() else {
        return Err(Failure::Usage("say why, for those who come after you: --reason \"…\"".into()));
    };
    let ScopeArgs { site, tenant, campaign, lane } = scope.clone();
    let for_ms = lasts.map(ms);
    let request = Request::Suspend { site, tenant, campaign, lane, reason, for_ms };
    let (_, set) = carry_out(config, &request).await?;
    print(printer, &set, |set| set.iter().map(table::said_of_suspension).collect())
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// As JSON, or as text for people.
pub(super) fn print<T: serde::Serialize>(
    printer: &mut Printer<'_, impl Write>,
    answer: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    if printer.json { printer.json(answer) } else { printer.text(&text(answer)) }
}

/// Overrides and suspensions, each in the order in which they were given.
pub(super) type Standing = (Vec<ThrottleOrder>, Vec<Suspension>);

/// Ends a suspension, or else an alert; `nothing` is the sentence where there is none.
pub(super) async fn resume(
    config: &Config,
    request: &Request,
    nothing: &str,
    printer: &mut Printer<'_, impl Write>,
) -> Result<(), Failure> {
    let (mut ended, mut alerts) = (Vec::new(), Vec::new());
    let keep = |response| {
        match response {
            Response::Suspension(order) => ended.push(*order),
            Response::Alert(alert) => alerts.push(*alert),
            _ => {}
        }
        Ok(())
    };
    connect::connect(config).await?.ask(request, keep).await?;
    if ended.is_empty() {
        return match alerts.is_empty() {
            true => Err(Failure::Trouble(nothing.into())),
            false => print(printer, &alerts, |alerts| {
                alerts.iter().map(|alert| format!("alert cleared: {alert}\n")).collect()
            }),
        };
    }
    print(printer, &ended, |ended| {
        ended.iter().map(|order| format!("resumed {}\n", table::scope(order))).collect()
    })
}

/// Asks the node; there must be one.
pub(super) async fn carry_out(config: &Config, request: &Request) -> Result<Standing, Failure> {
    collect(&mut connect::connect(config).await?, request).await
}

async fn collect(node: &mut connect::Node, request: &Request) -> Result<Standing, Failure> {
    let mut found = (Vec::new(), Vec::new());
    let keep = |response| {
        match response {
            Response::Throttle(order) => found.0.push(*order),
            Response::Suspension(order) => found.1.push(*order),
            _ => {}
        }
        Ok(())
    };
    node.ask(request, keep).await?;
    Ok(found)
}

/// What holds now: in the node, or by the file where none runs.
async fn standing(config: &Config, clock: &Clock) -> Result<Standing, Failure> {
    if let Some(mut node) = connect::dial(config).await? {
        return collect(&mut node, &Request::Orders).await;
    }
    let orders = on_disk(config, clock)?;
    Ok((orders.throttles().to_vec(), orders.suspensions().to_vec()))
}

async fn limits(config: &Config, site: &str, clock: &Clock) -> Result<SiteLimits, Failure> {
    let name = site_name(site).map_err(Failure::Usage)?;
    if let Some(mut node) = connect::dial(config).await? {
        let mut found = None;
        let keep = |response| {
            if let Response::Limits(limits) = response {
                found = Some(*limits);
            }
            Ok(())
        };
        node.ask(&Request::Limits { site: name }, keep).await?;
        return found.ok_or_else(|| Failure::Trouble("the node told no limits".into()));
    }
    let mut directory = Directory::new(config.sites.clone());
    directory.overrule(on_disk(config, clock)?.throttles(), std::iter::empty());
    Ok(SiteLimits::foreseen(&name, &directory, &config.domains))
}

fn on_disk(config: &Config, clock: &Clock) -> Result<crate::policy::orders::Orders, Failure> {
    let dir = &config.data_dir;
    let mut orders = orders::read(dir).map_err(|error| {
        Failure::Trouble(format!("no node runs, and its orders cannot be read: {error}"))
    })?;
    orders.expire(clock.now());
    writeln!(io::stderr(), "bulkhead: no node runs; reading the orders in {}", dir.display())?;
    Ok(orders)
}
