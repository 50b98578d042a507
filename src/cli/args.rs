//! Every verb and option, declared for clap.

use crate::base::time::Timestamp;
use crate::config::{Config, ConfigErrors, unit};
use crate::mail::message::Lane;
use crate::policy::site::setting::{LimitKey, Setting};
use crate::store::{Filter, State};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a configuration is looked for without `--config`, in this order.
const CONFIG_PATHS: [&str; 2] = ["/etc/bulkhead/config.toml", "config.toml"];

/// A newsletter-aware SMTP relay and queue.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 fine, 1 trouble found, 2 wrong usage or nobody to ask.")]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Configuration file [default: /etc/bulkhead/config.toml if it exists, else ./config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Answer in JSON, for programs
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run a node
    Serve,
    /// Show the queue, or do something to what is in it
    Queue(Box<Queue>),
    /// Show what receivers' refusals lead to, and try it
    Rules {
        #[command(subcommand)]
        verb: RulesVerb,
    },
    /// Say why mail is where it is, and what would change it
    Why {
        /// Message id, address, domain, site, or customer
        what: String,
    },
    /// Show the limits of a site and where they come from, or override them while the node runs
    Throttle {
        #[command(subcommand)]
        verb: ThrottleVerb,
    },
    /// Suspend mail while the node runs (it is still accepted); without options, list what is
    Suspend(Suspend),
    /// End a suspension; of exactly what it was given for
    Resume(ScopeArgs),
    /// Show hosting customers and what is known of their mail; suspend one and let him go on
    Tenant {
        #[command(subcommand)]
        verb: TenantVerb,
    },
    /// Have the running node read its configuration file again; all of it holds, or nothing
    Reload,
    /// Say who may log in, and test passwords
    User {
        #[command(subcommand)]
        verb: UserVerb,
    },
    /// Make a token by which a customer's programs send by HTTP
    TenantToken,
    /// Check or show the configuration
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Take a message from a program, as /usr/sbin/sendmail does, and hand it to a relay
    ///
    /// Its settings are /etc/bulkhead/sendmail.toml, or --config FILE, which stands before the
    /// verb.
    #[command(disable_help_flag = true)]
    Sendmail {
        /// Sendmail's: -t, -i, -f ADDRESS, -bs, -bp, -q, …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        args: Vec<OsString>,
    },
}

impl Cli {
    /// What a command line means; prints help or an error and ends the process where it is neither.
    /// All that stands behind the verb `sendmail` is sendmail's, whatever it looks like.
    pub(super) fn of(args: &[OsString]) -> Self {
        let verb = args.iter().position(|arg| arg == "sendmail");
        if let Some((ours, theirs)) = verb.and_then(|at| args.split_at_checked(at + 1))
            && let Ok(Self { common, verb: Verb::Sendmail { .. } }) = Self::try_parse_from(ours)
        {
            return Self { common, verb: Verb::Sendmail { args: theirs.to_vec() } };
        }
        Self::parse_from(args)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum ThrottleVerb {
    /// Show every limit of a site and where it comes from; without a site, all live overrides
    Show {
        /// A site's name, a domain that it serves, or an MX host
        site: Option<String>,
    },
    /// Override limits of a site; kept over a restart
    Set {
        /// A site's name, a domain that it serves, or a suffix of its MX hosts
        site: String,
        /// The keys of [sites]: rate=100/s,50000/d, rate=none, connections=5, …
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = Setting::parse)]
        settings: Vec<Setting>,
        /// How long: 90s, 2h, 7d [default: until cleared]
        #[arg(long = "for", value_name = "TIME", value_parser = unit::duration)]
        lasts: Option<Duration>,
    },
    /// End overrides of a site
    Clear {
        /// As it was named then
        site: String,
        /// Which [default: all]
        #[arg(value_name = "KEY", value_parser = LimitKey::parse)]
        keys: Vec<LimitKey>,
    },
}

/// Mail must match all that is given.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ScopeArgs {
    /// To this site: its name, a domain that it serves, or a suffix of its MX hosts
    #[arg(long)]
    pub(super) site: Option<String>,
    /// Of this customer
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// Of this mailing
    #[arg(long)]
    pub(super) campaign: Option<String>,
    /// Of this lane: direct or bulk
    #[arg(long)]
    pub(super) lane: Option<Lane>,
}

impl ScopeArgs {
    /// Nothing was given.
    pub(super) fn is_empty(&self) -> bool {
        let Self { site, tenant, campaign, lane } = self;
        lane.is_none() && [site, tenant, campaign].into_iter().all(Option::is_none)
    }
}

