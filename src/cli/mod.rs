//! Layer 7: the command line. Arguments in, words on stdout, an exit code out.
//!
//! Exit codes: 0 fine, 1 trouble found (a bad configuration, a message that is not there, a node
//! that failed), 2 wrong usage or nobody to ask. What goes to stdout is the answer; notes and
//! errors go to stderr. Text from outside is escaped before it meets a terminal. `sendmail` alone
//! has the exit codes of the program whose place it takes.

mod args;
mod change;
mod config;
mod connect;
mod orders;
mod queue;
mod replay;
mod rules;
mod sendmail;
mod serve;
mod table;
mod tenant;
#[cfg(test)]
mod tests;
mod token;
mod upkeep;
mod user;

use args::{Cli, Verb};
use orders::Order;
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

/// Why a command did not do what it was asked.
#[derive(Debug)]
enum Failure {
    /// Something is wrong out there: exit code 1.
    Trouble(String),
    /// It was asked for wrongly, or there is nobody to ask: exit code 2.
    Usage(String),
    /// The words could not be written: nothing to say, and mostly no harm (`| head`).
    Output(io::Error),
    /// Sendmail's: all is said, and this is its own exit code.
    Told(u8),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = sendmail::by_name(&args) {
        return code;
    }
    let cli = Cli::of(&args);
    let mut out = BufWriter::new(io::stdout().lock());
    let done = run(&cli, &mut out).and_then(|()| Ok(out.flush()?));
    let (code, sentence) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(Failure::Output(error)) => (1, format!("cannot write: {error}")),
        Err(Failure::Told(code)) => return ExitCode::from(code),
        Err(Failure::Trouble(sentence)) => (1, sentence),
        Err(Failure::Usage(sentence)) => (2, sentence),
    };
    // What was said before the trouble comes first.
    let _ = out.flush();
    for line in sentence.lines() {
        let _ = writeln!(io::stderr(), "bulkhead: {line}");
    }
    ExitCode::from(code)
}

fn run(cli: &Cli, out: &mut impl Write) -> Result<(), Failure> {
    match &cli.verb {
        Verb::Serve => serve::serve(&cli.common),
        Verb::Queue(queue) => queue::run(&cli.common, queue, out),
        Verb::Rules { verb } => rules::run(&cli.common, verb, out),
        Verb::Why { what } => queue::why(&cli.common, what, out),
        Verb::Throttle { verb } => orders::run(&cli.common, &Order::Throttle(verb), out),
        Verb::Suspend(suspend) => orders::run(&cli.common, &Order::Suspend(suspend), out),
        Verb::Resume(scope) => orders::run(&cli.common, &Order::Resume(scope), out),
        Verb::Tenant { verb } => tenant::run(&cli.common, verb, out),
        Verb::Reload => config::reload(&cli.common, out),
        Verb::User { verb } => user::run(&cli.common, verb, out),
        Verb::TenantToken => token::run(&cli.common, out),
        Verb::Config { verb } => config::run(&cli.common, *verb, out),
        Verb::Sendmail { args } => sendmail::verb(args, cli.common.config.as_deref()),
    }
}
