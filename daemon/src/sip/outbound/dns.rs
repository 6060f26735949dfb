//! Names in the real DNS, through the resolver that the system is configured with. Enters: names; leaves: records, none
//! where there is no answer in time.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
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

/// The resolver. It is built when the first name is asked for, and again until that works: a box whose trunks are addresses
/// needs no DNS, and one that is still booting has none yet.
pub struct Dns {
    server: Option<SocketAddr>,
    resolver: Mutex<Option<TokioResolver>>,
}

impl Dns {
    /// With the servers of `/etc/resolv.conf`, or this one.
    #[must_use]
    pub fn new(server: Option<SocketAddr>) -> Self {
        Self { server, resolver: Mutex::default() }
    }

    fn resolver(&self) -> Option<TokioResolver> {
        let mut resolver = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if resolver.is_none() {
            let built = build(self.server);
            *resolver = built.inspect_err(|why| tracing::warn!(why, "names of trunks cannot be looked up")).ok();
        }
        resolver.clone()
    }
}

fn build(server: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let mut builder = match server {
        Some(server) => {
            let mut by = NameServerConfig::udp_and_tcp(server.ip());
            by.connections.iter_mut().for_each(|connection| connection.port = server.port());
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![by]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
        None => TokioResolver::builder_tokio().map_err(|error| format!("/etc/resolv.conf: {error}"))?,
    };
    let options = builder.options_mut();
    (options.timeout, options.attempts) = (LIMIT, ATTEMPTS);
    builder.build().map_err(|error| error.to_string())
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
        let Some(resolver) = self.resolver() else { return Vec::new() };
        let Ok(found) = resolver.lookup(absolute(name), RecordType::NAPTR).await else { return Vec::new() };
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
        let Some(resolver) = self.resolver() else { return Vec::new() };
        let Ok(found) = resolver.srv_lookup(absolute(name)).await else { return Vec::new() };
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
        let Some(resolver) = self.resolver() else { return Vec::new() };
        resolver.lookup_ip(name).await.map(|found| found.iter().collect()).unwrap_or_default()
    }
}