#[derive(Debug, Args)]
pub(super) struct Suspend {
    #[command(flatten)]
    pub(super) scope: ScopeArgs,
    /// Why, for those who come after you
    #[arg(long)]
    pub(super) reason: Option<String>,
    /// How long: 90s, 2h, 7d [default: until resumed]
    #[arg(long = "for", value_name = "TIME", value_parser = unit::duration)]
    pub(super) lasts: Option<Duration>,
    /// List what is suspended
    #[arg(long)]
    pub(super) list: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum TenantVerb {
    /// List tenants with an entry in the configuration or with mail in the queue
    List,
    /// Show what a tenant may, what it sent lately, and why its mail waits
    Show {
        /// As `list` has it
        name: String,
    },
    /// Suspend all of a tenant's mail (it is still accepted)
    Suspend {
        /// As `list` has it
        name: String,
        /// Why, for those who come after you
        #[arg(long)]
        reason: String,
        /// How long: 90s, 2h, 7d [default: until resumed]
        #[arg(long = "for", value_name = "TIME", value_parser = unit::duration)]
        lasts: Option<Duration>,
    },
    /// Let a tenant's mail go on, or clear its alert
    Resume {
        /// As `list` has it
        name: String,
        /// What it was suspended for was right: so much is usual from now on
        #[arg(long)]
        as_usual: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub(super) enum ConfigVerb {
    /// Say all that is wrong with the file
    Check,
    /// Show every effective value and where it comes from
    Show,
    /// Print a commented file with all defaults
    Default,
}

/// Passwords are asked for, or taken from the first line of standard input.
#[derive(Debug, Subcommand)]
pub(super) enum UserVerb {
    /// Add a user to the users file
    Add {
        /// Letters of either case are the same; no spaces
        name: String,
        /// Whose mail his is [default: decided as without a login]
        #[arg(long)]
        tenant: Option<String>,
        /// Keep the password by argon2id; it serves PLAIN and LOGIN alone
        #[arg(long)]
        argon2: bool,
        /// Give a user that is there another password; without --tenant, his tenant stays
        #[arg(long)]
        replace: bool,
    },
    /// List who may not log in for now, after too many failures
    Blocks,
    /// Let somebody log in again
    Unblock {
        /// As `blocks` has it: an address, a user, or a user at an address
        who: String,
    },
    /// List all users
    List,
    /// Remove a user from the users file
    Remove {
        /// As `list` has it
        name: String,
    },
    /// Say whether a password is the user's; exit code 1 where it is not
    Test {
        /// As `list` has it
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RulesVerb {
    /// List all rules in the order they are asked
    List,
    /// Say what a reply would lead to; exit code 1 where no rule matches
    Test {
        /// The receiving host that says it [default: whatever differs by receiver is told]
        #[arg(long, value_name = "HOST")]
        mx: Option<String>,
        /// The reply with its code, in quotes
        #[arg(required = true, value_name = "REPLY")]
        reply: Vec<String>,
    },
    /// Say what the rules would have done to the replies of a log, and which replies match none
    Replay {
        /// Log of a node, as text or JSON; - is standard input
        log: PathBuf,
        /// Also compare with the rules of this configuration
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
    },
}

/// Without a verb: how much waits at each site.
#[derive(Debug, Args)]
pub(super) struct Queue {
    /// Only this lane: direct or bulk
    #[arg(long, global = true)]
    pub(super) lane: Option<Lane>,
    /// Most sites shown, those with most mail first [default: 50, with --json all]
    #[arg(long, value_name = "N")]
    pub(super) sites: Option<usize>,
    #[command(subcommand)]
    pub(super) verb: Option<QueueVerb>,
}

#[derive(Debug, Subcommand)]
pub(super) enum QueueVerb {
    /// List deliveries one by one
    List(Which),
    /// Show a message and what became of each of its recipients
    Show {
        /// Message id, such as 1RW7M2Q80A3F
        id: String,
    },
    /// Do not send until released; --all holds what is to come, too (mail is still accepted)
    Hold(Targets),
    /// Send what was held; --all ends `hold --all`, what a filter holds stays held
    Release(Targets),
    /// Make deferred deliveries due now
    Retry(Targets),
    /// Remove deliveries for good; their senders are not told
    Delete {
        #[command(flatten)]
        targets: Targets,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Check every record of a queue that no node has, and its database against them
    Check,
    /// Make the database of a queue that no node has anew from its journal
    Rebuild,
}

/// What to change.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Targets {
    /// Everything in the queue
    #[arg(long)]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) which: Which,
}

/// A delivery must match all that is given. Several values of one option are alternatives.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which deliveries")]
pub(super) struct Which {
    /// To this domain
    #[arg(long, value_delimiter = ',')]
    pub(super) domain: Vec<String>,
    /// To a domain served by this site, as `bulkhead queue` names it
    #[arg(long)]
    pub(super) site: Option<String>,
    /// Of this customer
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// Of this mailing
    #[arg(long)]
    pub(super) campaign: Option<String>,
    /// From this address, or from @domain; <> for notifications
    #[arg(long, value_name = "ADDRESS")]
    pub(super) sender: Option<String>,
    /// To this address
    #[arg(long, value_name = "ADDRESS")]
    pub(super) recipient: Option<String>,
    /// Of this message
    #[arg(long)]
    pub(super) id: Option<String>,
    /// Accepted so long ago or longer: 30s, 2h, 1d
    #[arg(long, visible_alias = "age", value_name = "AGE", value_parser = unit::duration)]
    pub(super) older_than: Option<Duration>,
    /// In this state: ready, leased, deferred or held
    #[arg(long, value_delimiter = ',', value_parser = state)]
    pub(super) state: Vec<State>,
}

impl Which {
    /// Nothing was given: it matches everything.
    pub(super) fn is_empty(&self) -> bool {
        let Self { domain, site, tenant, campaign, sender, recipient, id, older_than, state } =
            self;
        let texts = [site, tenant, campaign, sender, recipient, id];
        domain.is_empty()
            && texts.into_iter().all(Option::is_none)
            && older_than.is_none()
            && state.is_empty()
    }

    /// For the control API; the site goes apart.
    pub(super) fn filter(&self, lane: Option<Lane>, now: Timestamp) -> Filter {
        Filter {
            lane,
            domains: self.domain.iter().map(|domain| domain.to_lowercase()).collect(),
            tenant: self.tenant.clone(),
            campaign: self.campaign.clone(),
            sender: self.sender.clone(),
            recipient: self.recipient.clone(),
            message: self.id.clone(),
            accepted_until: self.older_than.map(|age| now.before(age).0),
            states: self.state.clone(),
        }
    }
}

impl Common {
    /// The file to read.
    pub(super) fn path(&self) -> &Path {
        let found = CONFIG_PATHS.iter().map(Path::new).find(|path| path.exists());
        match &self.config {
            Some(path) => path,
            // The last one named, so that the error names it.
            None => found.unwrap_or(Path::new(CONFIG_PATHS[CONFIG_PATHS.len() - 1])),
        }
    }

    /// The checked configuration.
    pub(super) fn load(&self) -> Result<Config, ConfigErrors> {
        Config::load(self.path())
    }
}

fn state(text: &str) -> Result<State, String> {
    match text {
        "ready" => Ok(State::Ready),
        "leased" => Ok(State::Leased),
        "deferred" => Ok(State::Deferred),
        "held" => Ok(State::Held),
        _ => Err("want ready, leased, deferred or held".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        let words = std::iter::once("bulkhead").chain(line.split_whitespace());
        Cli::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_declaration_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn common_options_may_stand_anywhere() {
        for line in [
            "--config a.toml --json queue",
            "queue --config a.toml --json",
            "queue list --json --config a.toml",
            "config show --json --config a.toml",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!((cli.common.path(), cli.common.json), (Path::new("a.toml"), true), "{line}");
        }
    }

    #[test]
    fn what_is_behind_sendmail_is_sendmails() {
        let of = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let Cli { common, verb } = Cli::of(&words);
            let Verb::Sendmail { args } = verb else { panic!("{line}") };
            (common.config, args.join(" ".as_ref()).into_string().unwrap())
        };
        let own = "--config b.toml -t --json --help -f -X x -- sendmail";
        for (ours, config) in [("", None), ("--config a.toml ", Some("a.toml"))] {
            let got = of(&format!("bulkhead {ours}sendmail {own}"));
            assert_eq!(got, (config.map(PathBuf::from), own.to_string()));
        }
        let words = ["bulkhead", "why", "sendmail"].map(OsString::from);
        assert!(matches!(Cli::of(&words).verb, Verb::Why { .. }));
    }

    #[test]
    fn filters_become_what_the_store_understands() {
        let line = "queue --lane bulk list --domain A.de,b.de --domain c.de --site google.com \
                    --sender <> --older-than 2h --state held,ready";
        let Verb::Queue(queue) = parse(line).unwrap().verb else { panic!("queue") };
        let Queue { lane, verb: Some(QueueVerb::List(which)), .. } = *queue else {
            panic!("queue list");
        };
        let filter = which.filter(lane, Timestamp(10_000_000));
        assert_eq!(filter.lane, Some(Lane::Bulk));
        assert_eq!(filter.domains, ["a.de", "b.de", "c.de"]);
        assert_eq!(which.site.as_deref(), Some("google.com"));
        assert_eq!(
            (filter.sender.as_deref(), filter.accepted_until),
            (Some("<>"), Some(2_800_000))
        );
        assert_eq!(filter.states, [State::Held, State::Ready]);
        assert!(!which.is_empty() && Which::default().is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse("queue --lane fast").unwrap_err().contains("want direct or bulk"));
        assert!(
            parse("queue list --state gone")
                .unwrap_err()
                .contains("ready, leased, deferred or held")
        );
        assert!(parse("queue list --older-than 2").unwrap_err().contains("is not a duration"));
        assert!(parse("queue delete --yes --everything").is_err());
        assert!(parse("").is_err());
    }
}
