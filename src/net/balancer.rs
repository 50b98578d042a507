//! What a load balancer says of its client: the header of the PROXY protocol (version 1 or 2), with
//! which its connections begin. Pure.

use proxy_header::{Error, ParseConfig, ProxyHeader};
use std::net::IpAddr;

/// Longest header that is read: an address, and what a balancer adds.
pub const HEADER_MAX: usize = 2_048;
/// Longest header of version 1.
const TEXT_MAX: usize = 107;

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client's address, canonical; `None` where the balancer speaks for itself.
    pub client: Option<IpAddr>,
    /// Its bytes; what follows them is the client's.
    pub len: usize,
}

/// What came begins with no header, or with one that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHeader;

/// Reads the header at the beginning of what came so far; `None` while more of it is needed.
///
/// # Errors
/// [`NoHeader`]; nothing that could still come would change it.
pub fn header(read: &[u8]) -> Result<Option<Header>, NoHeader> {
    // The library refuses a longer text only where it comes in pieces.
    let most = if read.starts_with(b"P") { TEXT_MAX } else { HEADER_MAX };
    match ProxyHeader::parse(read, ParseConfig::default()) {
        Ok((header, len)) if len <= most => {
            let client = header.proxied_address().map(|proxied| proxied.source.ip());
            Ok(Some(Header { client: client.map(|ip| ip.to_canonical()), len }))
        }
        Err(Error::BufferTooShort) if read.len() < HEADER_MAX => Ok(None),
        _ => Err(NoHeader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 2: signature, command, family, and a length with so many bytes.
    fn binary(command: u8, family: u8, length: u16, bytes: &[u8]) -> Vec<u8> {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        header.extend([command, family]);
        header.extend(length.to_be_bytes());
        header.extend(bytes);
        header
    }

    #[test]
    fn both_versions_name_the_client_and_leave_what_is_his() {
        let v4 = [192, 0, 2, 9, 10, 0, 0, 1, 0x80, 0, 0, 25];
        for (bytes, client) in [
            (b"PROXY TCP4 192.0.2.9 10.0.0.1 5000 25\r\n".to_vec(), Some("192.0.2.9")),
            (b"PROXY TCP6 ::ffff:192.0.2.9 ::1 5000 25\r\n".to_vec(), Some("192.0.2.9")),
            (b"PROXY TCP6 2001:db8::9 ::1 5000 25\r\n".to_vec(), Some("2001:db8::9")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (binary(0x21, 0x11, 12, &v4), Some("192.0.2.9")),
            (binary(0x20, 0x11, 12, &v4), None),
        ] {
            let client = client.map(|client| client.parse().unwrap());
            let len = bytes.len();
            for end in 0..len {
                assert_eq!(header(&bytes[..end]), Ok(None), "{}", bytes.escape_ascii());
            }
            let with_more = [&bytes[..], b"EHLO x\r\n"].concat();
            assert_eq!(header(&with_more), Ok(Some(Header { client, len })));
        }
    }

    #[test]
    fn nothing_else_is_a_header() {
        let long = binary(0x21, 0x00, u16::MAX, &[0; HEADER_MAX]);
        let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
        let ended = [&endless[..], b"\r\n"].concat();
        let text = b"PROXY TCP4 a b 1 2\r\n";
        for bytes in [b"EHLO web1\r\n", &text[..], &long, &endless, &ended] {
            assert_eq!(header(bytes), Err(NoHeader), "{}", bytes.escape_ascii());
        }
    }
}
