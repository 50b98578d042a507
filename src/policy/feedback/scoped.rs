//! Complaints of a site about some of the mail, a tenant's, a sender's domain's or a source's: that
//! is slowed or stopped there, and nothing else.

use super::brake::Brake;
use super::counts::Counts;
use super::{Ask, Complaint};
use crate::base::time::Timestamp;
use crate::policy::site::Rate;
use crate::policy::throttle::Throttles;
use std::collections::HashMap;

/// Names in trouble at one site; of more, those that are over soonest are forgotten.
const NAMES_MAX: usize = 1_000;

/// The tenants, the senders' domains, or the sources in trouble at a site.
#[derive(Clone, Debug, Default)]
pub struct Scoped {
    troubled: HashMap<String, Trouble>,
    /// Of all, also those that nobody complained about.
    sent: Counts,
}

/// What a site wants of a name for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When that changes.
    pub until: Timestamp,
    /// No more than this; `None`: nothing.
    pub rate: Option<Rate>,
    /// The reply, for people.
    pub why: String,
}

#[derive(Clone, Debug, Default)]
struct Trouble {
    brake: Option<Brake>,
    pace: Throttles,
    stopped_until: Timestamp,
    why: String,
}

impl Trouble {
    fn pace(&mut self, now: Timestamp) -> &mut Throttles {
        let rate = self.brake.as_ref().and_then(|brake| brake.rate(now));
        self.pace.retune(rate.as_slice(), now);
        &mut self.pace
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.stopped_until <= now && self.brake.as_ref().is_none_or(|b| b.per_hour(now).is_none())
    }
}

impl Scoped {
    /// The site complained about this name's mail: half of what it was sent in the last minute is
    /// the most from now on, but not less than `floor` per hour.
    pub fn complain(&mut self, name: &str, complaint: &Complaint, floor: u64, now: Timestamp) {
        let per_minute = self.sent.per_minute(name, now);
        self.sweep(now);
        if self.troubled.len() >= NAMES_MAX && !self.troubled.contains_key(name) {
            let end = |t: &Trouble| {
                t.brake.as_ref().map(|b| b.next_change(now)).max(Some(t.stopped_until))
            };
            let first = self
                .troubled
                .iter()
                .min_by_key(|(_, trouble)| end(trouble))
                .map(|(t, _)| t.clone());
            first.map(|first| self.troubled.remove(&first));
        }
        let trouble = self.troubled.entry(name.to_string()).or_default();
        trouble.why.clone_from(&complaint.why);
        match complaint.ask {
            Ask::Slower(hold) => {
                let before = trouble.brake.as_ref();
                trouble.brake = Some(Brake::after(before, per_minute, floor, hold, now));
            }
            // Connections carry everybody's mail.
            Ask::Fewer(_) => {}
            Ask::Stop(wait) => trouble.stopped_until = trouble.stopped_until.max(now.after(wait)),
        }
    }

    /// Forgets complaints whose time is over.
    pub fn sweep(&mut self, now: Timestamp) {
        self.troubled.retain(|_, trouble| !trouble.is_over(now));
    }

    /// How many messages of it may go now; [`u32::MAX`] where nothing holds it back.
    #[must_use]
    pub fn available(&mut self, name: &str, now: Timestamp) -> u32 {
        match self.troubled.get_mut(name) {
            None => u32::MAX,
            Some(trouble) if trouble.stopped_until > now => 0,
            Some(trouble) => trouble.pace(now).available(now, u32::MAX),
        }
    }

    /// Uses up one message, which [`Scoped::available`] allowed.
    pub fn take(&mut self, name: &str, now: Timestamp) {
        self.sent.add(name, now);
        if let Some(trouble) = self.troubled.get_mut(name) {
            trouble.pace(now).take(now, 1);
        }
    }

