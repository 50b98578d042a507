//! `bulkhead sendmail`: the program that web servers, content management systems and cron expect as
//! `/usr/sbin/sendmail`, which hands their mail to relays over SMTP.
//!
//! Under the names `sendmail`, `mailq` and `newaliases` (links to the binary) all arguments are
//! sendmail's, and the settings are those of [`settings`]. As `bulkhead --config FILE sendmail …`
//! the settings may be named: before the verb, where an administrator writes and nobody else.
//! Behind it, and under the other names, stand arguments that PHP makes of what strangers type.
//! No environment variable has a say.
//!
//! [`args`] and [`compose`] make a message of arguments and standard input, [`submit`] offers it to
//! the relays in turn, and what none takes now waits in the [`spool`] until a [`mod@run`].
//!
//! Exit codes are those of sysexits.h, which callers of sendmail know.

mod addresses;
mod args;
mod compose;
mod dialogue;
mod run;
mod settings;
mod spool;
mod submit;

use super::Failure;
use crate::base::address::{Domain, Mailbox};
use crate::base::random;
use crate::base::text::printable;
use crate::base::time::Clock;
use args::{Mode, Request};
use compose::{Caller, Lines, Message};
use nix::unistd::{Uid, User};
use run::Run;
use settings::Settings;
use spool::{Folder, Spooled};
use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use submit::{Fate, Refusal, Relays};

/// Most bytes of a message; relays have their own, lower limits.
const SIZE_MAX: usize = 128 << 20;
/// Longest line on standard error, in characters.
const NOTE_MAX: usize = 4000;
/// How many spooled messages a call takes along that reached a relay: its caller waits for it.
const TAKEN_ALONG: usize = 10;

/// How a call ends (sysexits.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Wrong arguments.
    Usage = 64,
    /// A message, or an address in it, that no relay could take.
    DataErr = 65,
    /// No such recipient.
    NoUser = 67,
    /// Refused for good.
    Unavailable = 69,
    /// Something is wrong with this machine.
    Software = 70,
    /// The spool cannot be written.
    CantCreat = 73,
    /// Reading or writing failed.
    IoErr = 74,
    /// Not now.
    TempFail = 75,
    /// Not allowed.
    NoPerm = 77,
    /// The settings are wrong.
    Config = 78,
}

impl Exit {
    fn because(self, text: impl Into<String>) -> Stop {
        Stop { exit: self, text: text.into() }
    }
}

/// Why a call did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stop {
    exit: Exit,
    /// For standard error; may have lines.
    text: String,
}

/// Runs sendmail where the binary was called by one of its names.
pub(super) fn by_name(args: &[OsString]) -> Option<ExitCode> {
    let (program, args) = args.split_first()?;
    let mode = match Path::new(program).file_name()?.to_str()? {
        "sendmail" => None,
        "mailq" => Some(Mode::List),
        "newaliases" => Some(Mode::Aliases),
        _ => return None,
    };
    Some(ExitCode::from(call(args, mode, None)))
}

/// Runs `bulkhead sendmail` with its arguments.
pub(super) fn verb(args: &[OsString], config: Option<&Path>) -> Result<(), Failure> {
    match call(args, None, config) {
        0 => Ok(()),
        code => Err(Failure::Told(code)),
    }
}

/// The exit code; what was wrong is told. `mode` where the program's name says it.
fn call(args: &[OsString], mode: Option<Mode>, config: Option<&Path>) -> u8 {
    let done = args::parse(args.iter().cloned()).and_then(|mut request| {
        request.mode = mode.unwrap_or(request.mode);
        run(&request, config)
    });
    match done {
        Ok(()) => 0,
        Err(Stop { exit, text }) => {
            text.lines().for_each(note);
            exit as u8
        }
    }
}

/// A line on standard error, safe to print.
fn note(text: &str) {
    // Who closed it does not want to know.
    let _ = writeln!(io::stderr(), "sendmail: {}", printable(text.as_bytes(), NOTE_MAX));
}

fn run(request: &Request, config: Option<&Path>) -> Result<(), Stop> {
    let user = rustix::process::getuid();
    if user != rustix::process::geteuid() {
        return Err(Exit::NoPerm.because("not made to run set-user-id: chmod u-s the program"));
    }
    if request.mode == Mode::Aliases {
        return Ok(());
    }
    let settings = Settings::load(config)?;
    let call = Call { settings: &settings, home: settings.domain()?, user: user.as_raw() };
    let relays = || Relays::new(&settings, request.is_verbose);
    match request.mode {
        Mode::Message => call.message(request, &mut relays()?),
        Mode::Dialogue => {
            dialogue::run(&mut relays()?, SIZE_MAX, io::stdin().lock(), io::stdout().lock())
        }
        Mode::Run => call.run(&mut relays()?),
        Mode::List => {
            let now = Clock::system().now();
            let shown = run::show(&call.folders(), now, &mut io::stdout().lock());
            shown.map_err(|error| Exit::IoErr.because(format!("cannot write: {error}")))
        }
        Mode::Aliases => Ok(()),
    }
}

/// One call of the program.
struct Call<'a> {
    settings: &'a Settings,
    home: Domain,
    user: u32,
}

