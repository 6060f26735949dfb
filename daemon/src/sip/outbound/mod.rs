//! Our side as a client of trunks: where their servers are, whether they answer, registrations, and calls out. Enters:
//! the configured trunks, wishes to call; leaves: REGISTER, OPTIONS, INVITE, and the state of every trunk. What never
//! happens here: a password in a log line, a call that hangs on one dead server while another would answer.

mod dial;
mod dns;
mod line;
pub mod locate;
pub mod registration;

use crate::base::trunk::Protocol;
use crate::sip::transaction::Transport;

pub use dial::{Dialling, Order, Undialled};
pub use dns::Dns;
pub use line::{HostReport, Lines, TrunkReport};

impl From<Protocol> for Transport {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Udp => Self::Udp,
            Protocol::Tcp => Self::Tcp,
            Protocol::Tls => Self::Tls,
        }
    }
}