    /// Until when its mail waits, and why; `None` where it may go.
    #[must_use]
    pub fn waits(&mut self, name: &str, now: Timestamp) -> Option<(Timestamp, String)> {
        let trouble = self.troubled.get_mut(name)?;
        let at = trouble.stopped_until.max(trouble.pace(now).next_at(now));
        (at > now).then(|| (at, trouble.why.clone()))
    }

    /// How it stands; `None` where nothing holds it back.
    #[must_use]
    pub fn standing(&self, name: &str, now: Timestamp) -> Option<Standing> {
        let Trouble { brake, stopped_until, why, .. } = self.troubled.get(name)?;
        let why = why.clone();
        if *stopped_until > now {
            return Some(Standing { until: *stopped_until, rate: None, why });
        }
        let brake = brake.as_ref()?;
        Some(Standing { until: brake.next_change(now), rate: Some(brake.rate(now)?), why })
    }

    /// Until when nothing of it may go, and why; `None` where something may, however little.
    #[must_use]
    pub fn stopped(&self, name: &str, now: Timestamp) -> Option<(Timestamp, String)> {
        let Standing { until, rate, why } = self.standing(name, now)?;
        rate.is_none().then_some((until, why))
    }

    /// From when to when its mail is to come again, where it may not go now, and why: so much later
    /// that all that waits is spread over the time that its rate holds.
    #[must_use]
    pub fn puts_off(
        &mut self,
        name: &str,
        now: Timestamp,
    ) -> Option<(Timestamp, Timestamp, String)> {
        let (from, why) = self.waits(name, now)?;
        let brake = self.troubled.get(name).and_then(|trouble| trouble.brake.as_ref());
        let to = brake.map_or(from, |brake| brake.next_change(now).max(from));
        Some((from, to, why))
    }

    /// True where nobody is in trouble.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.troubled.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::feedback::Whose;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn complaint(ask: Ask) -> Complaint {
        Complaint { ask, whose: Whose::Everyones, why: "421 slow down".into() }
    }

    #[test]
    fn one_tenant_is_slowed_and_no_other() {
        let mut scoped = Scoped::default();
        let hold = Duration::from_secs(600);
        for tenth in 0..1_200 {
            let now = NOW.before(Duration::from_millis(120_000 - tenth * 100));
            scoped.take("b", now);
            if tenth % 10 == 0 {
                scoped.take("a", now);
            }
        }
        scoped.complain("a", &complaint(Ask::Slower(hold)), 1, NOW);
        assert_eq!(scoped.available("b", NOW), u32::MAX);
        let mut sent = 0;
        for tenth in 0..6_000 {
            let now = NOW.after(Duration::from_millis(tenth * 100));
            if scoped.available("a", now) > 0 {
                scoped.take("a", now);
                sent += 1;
            }
        }
        assert!((280..=300).contains(&sent), "{sent} in ten minutes at 30/min");
        let later = NOW.after(hold * 10);
        assert_eq!(scoped.waits("a", later), None);
    }

    #[test]
    fn one_tenant_is_stopped_for_a_while() {
        let mut scoped = Scoped::default();
        scoped.complain("a", &complaint(Ask::Stop(Duration::from_secs(60))), 1, NOW);
        assert_eq!(scoped.available("a", NOW), 0);
        let (until, why) = scoped.waits("a", NOW).unwrap();
        assert_eq!((until, why.as_str()), (NOW.after(Duration::from_secs(60)), "421 slow down"));
        assert_eq!(scoped.available("a", until), u32::MAX);
    }

    #[test]
    fn the_number_of_tenants_is_bounded() {
        let mut scoped = Scoped::default();
        for n in 0..=NAMES_MAX {
            let wait = Duration::from_secs(n as u64 + 1);
            scoped.complain(&n.to_string(), &complaint(Ask::Stop(wait)), 1, NOW);
        }
        assert_eq!((scoped.troubled.len(), scoped.available("0", NOW)), (NAMES_MAX, u32::MAX));
        assert_eq!(scoped.available("1", NOW), 0);
    }
}
