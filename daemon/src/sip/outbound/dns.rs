//! Names in the real DNS, through the resolver that the system is configured with. Enters: names; leaves: records, none
//! where there is no answer in time.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::locate::{Names, Naptr, Srv};

/// How long one question may take, and how often it is asked.
const LIMIT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// The resolver.
pub struct Dns(TokioResolver);

impl Dns {
    /// With the servers of `/etc/resolv.conf`, or this one.
    ///
    /// # Errors
    /// One sentence, if the system's configuration cannot be read.
    pub fn new(server: Option<SocketAddr>) -> Result<Self, String> {
        let mut builder = match server {
            Some(server) => {
                let mut by = NameServerConfig::udp_and_tcp(server.ip());
                by.connections.iter_mut().for_each(|connection| connection.port = server.port());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![by]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
            None => TokioResolver::builder_tokio()
                .map_err(|error| format!("/etc/resolv.conf cannot be used to look names up: {error}"))?,
        };
        let options = builder.options_mut();
        (options.timeout, options.attempts) = (LIMIT, ATTEMPTS);
        let built = builder.build().map_err(|error| format!("names cannot be looked up: {error}"))?;
        Ok(Self(built))
    }
}

/// Names of records are absolute: no search list.
fn absolute(name: &str) -> String {
    if name.ends_with('.') { name.to_owned() } else { format!("{name}.") }
}

fn relative(name: &str) -> String {
    name.trim_end_matches('.').to_owned()
}

#[async_trait]
impl Names for Dns {
    async fn naptr(&self, name: &str) -> Vec<Naptr> {
        let Ok(found) = self.0.lookup(absolute(name), RecordType::NAPTR).await else { return Vec::new() };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let read = |data: &RData| match data {
            // Others rewrite the name by a regular expression (RFC 3403), which SIP has no use for (RFC 3263 §4.1).
            RData::NAPTR(naptr) if naptr.flags.eq_ignore_ascii_case(b"s") => Some(Naptr {
                order: naptr.order,
                preference: naptr.preference,
                service: text(&naptr.services),
                replacement: relative(&naptr.replacement.to_utf8()),
            }),
            _ => None,
        };
        found.answers().iter().filter_map(|record| read(&record.data)).collect()
    }

    async fn srv(&self, name: &str) -> Vec<Srv> {
        let Ok(found) = self.0.srv_lookup(absolute(name)).await else { return Vec::new() };
        let read = |data: &RData| match data {
            RData::SRV(srv) => Some(Srv {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: relative(&srv.target.to_utf8()),
            }),
            _ => None,
        };
        found.answers().iter().filter_map(|record| read(&record.data)).collect()
    }

    async fn addresses(&self, name: &str) -> Vec<IpAddr> {
        // With the search list and /etc/hosts, as every other program.
        self.0.lookup_ip(name).await.map(|found| found.iter().collect()).unwrap_or_default()
    }
}
