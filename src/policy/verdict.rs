//! From a reply (or its absence) to an outcome, and whose fault it is.

/// Who is to blame for an attempt that did not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// This address: unknown, full, refused. Others at the site are not concerned.
    Recipient,
    /// This message: its size, content or needs.
    Message,
    /// The receiving host or its DNS.
    Site,
    /// Our egress address: listed, limited, unwelcome.
    Source,
    /// This node: a local error.
    Ourselves,
}

impl Blame {
    /// As stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Message => "message",
            Self::Site => "site",
            Self::Source => "source",
            Self::Ourselves => "ourselves",
        }
    }
}
