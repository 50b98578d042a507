//! The arguments of sendmail, as PHP, content management systems, cron and scripts write them.
//! Pure.
//!
//! What they may contain was often typed by a stranger into a form (CVE-2016-10033), so nothing
//! here names a file or another configuration: `-C`, `-O`, `-X` and all that is not known are
//! refused by name. What follows `-f`, `-r` and `-F` is data, whatever it begins with. What
//! Postfix's sendmail knows and ignores is ignored where that loses nothing.

use super::{Exit, Stop};
use crate::base::text::printable;
use crate::mail::envelope::{BodyType, Notify, Ret};
use lexopt::{Arg, Parser};
use std::ffi::OsString;

/// Longest `-V` (RFC 3461 §4.4).
const ENVID_MAX: usize = 100;

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// `-bm`: take a message from standard input.
    #[default]
    Message,
    /// `-bs`: SMTP on standard input and output.
    Dialogue,
    /// `-bp`, `mailq`: show what waits.
    List,
    /// `-q`: send what waits.
    Run,
    /// `-bi`, `-I`, `newaliases`: there are no aliases here.
    Aliases,
}

/// The arguments, each one looked at by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) mode: Mode,
    /// `-t`: to the addresses in the header section, too.
    pub(super) from_header: bool,
    /// `-i`, `-oi`: a line with a dot alone is text.
    pub(super) dot_is_text: bool,
    /// `-f`, `-r`: the envelope sender, not yet parsed.
    pub(super) sender: Option<String>,
    /// `-F`: the name in a From that is added.
    pub(super) full_name: Option<String>,
    /// Lists of addresses, not yet parsed.
    pub(super) recipients: Vec<String>,
    /// `-N`
    pub(super) notify: Option<Notify>,
    /// `-R`
    pub(super) ret: Option<Ret>,
    /// `-V`, printable ASCII.
    pub(super) envid: Option<String>,
    /// `-B`
    pub(super) body: Option<BodyType>,
    /// `-G`: the message came from elsewhere; nothing is added to it.
    pub(super) is_relayed: bool,
    /// `-v`
    pub(super) is_verbose: bool,
}

/// Reads the arguments, the program's name not among them.
///
/// # Errors
/// [`Exit::Usage`] with the option that is not known or has a value that means nothing.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request, Stop> {
    let mut parser = Parser::from_args(args);
    let mut request = Request::default();
    while let Some(arg) = parser.next().map_err(|error| usage(error.to_string()))? {
        match arg {
            Arg::Short(flag) => option(flag, &mut parser, &mut request)?,
            Arg::Long(name) => return Err(usage(format!("unknown option --{}", shown(name)))),
            Arg::Value(value) => request.recipients.push(text("a recipient", value)?),
        }
    }
    Ok(request)
}

fn option(flag: char, parser: &mut Parser, request: &mut Request) -> Result<(), Stop> {
    let mut value = || {
        let value = parser.value().map_err(|_| usage(format!("-{flag} wants a value")))?;
        text(&format!("the value of -{flag}"), value)
    };
    match flag {
        't' => request.from_header = true,
        'i' => request.dot_is_text = true,
        'f' | 'r' => request.sender = Some(value()?),
        'F' => request.full_name = Some(value()?),
        'N' => request.notify = Some(notify(&value()?)?),
        'R' => request.ret = Some(ret(&value()?)?),
        'V' => request.envid = Some(envid(value()?)?),
        'B' => request.body = Some(body(&value()?)?),
        'G' => request.is_relayed = true,
        'v' => request.is_verbose = true,
        'b' => request.mode = mode(&value()?)?,
        'I' => request.mode = Mode::Aliases,
        'q' => match parser.optional_value() {
            None => request.mode = Mode::Run,
            Some(which) => return Err(usage(format!("-q{}: only -q is known", shown(&which)))),
        },
        'o' => long_o(&value()?, request)?,
        // Initial submission, the default here; "me too" and "no aliases", where there are none.
        'U' | 'm' | 'n' => {}
        // Which configuration (there is one), hop count, name in the log.
        'A' | 'h' | 'L' => drop(value()?),
        _ => return Err(usage(format!("unknown option -{}", shown(flag.to_string())))),
    }
    Ok(())
}

