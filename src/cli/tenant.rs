//! `bulkhead tenant`, and `bulkhead user blocks`: what the receiving side of a running node knows.

use super::Failure;
use super::args::{Common, TenantVerb, UserVerb};
use super::connect;
use super::orders::{carry_out, print, resume};
use super::queue::Printer;
use super::table;
use crate::base::time::Clock;
use crate::config::Config;
use crate::control::protocol::{Request, Response};
use crate::control::reception::{BlockView, TenantView};
use std::io::Write;

pub(super) fn run(common: &Common, verb: &TenantVerb, out: &mut impl Write) -> Result<(), Failure> {
    let (config, runtime) = connect::begin(common)?;
    let mut printer = Printer { out, json: common.json, clock: Clock::system() };
    runtime.block_on(tenant(&config, verb, &mut printer))
}

async fn tenant(
    config: &Config,
    verb: &TenantVerb,
    printer: &mut Printer<'_, impl Write>,
) -> Result<(), Failure> {
    match verb {
        TenantVerb::List => {
            let found = tenants(config, None).await?;
            print(printer, &found, |all| table::tenants(all))
        }
        TenantVerb::Show { name } => {
            let found = tenants(config, Some(name.clone())).await?;
            let Some(found) = found.first() else {
                return Err(Failure::Trouble(format!("nothing is known of {}", table::safe(name))));
            };
            let now = printer.clock.now();
            print(printer, found, |found| table::tenant(found, now))
        }
        TenantVerb::Suspend { name, reason, lasts } => {
            let (tenant, reason) = (Some(name.clone()), reason.clone());
            let for_ms = lasts.map(|lasts| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
            let (site, campaign, lane) = (None, None, None);
            let request = Request::Suspend { site, tenant, campaign, lane, reason, for_ms };
            let (_, set) = carry_out(config, &request).await?;
            print(printer, &set, |set| set.iter().map(table::said_of_suspension).collect())
        }
        TenantVerb::Resume { name, as_usual } => {
            let (tenant, as_usual) = (Some(name.clone()), *as_usual);
            let (site, campaign, lane) = (None, None, None);
            let request = Request::Resume { site, tenant, campaign, lane, as_usual };
            let name = table::safe(name);
            let nothing = format!("{name} is not suspended as a whole; see `bulkhead suspend`");
            resume(config, &request, &nothing, printer).await
        }
    }
}

async fn tenants(config: &Config, name: Option<String>) -> Result<Vec<TenantView>, Failure> {
    let mut found = Vec::new();
    let keep = |response| {
        if let Response::Tenant(tenant) = response {
            found.push(*tenant);
        }
        Ok(())
    };
    connect::connect(config).await?.ask(&Request::Tenants { name }, keep).await?;
    Ok(found)
}

/// `bulkhead user blocks` and `unblock`.
pub(super) fn blocks(
    common: &Common,
    verb: &UserVerb,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let (config, runtime) = connect::begin(common)?;
    let mut printer = Printer { out, json: common.json, clock: Clock::system() };
    let request = match verb {
        UserVerb::Unblock { who } => Request::Unblock { who: who.clone() },
        _ => Request::Blocks,
    };
    let mut found: Vec<BlockView> = Vec::new();
    let keep = |response| {
        if let Response::Block(block) = response {
            found.push(*block);
        }
        Ok(())
    };
    runtime.block_on(async { connect::connect(&config).await?.ask(&request, keep).await })?;
    print(&mut printer, &found, |all| match request {
        Request::Unblock { .. } => {
            all.iter().map(|block| format!("{} may log in\n", table::safe(&block.who))).collect()
        }
        _ => table::blocks(all),
    })
}
