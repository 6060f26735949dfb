//! Trunks as this room sees them. They are configured, so the configuration and this room share their types.

pub use crate::base::trunk::{CallerId, Codec, Encryption, Host, Network, Protocol, Trunk, TrunkName, Trunks};
