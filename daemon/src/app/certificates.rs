//! Certificates of SIP and HTTP over TLS: from the configuration to who needs them, and again at each reload. Enters:
//! files; leaves: what handshakes need, and a warning before a certificate ends. Never here: a connection.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::rustls::ServerConfig;

use crate::base::{Clock as _, SystemClock};
use crate::config::{ClientCertificates, Config};
use crate::control::Certificates;
use crate::sip::{self, Endpoint, Tls, TlsError, TlsFiles};

/// How long before its end a certificate is warned about: whoever renews by hand needs a week, whoever has it renewed by
/// a program does so a month before.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// How often it is looked at.
const DAILY: Duration = Duration::from_secs(24 * 3600);

/// Reads all files that the configuration names, to see whether they can be used.
///
/// # Errors
/// One sentence about the file that is wrong.
pub fn check(config: &Config) -> Result<(), TlsError> {
    read(config)?;
    web(config).map(drop)
}

/// What the HTTP listener needs for TLS, and when its certificate ends.
pub(super) type WebTls = Option<(Arc<ServerConfig>, Option<SystemTime>)>;

/// Reads the files of `http`; none are configured for plain HTTP.
pub(super) fn web(config: &Config) -> Result<WebTls, TlsError> {
    let (Some(certificate), Some(key)) = (&config.http.certificate, &config.http.key) else { return Ok(None) };
    let names = ("http.certificate", "http.key");
    let (tls, expires) = sip::web_server(names, Path::new(certificate), Path::new(key))?;
    Ok(Some((Arc::new(tls), expires)))
}

/// The certificate of the HTTP listener, to be replaced; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Web {
    handshakes: Arc<watch::Sender<Option<Arc<ServerConfig>>>>,
    expires: Arc<Mutex<Option<SystemTime>>>,
}

impl Web {
    /// Later connections are made with this.
    pub(super) fn renew(&self, tls: WebTls) {
        let (tls, expires) = tls.unzip();
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner) = expires.flatten();
        self.handshakes.send_replace(tls);
        self.warn();
    }

    /// For the listener.
    pub(super) fn handshakes(&self) -> Certificates {
        self.handshakes.subscribe()
    }

    /// When it ends.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn(&self) {
        warn("http.certificate", self.expires());
    }
}

/// Reads the files of `sip`.
///
/// # Errors
/// One sentence about the file that is wrong.
pub(super) fn read(config: &Config) -> Result<Tls, TlsError> {
    let sip = &config.sip;
    Tls::load(&TlsFiles {
        certificate: sip.certificate.clone(),
        key: sip.key.clone(),
        client_ca: sip.client_ca.clone(),
        client_certificates: match sip.client_certificates {
            ClientCertificates::Required => sip::ClientCertificates::Required,
            ClientCertificates::Optional => sip::ClientCertificates::Optional,
        },
        ca: sip.ca.clone(),
    })
}

/// Later handshakes are made with these.
pub(super) fn renew(endpoint: &Endpoint, tls: Tls) {
    warn("sip.certificate", tls.expires());
    let renewed = endpoint.certificates().is_some_and(|before| !before.is_same(&tls));
    endpoint.certify(tls);
    if renewed {
        tracing::info!("new TLS connections get another certificate; those that are open stay");
    }
}

/// Says every day that the certificate ends, once it soon does.
pub(super) async fn watch(endpoint: Endpoint, web: Web) {
    let mut every = interval(DAILY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Some(tls) = endpoint.certificates() {
            warn("sip.certificate", tls.expires());
        }
        web.warn();
    }
}

fn warn(key: &str, expires: Option<SystemTime>) {
    let Some(expires) = expires else { return };
    match expires.duration_since(SystemClock.wall()) {
        Ok(left) if left >= SOON => {}
        Ok(left) => {
            let days = left.as_secs() / DAILY.as_secs();
            tracing::warn!(days, "{key} ends soon; replace it and run `systemctl reload callbox`");
        }
        Err(_) => tracing::error!("{key} has ended: replace it and run `systemctl reload callbox`"),
    }
}
