//! One value of the file, read as the type its key wants.
//!
//! Every reader gives the value or says where it is wrong, what is wrong, and what to write
//! instead.

use super::unit;
use crate::base::text::printable;
use crate::policy::site::rate::{MUST_DIFFER, Rate, differ};
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Spanned;
use toml::de::DeValue;

/// Longest value repeated in an error, in characters.
const SHOWN_MAX: usize = 60;

/// Something wrong in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Byte of the file where it begins.
    pub(super) at: usize,
    /// What is wrong and what to do; from a value's reader, what follows the key's name.
    pub(super) text: String,
}

/// What a reader gives: the value, or all that is wrong with it.
pub(super) type Read<T> = Result<T, Vec<Problem>>;

/// A value as the file has it.
#[derive(Clone, Copy)]
pub(super) struct Value<'a>(pub(super) &'a Spanned<DeValue<'a>>);

impl<'a> Value<'a> {
    /// Where it begins.
    pub(super) fn at(self) -> usize {
        self.0.span().start
    }

    /// A problem that repeats the value: ` = 0: must be 1 to 1000`.
    fn must_be<T>(self, what: &str) -> Read<T> {
        let shown = printable(write(self.0.get_ref()).as_bytes(), SHOWN_MAX);
        Err(vec![Problem { at: self.at(), text: format!(" = {shown}: must be {what}") }])
    }

    /// A problem whose sentence names the value by itself.
    pub(super) fn said<T>(self, sentence: &str) -> Read<T> {
        Err(vec![Problem { at: self.at(), text: format!(": {sentence}") }])
    }

    /// Text in quotes; `example` shows one.
    fn text(self, example: &str) -> Read<&'a str> {
        match self.0.get_ref() {
            DeValue::String(text) => Ok(text),
            _ => self.must_be(&format!("text in quotes, such as {example}")),
        }
    }

    /// Text in quotes as `parse` understands it.
    pub(super) fn parsed<T>(
        self,
        example: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Read<T> {
        let text = self.text(example)?;
        parse(text).or_else(|sentence| self.said(&sentence))
    }

    /// `"100/s"`, several as a list, or `"none"`.
    pub(super) fn rates(self) -> Read<Vec<Rate>> {
        let DeValue::Array(_) = self.0.get_ref() else {
            return self.parsed("\"100/s\"", Rate::parse).map(|rate| rate.into_iter().collect());
        };
        let example = "\"100/s\", \"20000/d\"";
        let each = |value: Value<'a>| match value.parsed("\"100/s\"", Rate::parse)? {
            Some(rate) => Ok(rate),
            None => value.said("\"none\" stands alone, without brackets"),
        };
        let rates = self.list(example, each)?;
        if rates.is_empty() {
            return self.must_be(&format!("at least one rate, such as [{example}], or \"none\""));
        }
        if !differ(&rates) {
            return self.must_be(MUST_DIFFER);
        }
        Ok(rates)
    }

    /// `true` or `false`.
    pub(super) fn flag(self) -> Read<bool> {
        match self.0.get_ref() {
            DeValue::Boolean(flag) => Ok(*flag),
            _ => self.must_be("true or false (without quotes)"),
        }
    }

    /// A whole number.
    pub(super) fn count<T: TryFrom<u64>>(self, range: RangeInclusive<u64>) -> Read<T> {
        let want = format!("{} to {}", range.start(), range.end());
        let DeValue::Integer(number) = self.0.get_ref() else {
            return self.must_be(&format!("a whole number from {want} (without quotes)"));
        };
        let number = u64::from_str_radix(number.as_str(), number.radix()).ok();
        match number.filter(|n| range.contains(n)).map(T::try_from) {
            Some(Ok(number)) => Ok(number),
            _ => self.must_be(&want),
        }
    }

    /// A part of a whole.
    pub(super) fn share(self, range: RangeInclusive<f64>) -> Read<f64> {
        let number = match self.0.get_ref() {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => number.as_str().parse().ok(),
            _ => None,
        };
        match number.filter(|n| range.contains(n)) {
            Some(number) => Ok(number),
            None => self.must_be(&format!("a number from {} to {}", range.start(), range.end())),
        }
    }

    /// `"30s"`; the ends of the range as text, in the same form.
    pub(super) fn duration(self, least: &str, most: &str) -> Read<Duration> {
        let found = self.parsed("\"30s\"", unit::duration)?;
        let fits = unit::duration(least).is_ok_and(|least| least <= found)
            && unit::duration(most).is_ok_and(|most| found <= most);
        if fits { Ok(found) } else { self.must_be(&format!("\"{least}\" to \"{most}\"")) }
    }

    /// `"4h"`, or `"none"`.
    pub(super) fn duration_or_none(self, least: &str, most: &str) -> Read<Option<Duration>> {
        match self.0.get_ref() {
            DeValue::String(text) if text == "none" => Ok(None),
            _ => self.duration(least, most).map(Some),
        }
    }

    /// `"25 MiB"` or a number of bytes; the ends of the range as text.
    pub(super) fn size<T: TryFrom<u64>>(self, least: &str, most: &str) -> Read<T> {
        let found = match self.0.get_ref() {
            DeValue::Integer(number) => {
                u64::from_str_radix(number.as_str(), number.radix()).unwrap_or(0)
            }
            _ => self.parsed("\"25 MiB\"", unit::size)?,
        };
        let fits = unit::size(least).is_ok_and(|least| least <= found)
            && unit::size(most).is_ok_and(|most| found <= most);
        match T::try_from(found) {
            Ok(found) if fits => Ok(found),
            _ => self.must_be(&format!("\"{least}\" to \"{most}\"")),
        }
    }

    /// One of the words, and what it stands for.
    pub(super) fn word<T: Copy>(self, words: &[(&str, T)]) -> Read<T> {
        let list = words.iter().map(|(w, _)| format!("\"{w}\"")).collect::<Vec<_>>().join(" or ");
        match self.0.get_ref() {
            DeValue::String(text) => match words.iter().find(|(word, _)| text == word) {
                Some((_, meaning)) => Ok(*meaning),
                None => self.must_be(&list),
            },
            _ => self.must_be(&list),
        }
    }

    /// A list of texts, each as `parse` understands it; the problems of all elements.
    pub(super) fn list<T>(
        self,
        example: &str,
        each: impl Fn(Value<'a>) -> Read<T>,
    ) -> Read<Vec<T>> {
        let DeValue::Array(elements) = self.0.get_ref() else {
            return self.must_be(&format!("a list, such as [{example}]"));
        };
        let mut found = Vec::new();
        let mut problems = Vec::new();
        for element in elements.iter() {
            match each(Value(element)) {
                Ok(element) => found.push(element),
                Err(more) => problems.extend(more),
            }
        }
        if problems.is_empty() { Ok(found) } else { Err(problems) }
    }
}

/// A value as TOML on one line.
pub(super) fn write(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quote(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(elements) => {
            let inner: Vec<_> = elements.iter().map(|e| write(e.get_ref())).collect();
            format!("[{}]", inner.join(", "))
        }
        DeValue::Table(_) => "{…}".to_string(),
    }
}

/// A TOML basic string, safe to print on a terminal.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        let safe = printable(c.encode_utf8(&mut [0; 4]).as_bytes(), 1).chars().eq([c]);
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if safe => out.push(c),
            c => out.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}
