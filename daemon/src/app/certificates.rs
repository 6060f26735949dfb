//! Certificates of SIP over TLS: from the configuration into the endpoint, and again at each reload. Enters: files;
//! leaves: what handshakes need, and a warning before our own certificate ends. Never here: a connection.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::base::{Clock as _, SystemClock};
use crate::config::{ClientCertificates, Config};
use crate::sip::{self, Endpoint, Tls, TlsError, TlsFiles};

/// How long before its end a certificate is warned about: whoever renews by hand needs a week, whoever has it renewed by
/// a program does so a month before.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// How often it is looked at.
const DAILY: Duration = Duration::from_secs(24 * 3600);

/// Reads the files that the configuration names.
///
/// # Errors
/// One sentence about the file that is wrong.
pub fn read(config: &Config) -> Result<Tls, TlsError> {
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
    warn(&tls);
    let renewed = endpoint.certificates().is_some_and(|before| !before.is_same(&tls));
    endpoint.certify(tls);
    if renewed {
        tracing::info!("new TLS connections get another certificate; those that are open stay");
    }
}

/// Says every day that the certificate ends, once it soon does.
pub(super) async fn watch(endpoint: Endpoint) {
    let mut every = interval(DAILY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Some(tls) = endpoint.certificates() {
            warn(&tls);
        }
    }
}

fn warn(tls: &Tls) {
    let Some(expires) = tls.expires() else { return };
    match expires.duration_since(SystemClock.wall()) {
        Ok(left) if left >= SOON => {}
        Ok(left) => {
            let days = left.as_secs() / DAILY.as_secs();
            tracing::warn!(days, "sip.certificate ends soon; replace it and run `systemctl reload callbox`");
        }
        Err(_) => tracing::error!("sip.certificate has ended: replace it and run `systemctl reload callbox`"),
    }
}
