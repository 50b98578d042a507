//! Texts with placeholders: `Dear {{first_name}}`.
//!
//! A placeholder is two braces, a name, two braces; blanks around the name do not count. What is
//! put in is not looked at again, so nothing in it is a placeholder.

use std::collections::BTreeMap;

/// A text in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name(String),
}

impl Template {
    /// As it stands.
    pub(super) fn literal(text: String) -> Self {
        Self(vec![Piece::Text(text)])
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((name, behind)) = after.split_once("}}") else { break };
            pieces.push(Piece::Text(before.to_string()));
            pieces.push(Piece::Name(name.trim().to_string()));
            rest = behind;
        }
        pieces.push(Piece::Text(rest.to_string()));
        Self(pieces)
    }

    /// The first placeholder for which there is nothing.
    pub(super) fn missing(&self, values: &BTreeMap<String, String>) -> Option<&str> {
        self.0.iter().find_map(|piece| match piece {
            Piece::Name(name) if !values.contains_key(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The text with `values` put in, as they are, or made safe for HTML. Nothing stands where a
    /// value is missing.
    pub(super) fn render(&self, values: &BTreeMap<String, String>, is_html: bool) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Name(name) => {
                    let value = values.get(name).map(String::as_str).unwrap_or_default();
                    if is_html { escape(value, &mut out) } else { out.push_str(value) }
                }
            }
        }
        out
    }
}

/// As text between tags and in quoted attributes.
fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
    }

    #[test]
    fn names_are_replaced_once() {
        let text = Template::parse("Dear {{ first_name }}{{x}}, {{{x}} {{");
        assert_eq!(text.missing(&values(&[("first_name", "A")])), Some("x"));
        let known = values(&[("first_name", "{{x}}"), ("x", "1"), ("{x", "2")]);
        assert_eq!(text.missing(&known), None);
        assert_eq!(text.render(&known, false), "Dear {{x}}1, 2 {{");
    }

    #[test]
    fn html_takes_no_tags_from_a_value() {
        let text = Template::parse("<a title=\"{{x}}\">{{x}}</a>");
        let known = values(&[("x", "<b>'\"&")]);
        let safe = "&lt;b&gt;&#39;&quot;&amp;";
        assert_eq!(text.render(&known, true), format!("<a title=\"{safe}\">{safe}</a>"));
    }

    proptest! {
        #[test]
        fn what_has_no_placeholder_stays(text in "[^{]*") {
            let read = Template::parse(&text);
            prop_assert_eq!(read.missing(&BTreeMap::new()), None);
            prop_assert_eq!(read.render(&BTreeMap::new(), true), text);
        }

        #[test]
        fn with_all_names_known_nothing_is_missing(text in "[a{} ]{0,40}") {
            let read = Template::parse(&text);
            let mut known = BTreeMap::new();
            while let Some(name) = read.missing(&known).map(str::to_string) {
                known.insert(name, "v".to_string());
            }
            let out = read.render(&known, false);
            prop_assert_eq!(known.is_empty(), out == text);
        }
    }
}
