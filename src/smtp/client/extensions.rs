//! What a server offers in its reply to EHLO (RFC 5321 §4.1.1.1).

/// The extensions that matter to a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 1870: offered, and the largest message where one is named.
    pub size: Option<Option<u64>>,
    /// RFC 9422: recipients in one transaction.
    pub rcpt_max: Option<u32>,
    /// RFC 9422: transactions in one session.
    pub mail_max: Option<u32>,
}

impl Extensions {
    /// Reads the lines behind the first, which is the server's name.
    #[must_use]
    pub fn parse(lines: &[String]) -> Self {
        let mut found = Self::default();
        for line in lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "PIPELINING" => found.pipelining = true,
                "8BITMIME" => found.eight_bit_mime = true,
                "SMTPUTF8" => found.smtputf8 = true,
                "DSN" => found.dsn = true,
                "STARTTLS" => found.starttls = true,
                // 0 means: no fixed limit.
                "SIZE" => {
                    found.size = Some(words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0))
                }
                "LIMITS" => words.for_each(|limit| found.limit(limit)),
                _ => {}
            }
        }
        found
    }

    fn limit(&mut self, limit: &str) {
        let Some((name, value)) = limit.split_once('=') else { return };
        let value = value.parse().ok().filter(|n| *n > 0);
        match name.to_ascii_uppercase().as_str() {
            "RCPTMAX" => self.rcpt_max = value,
            "MAILMAX" => self.mail_max = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_keywords_in_any_case_and_skips_the_unknown() {
        let lines = [
            "mx.test hello",
            "Pipelining",
            "SIZE 1000",
            "XFOO",
            "limits RCPTMAX=5 mailmax=7 x",
            "DSN",
        ];
        let got = Extensions::parse(&lines.map(String::from));
        let want = Extensions {
            pipelining: true,
            dsn: true,
            size: Some(Some(1_000)),
            rcpt_max: Some(5),
            mail_max: Some(7),
            ..Extensions::default()
        };
        assert_eq!(got, want);
        assert_eq!(Extensions::parse(&["x".into(), "SIZE 0".into()]).size, Some(None));
        assert_eq!(Extensions::parse(&["PIPELINING".into()]), Extensions::default());
    }
}
