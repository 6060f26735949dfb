//! Our address as peers reach it, where that is another than the kernel would choose (NAT, a second interface). Enters: the
//! configuration; leaves: an address for one peer, or none, and then the kernel's counts.

use std::net::IpAddr;
use std::sync::Arc;

use super::trunk::Network;

/// What is told to whom; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Advertised {
    address: Option<IpAddr>,
    local: Arc<[Network]>,
}

impl Advertised {
    /// `local`: networks whose peers reach us directly.
    #[must_use]
    pub fn new(address: Option<IpAddr>, local: &[Network]) -> Self {
        Self { address, local: local.into() }
    }

    /// What this peer is to be told. Peers on our side of the NAT are none of it; but if the address itself is on our side,
    /// it is another interface, and for them, too.
    #[must_use]
    pub fn towards(&self, peer: IpAddr) -> Option<IpAddr> {
        let address = self.address?;
        let is_local = |ip: IpAddr| self.local.iter().any(|network| network.contains(ip));
        let direct = peer.is_loopback() || (is_local(peer) && !is_local(address));
        (address.is_ipv4() == peer.to_canonical().is_ipv4() && !direct).then_some(address)
    }

    /// Whether this is the address.
    #[must_use]
    pub fn is(&self, ip: IpAddr) -> bool {
        self.address == Some(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_outside_is_told() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let local: Vec<Network> =
            ["10.0.0.0/8", "192.168.0.0/16", "fc00::/7"].iter().map(|n| n.parse().expect("a network")).collect();
        let nat = Advertised::new(Some(ip("203.0.113.10")), &local);
        assert_eq!(nat.towards(ip("198.51.100.1")), Some(ip("203.0.113.10")));
        for direct in ["127.0.0.1", "10.1.2.3", "192.168.0.9", "::1", "2001:db8::1", "fd00::1"] {
            assert_eq!(nat.towards(ip(direct)), None, "{direct}");
        }
        let second = Advertised::new(Some(ip("10.0.0.1")), &local);
        assert_eq!(second.towards(ip("10.0.0.9")), Some(ip("10.0.0.1")), "a second interface");
        assert_eq!(Advertised::default().towards(ip("198.51.100.1")), None);
    }
}
