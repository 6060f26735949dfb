//! Descriptors that the service manager handed to this process: sockets that it opened, and what an earlier daemon gave
//! it to keep. Enters: the environment of a process that has just begun. Leaves: descriptors, by name, each once.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};

/// Taking them again would give a descriptor two owners.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What the manager's environment must be, and was not.
#[derive(Debug, thiserror::Error)]
#[error("LISTEN_FDS or LISTEN_PID is malformed; start callboxd by its unit, or unset both")]
pub struct InheritedError;

/// Descriptors by name. What nobody takes is closed when this is dropped.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(String, OwnedFd)>);

impl Inherited {
    /// Takes all of `$LISTEN_FDS`. Must come before anything else of the process opens a descriptor; a second call gives
    /// none.
    ///
    /// # Errors
    /// If the environment makes no sense.
    pub fn take() -> Result<Self, InheritedError> {
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Ok(Self::default());
        }
        let passed = sd_listen_fds::get().map_err(|_| InheritedError)?;
        let named = passed.into_iter().filter_map(|(name, descriptor)| {
            let descriptor = descriptor.into_std();
            // A descriptor that does not exist has no flags to set: the manager counted wrong.
            fcntl_setfd(&descriptor, FdFlags::CLOEXEC).ok()?;
            Some((name.unwrap_or_default(), descriptor))
        });
        Ok(Self(named.collect()))
    }

    /// Those of a name, in the manager's order.
    pub fn named(&mut self, name: &str) -> Vec<OwnedFd> {
        self.extract(|found| found == name).into_iter().map(|(_, descriptor)| descriptor).collect()
    }

    /// Those whose name begins like this, with their names.
    pub fn beginning(&mut self, prefix: &str) -> Vec<(String, OwnedFd)> {
        self.extract(|found| found.starts_with(prefix))
    }

    /// Names of those that nobody has taken.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    fn extract(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<(String, OwnedFd)> {
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(|(name, _)| wanted(name));
        self.0 = left;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_descriptor_is_taken_once_by_its_name() {
        let open = || OwnedFd::from(std::fs::File::open("/dev/null").expect("it is always there"));
        let names = ["sip", "call-1-rtp", "sip", "call-1-state", ""];
        let mut inherited = Inherited(names.into_iter().map(|name| (name.to_owned(), open())).collect());
        assert_eq!(inherited.named("sip").len(), 2);
        assert_eq!(inherited.named("sip").len(), 0);
        let calls = inherited.beginning("call-");
        assert_eq!(calls.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["call-1-rtp", "call-1-state"]);
        assert_eq!(inherited.names().collect::<Vec<_>>(), [""]);
    }
}
