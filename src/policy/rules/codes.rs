//! Which codes a rule is about: `421`, `45*`, `4.7.28`, `4.7.*`.

use crate::smtp::reply::{EnhancedCode, Reply};

/// One entry of a rule's `codes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodePattern {
    /// `421`; `45*` and `4*` by their first digits (RFC 5321 §4.2).
    Basic {
        /// The least code that fits.
        from: u16,
        /// And the greatest.
        to: u16,
    },
    /// `4.7.28`; `4.7.*` whatever the last number, `4.*` whatever the last two (RFC 3463).
    Enhanced(u8, Option<u16>, Option<u16>),
}

impl CodePattern {
    /// Parses one entry.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed = if text.contains('.') { enhanced(text) } else { basic(text) };
        parsed.ok_or_else(|| {
            format!(
                "{text:?} is not a code of a refusal; write it as \"421\", \"45*\", \"4.7.28\" or \
                 \"4.7.*\""
            )
        })
    }
}

/// Three digits, the last of which may be left out for a star; 400 to 599.
fn basic(text: &str) -> Option<CodePattern> {
    let digits = text.strip_suffix('*').unwrap_or(text);
    let starred = digits.len() < text.len();
    let fits = if starred { (1..=2).contains(&digits.len()) } else { digits.len() == 3 };
    if !fits || !digits.bytes().all(|b| b.is_ascii_digit()) || !digits.starts_with(['4', '5']) {
        return None;
    }
    let from = format!("{digits:0<3}").parse().ok()?;
    let to = format!("{digits:9<3}").parse().ok()?;
    Some(CodePattern::Basic { from, to })
}

fn enhanced(text: &str) -> Option<CodePattern> {
    let mut parts = text.split('.');
    let class = match parts.next()? {
        "4" => 4,
        "5" => 5,
        _ => return None,
    };
    let number = |part: &str| match part {
        "*" => Some(None),
        _ if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) => None,
        _ => part.parse().ok().map(Some),
    };
    let subject = number(parts.next()?)?;
    let detail = match parts.next() {
        Some(part) => number(part)?,
        None if subject.is_none() => None,
        None => return None,
    };
    let sound = parts.next().is_none() && (subject.is_some() || detail.is_none());
    sound.then_some(CodePattern::Enhanced(class, subject, detail))
}

/// A rule's `codes` together: of each kind that is listed, one must fit.
#[derive(Clone, Debug, Default)]
pub(super) struct Codes {
    basic: Vec<(u16, u16)>,
    enhanced: Vec<(u8, Option<u16>, Option<u16>)>,
}

impl Codes {
    pub(super) fn new(patterns: impl IntoIterator<Item = CodePattern>) -> Self {
        let mut codes = Self::default();
        for pattern in patterns {
            match pattern {
                CodePattern::Basic { from, to } => codes.basic.push((from, to)),
                CodePattern::Enhanced(class, subject, detail) => {
                    codes.enhanced.push((class, subject, detail));
                }
            }
        }
        codes
    }

    pub(super) fn fit(&self, reply: &Reply) -> bool {
        let basic = |(from, to): &(u16, u16)| (*from..=*to).contains(&reply.code);
        let enhanced = |(class, subject, detail): &(u8, Option<u16>, Option<u16>)| {
            reply.enhanced.is_some_and(|EnhancedCode(c, s, d)| {
                c == *class
                    && subject.is_none_or(|subject| subject == s)
                    && detail.is_none_or(|detail| detail == d)
            })
        };
        (self.basic.is_empty() || self.basic.iter().any(basic))
            && (self.enhanced.is_empty() || self.enhanced.iter().any(enhanced))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(codes: &[&str], reply: &str) -> bool {
        let patterns = codes.iter().map(|code| CodePattern::parse(code).unwrap());
        Codes::new(patterns).fit(&Reply::parse(reply).unwrap())
    }

    #[test]
    fn of_each_kind_one_must_fit() {
        assert!(fit(&[], "451 x"));
        assert!(fit(&["421", "45*"], "452 x") && !fit(&["421", "45*"], "442 x"));
        assert!(fit(&["4*"], "499 x") && !fit(&["4*"], "500 x"));
        assert!(fit(&["4.7.28"], "421 4.7.28 x") && !fit(&["4.7.28"], "421 x"));
        assert!(fit(&["5.7.*"], "550 5.7.1 x") && !fit(&["5.7.*"], "550 5.1.1 x"));
        assert!(fit(&["4.*", "5.1.*"], "421 4.0.0 x"));
        assert!(fit(&["421", "4.7.*"], "421 4.7.0 x"));
        assert!(!fit(&["421", "4.7.*"], "451 4.7.0 x") && !fit(&["421", "4.7.*"], "421 4.3.2 x"));
    }

    #[test]
    fn what_can_never_fit_a_refusal_is_refused() {
        for text in [
            "", "*", "250", "2*", "42", "4211", "421*", "6*", "4**", "4.7", "2.0.0", "4.*.1",
            "4.7.1.2", "4.7.1000", "4.7.", "4.-7.1", "4.7.x", "٤21",
        ] {
            assert!(CodePattern::parse(text).is_err(), "{text}");
        }
    }
}