/// `-o`: sendmail's old options, of which a few are in everyone's scripts.
fn long_o(text: &str, request: &mut Request) -> Result<(), Stop> {
    match text {
        "i" => request.dot_is_text = true,
        // "Me too"; 7 or 8 bits, which the bytes themselves show.
        "m" | "7" | "8" => {}
        // How to deliver, and how to tell of errors: always at once, and by exit code.
        _ if text.starts_with('d') || text.starts_with('e') => {}
        _ => return Err(usage(format!("unknown option -o{}", shown(text)))),
    }
    Ok(())
}

fn mode(text: &str) -> Result<Mode, Stop> {
    match text {
        "m" => Ok(Mode::Message),
        "s" => Ok(Mode::Dialogue),
        "p" => Ok(Mode::List),
        "i" => Ok(Mode::Aliases),
        "d" | "D" | "l" => Err(usage(format!("-b{text}: the server is `bulkhead serve`"))),
        _ => Err(usage(format!("unknown option -b{}", shown(text)))),
    }
}

fn notify(text: &str) -> Result<Notify, Stop> {
    let mut notify = Notify::default();
    if text.eq_ignore_ascii_case("never") {
        return Ok(notify);
    }
    for word in text.split(',') {
        match word.trim().to_ascii_lowercase().as_str() {
            "success" => notify.success = true,
            "failure" => notify.failure = true,
            "delay" => notify.delay = true,
            _ => {
                let want = "want never, or some of success,failure,delay";
                return Err(usage(format!("-N {}: {want}", shown(text))));
            }
        }
    }
    Ok(notify)
}

fn ret(text: &str) -> Result<Ret, Stop> {
    match text.to_ascii_lowercase().as_str() {
        "full" => Ok(Ret::Full),
        "hdrs" => Ok(Ret::Headers),
        _ => Err(usage(format!("-R {}: want full or hdrs", shown(text)))),
    }
}