impl Call<'_> {
    /// Takes a message from standard input; to the relays with it, or to the spool.
    fn message(&self, request: &Request, relays: &mut Relays<'_>) -> Result<(), Stop> {
        let clock = Clock::system();
        let input = read(io::stdin().lock(), request.dot_is_text)?;
        let (name, full_name) = self.caller();
        let now = clock.now();
        let by = Caller {
            user: &name,
            full_name: &full_name,
            home: &self.home,
            id: spool::new_id(now, random::from_system().i64(0..1 << 20)),
            process: std::process::id(),
            now,
        };
        let message = compose::message(request, &input, &by)?;
        let fates = relays.send(&message);
        let (left, refused) = sort(message, fates);
        let is_done = left.is_none();
        let spooled = left.map(|left| self.spool(&left, &clock)).transpose();
        for (mailbox, refusal) in &refused {
            note(&format!("<{}>: {refusal}", printable(mailbox.as_str().as_bytes(), 300)));
        }
        spooled?;
        // Where nothing of it waits, a relay was there. What was just put off is not tried at once.
        if is_done && let Ok(Some(folder)) = Folder::open(&self.settings.spool, self.user, false) {
            let home = &self.home;
            // This call's own mail is done; the trouble of earlier mail is that of `-q`.
            let _ = Run { relays, home, clock: &clock }.folder(&folder, TAKEN_ALONG);
        }
        match refused.first() {
            None => Ok(()),
            Some((_, refusal)) => Err(refusal.exit().because("")),
        }
    }

    /// Keeps what no relay takes now.
    fn spool(&self, left: &Spooled, clock: &Clock) -> Result<(), Stop> {
        let kept = Folder::open(&self.settings.spool, self.user, true).and_then(|folder| {
            folder.map(|folder| folder.add(left, clock.now(), false)).transpose()
        });
        kept.map(drop).map_err(|Stop { exit, text }| {
            exit.because(format!("no relay takes the message ({}), and {text}", left.reason))
        })
    }

    /// Sends what waits: root's call that of all users, another's his own.
    fn run(&self, relays: &mut Relays<'_>) -> Result<(), Stop> {
        let clock = Clock::system();
        let home = &self.home;
        for folder in self.folders() {
            let done = Run { relays, home, clock: &clock }.folder(&folder, usize::MAX);
            if let Err(Stop { text, .. }) = done {
                note(&text);
            }
        }
        if relays.are_down() {
            return Err(Exit::TempFail.because(relays.complaints()));
        }
        Ok(())
    }

    fn folders(&self) -> Vec<Folder> {
        let spool = &self.settings.spool;
        let users = if self.user == 0 { Folder::users(spool) } else { vec![self.user] };
        let open = |user| match Folder::open(spool, user, false) {
            Ok(folder) => folder,
            Err(Stop { text, .. }) => {
                note(&text);
                None
            }
        };
        users.into_iter().filter_map(open).collect()
    }

    /// Login name and full name. A user without a name that mail can carry goes by his number.
    fn caller(&self) -> (String, String) {
        let found = User::from_uid(Uid::from_raw(self.user)).ok().flatten();
        let (name, gecos) = match found {
            Some(user) => (user.name, user.gecos.to_string_lossy().into_owned()),
            None => (String::new(), String::new()),
        };
        let full_name = gecos.split(',').next().unwrap_or_default();
        let full_name: String = full_name.chars().filter(|c| !c.is_control()).collect();
        match Mailbox::parse(&format!("{name}@{}", self.home)) {
            Ok(_) => (name, full_name),
            Err(_) => (format!("uid-{}", self.user), full_name),
        }
    }
}

/// What waits, with why, and who was refused.
fn sort(message: Message, fates: Vec<Fate>) -> (Option<Spooled>, Vec<(Mailbox, Refusal)>) {
    let mut left = Spooled { message, reason: String::new() };
    let recipients = std::mem::take(&mut left.message.envelope.recipients);
    let mut refused = Vec::new();
    for (recipient, fate) in recipients.into_iter().zip(fates) {
        match fate {
            Fate::Sent => {}
            Fate::Refused(refusal) => refused.push((recipient.mailbox, refusal)),
            Fate::Waits(why) => {
                left.reason = why;
                left.message.envelope.recipients.push(recipient);
            }
        }
    }
    ((!left.message.envelope.recipients.is_empty()).then_some(left), refused)
}

fn read(mut input: impl BufRead, dot_is_text: bool) -> Result<Vec<u8>, Stop> {
    let mut lines = Lines::new(dot_is_text);
    loop {
        let mut line = Vec::new();
        let room = (SIZE_MAX + 1).saturating_sub(lines.len());
        let read = input.by_ref().take(room as u64).read_until(b'\n', &mut line);
        let read =
            read.map_err(|e| Exit::IoErr.because(format!("cannot read the message: {e}")))?;
        if read == 0 || !lines.push(&line)? {
            return Ok(lines.finish());
        }
        if lines.len() > SIZE_MAX {
            let text = format!("the message has more than {} MiB", SIZE_MAX >> 20);
            return Err(Exit::DataErr.because(text));
        }
    }
}
