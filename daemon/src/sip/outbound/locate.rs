//! Where the servers of a host are (RFC 3263). Enters: a host of a trunk, answers of DNS; leaves: transports and
//! addresses in the order in which they are to be tried. Never here: a socket; who asks DNS is an argument.

use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;

use crate::base::trunk::{Host, Protocol};
use crate::sip::transaction::Transport;

/// Servers of one host that are tried; more are no help to a caller who waits.
const MOST: usize = 8;

/// One server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// How.
    pub transport: Protocol,
    /// Where.
    pub peer: SocketAddr,
}

/// A service record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    /// The lowest first.
    pub priority: u16,
    /// Share among those of the same priority.
    pub weight: u16,
    /// Port.
    pub port: u16,
    /// Name of the server.
    pub target: String,
}

/// A naming authority pointer (RFC 3403).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naptr {
    /// The lowest first.
    pub order: u16,
    /// The lowest first among those of the same order.
    pub preference: u16,
    /// `SIP+D2U`, `SIP+D2T`, `SIPS+D2T`.
    pub service: String,
    /// Name of service records.
    pub replacement: String,
}

/// Who answers questions about names. No answer and no such name are the same.
#[async_trait]
pub trait Names: Send + Sync {
    /// NAPTR records.
    async fn naptr(&self, name: &str) -> Vec<Naptr>;
    /// SRV records.
    async fn srv(&self, name: &str) -> Vec<Srv>;
    /// A and AAAA records.
    async fn addresses(&self, name: &str) -> Vec<IpAddr>;
}

/// All servers of a host; `fallback` is the transport where neither the host nor DNS says.
pub async fn locate(
    names: &dyn Names,
    host: &Host,
    fallback: Protocol,
    random: &mut (dyn FnMut() -> u64 + Send),
) -> Vec<Target> {
    let said = host.transport.unwrap_or(fallback);
    let direct = |transport: Protocol, ip: IpAddr| {
        let port = host.port.unwrap_or_else(|| Transport::from(transport).default_port());
        Target { transport, peer: SocketAddr::new(ip, port) }
    };
    if let Some(ip) = host.address() {
        return vec![direct(said, ip)];
    }
    let mut found = Vec::new();
    // RFC 3263 §4.2: a port that is written leaves nothing to be looked up but the address.
    if host.port.is_none() {
        let mut services = match host.transport {
            Some(_) => Vec::new(),
            None => preferred(names.naptr(&host.name).await),
        };
        if services.is_empty() {
            services.push((said, format!("{}.{}", prefix(said), host.name)));
        }
        for (transport, service) in services {
            for record in ordered(names.srv(&service).await, random) {
                let addresses = names.addresses(&record.target).await;
                found.extend(addresses.into_iter().map(|ip| Target { transport, peer: (ip, record.port).into() }));
            }
        }
    }
    if found.is_empty() {
        found.extend(names.addresses(&host.name).await.into_iter().map(|ip| direct(said, ip)));
    }
    found.truncate(MOST);
    found
}

const fn prefix(transport: Protocol) -> &'static str {
    match transport {
        Protocol::Udp => "_sip._udp",
        Protocol::Tcp => "_sip._tcp",
        Protocol::Tls => "_sips._tcp",
    }
}

/// The services that we speak, the most wanted first.
fn preferred(mut records: Vec<Naptr>) -> Vec<(Protocol, String)> {
    records.sort_by_key(|record| (record.order, record.preference));
    let transport = |service: &str| match service.to_ascii_uppercase().as_str() {
        "SIP+D2U" => Some(Protocol::Udp),
        "SIP+D2T" => Some(Protocol::Tcp),
        "SIPS+D2T" => Some(Protocol::Tls),
        _ => None,
    };
    records.into_iter().filter_map(|record| Some((transport(&record.service)?, record.replacement))).collect()
}