fn envid(text: String) -> Result<String, Stop> {
    let fits = (1..=ENVID_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if fits {
        return Ok(text);
    }
    Err(usage(format!("-V {}: want up to {ENVID_MAX} letters, digits and signs", shown(text))))
}

fn body(text: &str) -> Result<BodyType, Stop> {
    match text.to_ascii_uppercase().as_str() {
        "7BIT" => Ok(BodyType::SevenBit),
        "8BITMIME" => Ok(BodyType::EightBitMime),
        _ => Err(usage(format!("-B {}: want 7BIT or 8BITMIME", shown(text)))),
    }
}

/// Text of one line: what a control character in an argument is good for is an attack.
fn text(what: &str, value: OsString) -> Result<String, Stop> {
    let text = value.into_string().map_err(|_| usage(format!("{what} is not UTF-8")))?;
    if text.chars().any(char::is_control) {
        return Err(usage(format!("{what} has a control character: {}", shown(text))));
    }
    Ok(text)
}

fn usage(text: String) -> Stop {
    Exit::Usage.because(text)
}

fn shown(text: impl AsRef<std::ffi::OsStr>) -> String {
    printable(text.as_ref().as_encoded_bytes(), 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(line: &[&str]) -> Result<Request, String> {
        parse(line.iter().map(OsString::from)).map_err(|stop| {
            assert_eq!(stop.exit, Exit::Usage);
            stop.text
        })
    }

    fn line(line: &str) -> Result<Request, String> {
        words(&line.split(' ').collect::<Vec<_>>())
    }

    #[test]
    fn what_programs_write_is_understood() {
        for php in ["-t -i", "-ti", "-it -odi -oem", "-t -oi -U -om", "-i -t -- "] {
            let got = line(php.trim_end()).unwrap();
            assert!(got.from_header && got.dot_is_text && got.recipients.is_empty(), "{php}");
        }
        let cron = line("-FCronDaemon -i -B8BITMIME -oem root").unwrap();
        assert_eq!(cron.full_name.as_deref(), Some("CronDaemon"));
        assert_eq!(
            (cron.body, cron.recipients),
            (Some(BodyType::EightBitMime), vec!["root".into()])
        );
        let sender = |text| line(text).unwrap().sender.unwrap();
        assert_eq!(sender("-t -fbounce@s.de"), "bounce@s.de");
        assert_eq!(sender("-t -r bounce@s.de"), "bounce@s.de");
        assert_eq!(words(&["-f", "", "a@b.de"]).unwrap().sender.as_deref(), Some(""));
        for (text, mode) in [
            ("-bm a@b.de", Mode::Message),
            ("-bs", Mode::Dialogue),
            ("-bp", Mode::List),
            ("-q", Mode::Run),
            ("-bi", Mode::Aliases),
            ("-I", Mode::Aliases),
        ] {
            assert_eq!(line(text).unwrap().mode, mode, "{text}");
        }
        let dsn =
            line("-N success,Delay -R hdrs -V QQ314 -G -v -Am -h 5 -n -L php a@b.de").unwrap();
        assert_eq!(dsn.notify, Some(Notify { success: true, failure: false, delay: true }));
        assert_eq!((dsn.ret, dsn.envid.as_deref()), (Some(Ret::Headers), Some("QQ314")));
        assert!(dsn.is_relayed && dsn.is_verbose);
        assert_eq!(line("-N never x").unwrap().notify, Some(Notify::default()));
    }

    #[test]
    fn what_could_write_or_choose_files_is_refused_by_name() {
        for (text, error) in [
            ("-X/var/www/x.php", "unknown option -X"),
            ("-t -i -X /var/www/x.php", "unknown option -X"),
            ("-OQueueDirectory=/tmp", "unknown option -O"),
            ("-oQ/tmp", "unknown option -oQ/tmp"),
            ("-oA/etc/passwd", "unknown option -oA/etc/passwd"),
            ("-C/tmp/x.cf", "unknown option -C"),
            ("-D/tmp/x", "unknown option -D"),
            ("--config=/tmp/x", "unknown option --config"),
            ("-bd", "-bd: the server is `bulkhead serve`"),
            ("-bv", "unknown option -bv"),
            ("-qI123", "-qI123: only -q is known"),
            ("-f", "-f wants a value"),
            ("-N sometimes", "-N sometimes: want never, or some of"),
            ("-R none", "-R none: want full or hdrs"),
            ("-B binary", "-B binary: want 7BIT or 8BITMIME"),
        ] {
            let got = line(text).unwrap_err();
            assert!(got.contains(error), "{text}: {got}");
        }
        assert!(words(&["-V", "a b"]).unwrap_err().contains("-V a b"));
        assert!(words(&["-F", "a\r\nBcc: x@y.de"]).unwrap_err().contains("control character"));
        assert!(words(&["a@b.de\nx"]).unwrap_err().contains("control character"));
    }

    #[test]
    fn what_follows_f_is_data() {
        let got = words(&["-t", "-f", "-X/tmp/x", "-i"]).unwrap();
        assert_eq!(got.sender.as_deref(), Some("-X/tmp/x"));
        let got = words(&["-fa@b.de -OQueueDirectory=/tmp -X/tmp/x"]).unwrap();
        assert_eq!(got.sender.as_deref(), Some("a@b.de -OQueueDirectory=/tmp -X/tmp/x"));
        let got = words(&["--", "-X/tmp/x", "-t"]).unwrap();
        assert!(!got.from_header && got.recipients == ["-X/tmp/x", "-t"]);
    }

    proptest! {
        #[test]
        fn no_arguments_panic_and_every_value_is_one_line(args: Vec<String>) {
            if let Ok(got) = parse(args.iter().map(OsString::from)) {
                let texts = got.recipients.iter().chain(&got.sender).chain(&got.full_name);
                prop_assert!(texts.chain(&got.envid).all(|t| !t.chars().any(char::is_control)));
            }
        }
    }
}
