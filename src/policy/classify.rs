//! Which lane a message takes, from its header section.

/// What makes a message a newsletter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// In this order; the first that matches decides.
    pub headers: Vec<HeaderRule>,
    /// Names of fields removed before delivery, in lower case.
    pub strip: Vec<String>,
}

/// One header that marks newsletters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// Field name in the configuration's spelling.
    pub name: String,
    /// `None` (`"X-Newsletter"`): `no`, `0`, `false` say direct, `yes`, `1`, `true` say bulk, any other value says
    /// bulk and names the campaign. A pattern (`"Precedence: bulk"`, `*` for any text): its match says bulk.
    pub pattern: Option<String>,
}

impl HeaderRule {
    /// Parses `Name` or `Name: pattern`.
    ///
    /// # Errors
    /// A sentence that names what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, pattern) = match text.split_once(':') {
            Some((name, pattern)) => (name.trim(), Some(pattern.trim().to_lowercase())),
            None => (text.trim(), None),
        };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
            return Err(format!("{text:?} is not a header; write \"X-Newsletter\" or \"Precedence: bulk\""));
        }
        if pattern.as_deref() == Some("") {
            return Err(format!("{text:?} has an empty pattern; write \"{name}: *\" for any value"));
        }
        Ok(Self { name: name.to_string(), pattern })
    }
}