/// By priority, and among equals by lot according to their weight (RFC 2782).
fn ordered(mut records: Vec<Srv>, random: &mut (dyn FnMut() -> u64 + Send)) -> Vec<Srv> {
    // A target of `.` says that the service is not there.
    records.retain(|record| !matches!(record.target.as_str(), "" | "."));
    records.sort_by_key(|record| (record.priority, record.weight));
    let mut drawn = Vec::with_capacity(records.len());
    while let Some(first) = records.first() {
        let priority = first.priority;
        let equals = records.iter().take_while(|record| record.priority == priority);
        let total: u64 = equals.map(|record| u64::from(record.weight)).sum();
        let mut lot = random() % (total + 1);
        let at = records
            .iter()
            .take_while(|record| record.priority == priority)
            .position(|record| match lot.checked_sub(u64::from(record.weight)) {
                Some(rest) if rest > 0 => {
                    lot = rest;
                    false
                }
                _ => true,
            })
            .unwrap_or(0);
        drawn.push(records.remove(at));
    }
    drawn
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    struct Table {
        naptr: HashMap<&'static str, Vec<Naptr>>,
        srv: HashMap<&'static str, Vec<Srv>>,
        addresses: HashMap<&'static str, Vec<IpAddr>>,
    }

    #[async_trait]
    impl Names for Table {
        async fn naptr(&self, name: &str) -> Vec<Naptr> {
            self.naptr.get(name).cloned().unwrap_or_default()
        }

        async fn srv(&self, name: &str) -> Vec<Srv> {
            self.srv.get(name).cloned().unwrap_or_default()
        }

        async fn addresses(&self, name: &str) -> Vec<IpAddr> {
            self.addresses.get(name).cloned().unwrap_or_default()
        }
    }

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Srv {
        Srv { priority, weight, port, target: target.into() }
    }

    fn table() -> Table {
        let naptr = |order, service: &str, replacement: &str| Naptr {
            order,
            preference: 0,
            service: service.into(),
            replacement: replacement.into(),
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        Table {
            naptr: [(
                "carrier.test",
                vec![
                    naptr(20, "SIP+D2U", "_sip._udp.carrier.test"),
                    naptr(10, "sips+d2t", "_sips._tcp.carrier.test"),
                    naptr(5, "SIP+D2S", "_sip._sctp.carrier.test"),
                ],
            )]
            .into(),
            srv: [
                ("_sips._tcp.carrier.test", vec![srv(20, 0, 5061, "b.test"), srv(10, 0, 5063, "a.test")]),
                ("_sip._udp.carrier.test", vec![srv(1, 0, 5060, "a.test")]),
                ("_sip._tcp.plain.test", vec![srv(0, 0, 0, ".")]),
            ]
            .into(),
            addresses: [
                ("a.test", vec![ip("192.0.2.1"), ip("2001:db8::1")]),
                ("b.test", vec![ip("192.0.2.2")]),
                ("plain.test", vec![ip("192.0.2.3")]),
            ]
            .into(),
        }
    }

    async fn found(host: &str) -> Vec<String> {
        let host: Host = host.parse().unwrap();
        let targets = locate(&table(), &host, Protocol::Udp, &mut || 0).await;
        targets.iter().map(|target| format!("{:?} {}", target.transport, target.peer)).collect()
    }

    #[tokio::test]
    async fn names_are_found_as_rfc_3263_says() {
        assert_eq!(
            found("sip:carrier.test").await,
            [
                "Tls 192.0.2.1:5063",
                "Tls [2001:db8::1]:5063",
                "Tls 192.0.2.2:5061",
                "Udp 192.0.2.1:5060",
                "Udp [2001:db8::1]:5060"
            ]
        );
        assert_eq!(found("sip:carrier.test;transport=udp").await, ["Udp 192.0.2.1:5060", "Udp [2001:db8::1]:5060"]);
        assert_eq!(found("sip:plain.test:5080").await, ["Udp 192.0.2.3:5080"]);
        assert_eq!(found("sip:plain.test;transport=tcp").await, ["Tcp 192.0.2.3:5060"], "the service is not there");
        assert_eq!(found("sips:plain.test").await, ["Tls 192.0.2.3:5061"]);
        assert_eq!(found("sip:198.51.100.1").await, ["Udp 198.51.100.1:5060"]);
        assert!(found("sip:nowhere.test").await.is_empty());
    }

    #[test]
    fn weights_are_shares() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let records = || vec![srv(1, 30, 1, "a"), srv(1, 10, 2, "b"), srv(0, 0, 3, "first"), srv(1, 0, 4, "never")];
        let mut firsts = [0_u32; 5];
        for _ in 0..4000 {
            let drawn = ordered(records(), &mut random);
            assert_eq!((drawn[0].port, drawn.len()), (3, 4));
            firsts[usize::from(drawn[1].port)] += 1;
        }
        assert!((2800..3200).contains(&firsts[1]), "{firsts:?}");
        assert!(firsts[4] < 200, "{firsts:?}");
    }
}
