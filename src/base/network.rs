//! Sets of IP networks, and which addresses are somebody's public mail host.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that its owner does not choose.
const V6_NETWORK: u128 = !0 << 64;

/// Networks from the configuration, such as `10.0.0.0/8` or `2001:db8::/32`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Parses one network, or one address as a network of its own.
    ///
    /// # Errors
    /// A sentence that names what is wrong, for host bits that are set too.
    pub fn parse_one(text: &str) -> Result<IpNet, String> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(IpNet::from(ip.to_canonical()));
        }
        let net: IpNet = text.parse().map_err(|_| {
            format!("{text:?} is not a network; write it as 192.0.2.0/24 or 2001:db8::/32")
        })?;
        if net.trunc() == net {
            Ok(net)
        } else {
            Err(format!("{text:?} has host bits set; did you mean {}?", net.trunc()))
        }
    }

    /// The set of these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// True where `ip` is in one of the networks; an IPv4-mapped IPv6 address counts as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// The networks.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }
}

/// What counts as one client: of IPv6 its /64, whose owner chooses the rest.
#[must_use]
pub fn one_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & V6_NETWORK).into(),
        v4 => v4,
    }
}

/// True for an address that mail from strangers' DNS must not lead us to: loopback, private,
/// link-local, shared, documentation, benchmark, multicast, reserved or unspecified (RFC 6890 and
/// its registries).
#[must_use]
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_documentation()
                || a == 0
                || a >= 224
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b))
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80
                || first & 0xffc0 == 0xfec0
                || (first == 0x2001 && second == 0xdb8)
                || (first == 0x64 && second == 0xff9b)
                || first == 0x2002
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let nets = Networks::new(vec![Networks::parse_one("10.0.0.0/8").unwrap()]);
        assert!(nets.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!nets.contains("::ffff:11.1.2.3".parse().unwrap()));
    }

    #[test]
    fn names_what_is_wrong_with_a_network() {
        assert!(Networks::parse_one("10.0.0.1/8").unwrap_err().contains("10.0.0.0/8"));
        assert!(Networks::parse_one("10.0.0").unwrap_err().contains("192.0.2.0/24"));
    }

    #[test]
    fn knows_addresses_that_are_nobodys_mail_host() {
        for private in [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "10.1.1.1",
            "169.254.1.1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "224.0.0.1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in ["8.8.8.8", "2a00:1450::1", "100.128.0.1"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }
}
