//! What a rule that matches makes of a verdict, and what it tells the planner.

use super::{Action, Found, Scope};
use crate::base::time::Timestamp;
use crate::policy::feedback::{Ask, Complaint, Whose};
use crate::policy::verdict::{Blame, Ruling, Verdict};
use crate::smtp::reply::EnhancedCode;
use std::time::Duration;

/// The verdict on a delivery whose reply the rule matched: one that asks for less, or for a retry,
/// keeps the delivery, whatever the reply's code says.
#[must_use]
pub fn ruled(found: &Found<'_>, verdict: Verdict, now: Timestamp) -> Verdict {
    let action = found.rule.action;
    let EnhancedCode(_, subject, detail) = verdict.status;
    let (ruling, class) = match action {
        Action::Ignore => return verdict,
        Action::Fail => (Ruling::Fail, 5),
        _ => (Ruling::Retry, 4),
    };
    let blame = match action {
        Action::RetryAfter(_) => None,
        // Kept although it was refused for good: the rule knows that it is about us.
        Action::TryOtherSource(_) => Some(Blame::Source),
        Action::SlowDown { .. } | Action::Suspend { .. } | Action::FewerConnections(_)
            if verdict.ruling == Ruling::Fail =>
        {
            Some(Blame::Source)
        }
        _ => verdict.blame,
    };
    let wait = match action {
        Action::SlowDown { .. } | Action::FewerConnections(_) => found.named,
        Action::Suspend { .. } | Action::RetryAfter(_) => found.time(),
        // Its other sources do not wait; without any it waits in the queue until this one may.
        Action::TryOtherSource(_) => Some(Duration::ZERO),
        Action::Fail | Action::Ignore => None,
    };
    let retry_at = wait.map(|wait| now.after(wait));
    let (status, rule) = (EnhancedCode(class, subject, detail), found.rule.name.clone());
    Verdict { ruling, blame, status, retry_at, rule, ..verdict }
}

/// Who may be meant by a reply: those that the delivery belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Parties<'a> {
    /// Its tenant.
    pub tenant: &'a str,
    /// The domain of its reverse-path.
    pub sender: Option<&'a str>,
    /// Our source that it was sent from.
    pub source: &'a str,
}

/// What the receiver asks of all mail within the rule's scope; `None` where the reply is about the
/// delivery alone. Mail without a sender's domain (notifications) stands for its tenant.
#[must_use]
pub fn complaint(found: &Found<'_>, parties: Parties<'_>, why: &str) -> Option<Complaint> {
    let Parties { tenant, sender, source } = parties;
    let time = found.time()?;
    let ask = match found.rule.action {
        Action::SlowDown { .. } => Ask::Slower(time),
        Action::Suspend { .. } | Action::TryOtherSource(_) => Ask::Stop(time),
        Action::FewerConnections(_) => Ask::Fewer(time),
        Action::RetryAfter(_) | Action::Fail | Action::Ignore => return None,
    };
    let whose = match (found.rule.action.scope()?, sender) {
        (Scope::Site, _) => Whose::Everyones,
        (Scope::Source, _) => Whose::Sources(source.to_string()),
        (Scope::SenderDomain, Some(domain)) => Whose::Senders(domain.to_string()),
        (Scope::SenderDomain, None) | (Scope::Tenant, _) => Whose::Tenants(tenant.to_string()),
    };
    Some(Complaint { ask, whose, why: why.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rules::Rules;
    use crate::policy::verdict::judge;
    use crate::smtp::client::{Attempt, Stage};
    use crate::smtp::reply::Reply;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(n * 60)
    }

    /// Ruling, blame, status, wait, and what is asked of whom.
    type Effect = (Ruling, Option<Blame>, String, Option<Duration>, Option<(Ask, Whose)>);

    fn of(mx: &str, reply: &str) -> Effect {
        let rules = Rules::new(Vec::new()).unwrap();
        let reply = Reply::parse(reply).unwrap();
        let verdict = judge(&Attempt::Reply { stage: Stage::Mail, reply: reply.clone() });
        let found = rules.find(mx, &reply).unwrap();
        let verdict = ruled(&found, verdict, NOW);
        assert_eq!(verdict.rule, found.rule.name);
        let parties = Parties { tenant: "shop", sender: Some("shop.example"), source: "mx1" };
        let asked = complaint(&found, parties, &verdict.text);
        let wait = verdict.retry_at.map(|at| at.since(NOW));
        let status = verdict.status.to_string();
        (verdict.ruling, verdict.blame, status, wait, asked.map(|c| (c.ask, c.whose)))
    }

    #[test]
    fn greylisting_is_nobodys_fault_and_comes_back_when_it_was_told_to() {
        let (retry, fine) = ((Ruling::Retry, None), None);
        let greylisted = |wait, said: &str| {
            let (ruling, blame, _, waits, asked) = of("mx.example.net", said);
            assert_eq!(((ruling, blame), waits, &asked), (retry, Some(wait), &fine), "{said}");
        };
        greylisted(minutes(5), "451 4.7.1 Greylisted");
        greylisted(minutes(10), "450 4.7.1 greylisted, please try again in 10 minutes");
    }

    #[test]
    fn a_block_list_stops_the_source_and_fails_nothing() {
        let said = "554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using \
                    zen.spamhaus.org";
        let asked = Some((Ask::Stop(minutes(60)), Whose::Sources("mx1".into())));
        let at_once = Some(Duration::ZERO);
        let source = Some(Blame::Source);
        assert_eq!(
            of("mx.example.net", said),
            (Ruling::Retry, source, "4.7.1".into(), at_once, asked)
        );
    }

    #[test]
    fn one_customers_mistake_slows_that_customer() {
        let said = "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating \
                    from your SPF domain [shop.example 35]. - gsmtp";
        let (ruling, _, _, wait, asked) = of("aspmx.l.google.com", said);
        assert_eq!((ruling, wait), (Ruling::Retry, None), "by the schedule");
        assert_eq!(asked, Some((Ask::Slower(minutes(60)), Whose::Senders("shop.example".into()))));
    }
}
