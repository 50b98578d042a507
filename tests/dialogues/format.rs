//! How dialogue files are written, and how they are read: text in, steps out, without IO.
//!
//! One statement a line; `#` begins a line for people, and a line that begins with blanks goes on
//! with the one above.
//!
//! | statement | meaning |
//! |---|---|
//! | `config: limits.recipients = 3` | a key of the node's configuration, as TOML |
//! | `tenant: name = "shop"; recipients = 2` | a `[[tenants]]` of the configuration |
//! | `user: ann secret` | one who may log in |
//! | `connect` | a new client within the relay networks, in place of the one before |
//! | `connect stranger` | one outside of them; `mapped`: its IPv4 address comes as IPv6 |
//! | `C: NOOP` | the client sends this and CRLF; lines in a row leave in one write |
//! | `S: 250 2.0.0` | a whole reply comes, and its last line begins so |
//! | `S: 250-SIZE` | a line before the last one of the next reply begins so |
//! | `close` | the server closes, and has said nothing more |
//! | `delivered: a@s.test > b@d.test, c@d.test` | a message arrives so; no other may |
//! | `body: text`, `no body: text` | its bytes contain this, or do not |
//! | `each FROM: a b c` … `end` | the lines between once for each word, which `$FROM` stands for |
//!
//! Escapes, in what clients send and in bodies: `\r \n \t \0 \s` (blank) `\xff \\`, `\{64*ab}` for
//! `ab` 64 times, and `\c` at the end of a line for no CRLF.

use std::collections::HashMap;

/// A file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dialogue {
    /// Section, key and value in TOML.
    pub(crate) config: Vec<(String, String, String)>,
    /// TOML, as it is.
    pub(crate) tenants: String,
    /// Names and passwords.
    pub(crate) users: Vec<(String, String)>,
    pub(crate) steps: Vec<Step>,
    /// All that is delivered, in any order.
    pub(crate) delivered: Vec<Delivery>,
}

/// What happens, the number of the line that says so, and what its words stand for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) words: String,
    pub(crate) act: Act,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Connect {
        stranger: bool,
        mapped: bool,
    },
    Say(Vec<u8>),
    /// Beginnings of lines of one reply; the last is that of its last line.
    Hear(Vec<String>),
    Close,
}

/// A message at its receiver.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) line: usize,
    pub(crate) sender: String,
    pub(crate) recipients: Vec<String>,
    /// What its bytes contain, or do not.
    pub(crate) contents: Vec<(Vec<u8>, bool)>,
}

/// Number of a line, and what is wrong with it.
pub(crate) type Wrong = (usize, String);

/// Reads a file.
pub(crate) fn parse(text: &str) -> Result<Dialogue, Wrong> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (n, line) in (1..).zip(text.lines().map(str::trim_end)) {
        match lines.last_mut() {
            _ if line.is_empty() || line.starts_with('#') => {}
            Some((_, last)) if line.starts_with(' ') => last.push_str(line),
            _ => lines.push((n, line.to_string())),
        }
    }
    let mut dialogue = Dialogue::default();
    dialogue.block(&lines, &HashMap::new())?;
    Ok(dialogue)
}

impl Dialogue {
    fn block(
        &mut self,
        lines: &[(usize, String)],
        words: &HashMap<&str, &str>,
    ) -> Result<(), Wrong> {
        let mut rest = lines;
        while let Some(((n, line), after)) = rest.split_first() {
            rest = after;
            let Some(each) = line.strip_prefix("each ") else {
                let replace = |line: String, (name, word): (&&str, &&str)| {
                    line.replace(&format!("${name}"), word)
                };
                let line = words.iter().fold(line.clone(), replace);
                self.statement(*n, &line, &known(words)).map_err(|wrong| (*n, wrong))?;
                continue;
            };
            let (name, values) =
                each.split_once(':').ok_or((*n, "each NAME: words".to_string()))?;
            let length = block_length(after).ok_or((*n, "no end".to_string()))?;
            for value in values.split_whitespace() {
                let mut words = words.clone();
                words.insert(name, value);
                self.block(&after[..length], &words)?;
            }
            rest = &after[length + 1..];
        }
        Ok(())
    }

    fn statement(&mut self, line: usize, text: &str, words: &str) -> Result<(), String> {
        let step = |act| Step { line, words: words.to_string(), act };
        let (word, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match word {
            "C" => {
                let (said, ended) = match value.strip_suffix("\\c") {
                    Some(said) => (said, ""),
                    None => (value, "\r\n"),
                };
                let bytes = [&unescaped(said)?, ended.as_bytes()].concat();
                match self.steps.last_mut() {
                    Some(Step { act: Act::Say(before), .. }) => before.extend(bytes),
                    _ => self.steps.push(step(Act::Say(bytes))),
                }
            }
            "S" => match self.steps.last_mut() {
                Some(Step { line: at, act: Act::Hear(lines), .. }) if goes_on(lines) => {
                    lines.push(value.to_string());
                    *at = line;
                }
                _ => self.steps.push(step(Act::Hear(vec![value.to_string()]))),
            },
            "close" => self.steps.push(step(Act::Close)),
            "config" => {
                let (key, value) = value.split_once(" = ").ok_or("config: section.key = value")?;
                let (section, key) = key.rsplit_once('.').unwrap_or(("", key));
                self.config.push((section.into(), key.into(), value.into()));
            }
            "tenant" => {
                self.tenants += &format!("[[tenants]]\n{}\n", value.replace("; ", "\n"));
            }
            "user" => {
                let (name, password) = value.split_once(' ').ok_or("user: name password")?;
                self.users.push((name.into(), password.into()));
            }
            "delivered" => {
                let (sender, recipients) = value.split_once("> ").ok_or("delivered: from > to")?;
                let recipients = recipients.split(", ").map(|r| r.trim().to_string()).collect();
                let sender = sender.trim_end().to_string();
                self.delivered.push(Delivery { line, sender, recipients, contents: Vec::new() });
            }
            "body" | "no body" => {
                let delivery = self.delivered.last_mut().ok_or("body without delivered")?;
                delivery.contents.push((unescaped(value)?, word == "body"));
            }
            _ => self.steps.push(step(connect(text)?)),
        }
        Ok(())
    }
}

fn known(words: &HashMap<&str, &str>) -> String {
    words.iter().map(|(name, word)| format!(" with {name} {word}")).collect()
}

/// Lines up to the `end` that belongs to the `each` above them.
fn block_length(lines: &[(usize, String)]) -> Option<usize> {
    let mut depth = 0_usize;
    lines.iter().position(|(_, line)| {
        depth += usize::from(line.starts_with("each "));
        let ends = line == "end" && depth == 0;
        depth -= usize::from(line == "end" && depth > 0);
        ends
    })
}

fn goes_on(lines: &[String]) -> bool {
    lines.last().is_some_and(|line| line.as_bytes().get(3) == Some(&b'-'))
}

fn connect(text: &str) -> Result<Act, String> {
    let mut words = text.split(' ');
    let known = words.next() == Some("connect");
    let (mut stranger, mut mapped) = (false, false);
    for word in words {
        match word {
            "stranger" => stranger = true,
            "mapped" => mapped = true,
            _ => return Err(format!("{text:?} is no statement")),
        }
    }
    known.then_some(Act::Connect { stranger, mapped }).ok_or(format!("{text:?} is no statement"))
}

fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let wrong = || format!("unknown escape in {text:?}");
        let (escape, after) = rest[at + 1..].split_at_checked(1).ok_or_else(wrong)?;
        rest = after;
        match escape {
            "r" => out.push(b'\r'),
            "n" => out.push(b'\n'),
            "t" => out.push(b'\t'),
            "0" => out.push(0),
            "s" => out.push(b' '),
            "\\" => out.push(b'\\'),
            "x" => {
                let (digits, after) = rest.split_at_checked(2).ok_or_else(wrong)?;
                out.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
                rest = after;
            }
            "{" => {
                let (repeat, after) = rest.split_once('}').ok_or_else(wrong)?;
                let (count, what) = repeat.split_once('*').ok_or_else(wrong)?;
                let count: usize = count.parse().map_err(|_| wrong())?;
                out.extend(unescaped(what)?.repeat(count));
                rest = after;
            }
            _ => return Err(wrong()),
        }
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

#[test]
fn statements_become_steps() {
    let text = "# about\nconfig: a.b.c = 1\nconnect mapped stranger\nS: 220\nC: A\\x00\\s\n\
                C: B\\c\nS: 250-X\nS: 250\nS: 221\nclose\ndelivered: > b@d, c@d\n\
                body: \\{3*ab}\nno body: \\\\";
    let dialogue = parse(text).unwrap();
    let step = |line, act| Step { line, words: String::new(), act };
    let hear = |lines: &[&str]| Act::Hear(lines.iter().map(|l| (*l).to_string()).collect());
    assert_eq!(dialogue.config, [("a.b".into(), "c".into(), "1".into())]);
    assert_eq!(
        dialogue.steps,
        [
            step(3, Act::Connect { stranger: true, mapped: true }),
            step(4, hear(&["220"])),
            step(5, Act::Say(b"A\0 \r\nB".to_vec())),
            step(8, hear(&["250-X", "250"])),
            step(9, hear(&["221"])),
            step(10, Act::Close),
        ]
    );
    let contents = vec![(b"ababab".to_vec(), true), (b"\\".to_vec(), false)];
    let recipients = vec!["b@d".into(), "c@d".into()];
    let delivery = Delivery { line: 11, sender: String::new(), recipients, contents };
    assert_eq!(dialogue.delivered, [delivery]);
}

#[test]
fn each_word_has_its_lines() {
    let dialogue = parse("each A: 1\n  2\neach B: x y\nC: $A$B\nS: 250\nend\nclose\nend").unwrap();
    let said: Vec<_> = dialogue
        .steps
        .iter()
        .map(|step| match &step.act {
            Act::Say(bytes) => String::from_utf8_lossy(bytes).trim_end().to_string(),
            Act::Close => "close".to_string(),
            _ => "heard".to_string(),
        })
        .collect();
    assert_eq!(said.join(" "), "1x heard 1y heard close 2x heard 2y heard close");
}

#[test]
fn mistakes_are_told_with_their_line() {
    for (text, line) in
        [("close\nwibble", 2), ("C: \\q", 1), ("each A: 1\nclose", 1), ("body: x", 1), ("end", 1)]
    {
        assert_eq!(parse(text).unwrap_err().0, line, "{text:?}");
    }
}
