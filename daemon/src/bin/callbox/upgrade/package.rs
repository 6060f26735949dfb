//! The package managers. Enters: a package file; leaves: what it holds, what is installed, and one of them installed in the
//! place of the other. They are started as programs and asked no question.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::Command;

use super::NAME;
use crate::owner;

/// Installing waits for another package manager that is at work.
const INSTALL: Duration = Duration::from_secs(1200);

const ASK: Duration = Duration::from_secs(60);

/// Which family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// Debian's.
    Deb,
    /// That of Red Hat, SUSE and others.
    Rpm,
}

/// What a package says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    architecture: String,
}

impl Package {
    /// Of three words; they become parts of a file name.
    fn parse(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let &[name, version, architecture] = words.as_slice() else { bail!("it has no name and version") };
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-+~_".contains(c);
        let is_plain = |word: &&str| word.chars().all(plain) && word.starts_with(|c: char| c.is_ascii_alphanumeric());
        ensure!(words.iter().all(is_plain), "it has a strange name or version: {text:?}");
        Ok(Self { name: name.to_owned(), version: version.to_owned(), architecture: architecture.to_owned() })
    }
}

impl Format {
    /// By the ending of its name.
    pub(super) fn of(file: &Path) -> Result<Self> {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("deb") => Ok(Self::Deb),
            Some("rpm") => Ok(Self::Rpm),
            _ => bail!("{} is neither a .deb nor a .rpm", file.display()),
        }
    }

    /// As the managers themselves call it.
    pub(super) fn file_name(self, package: &Package) -> String {
        let Package { name, version, architecture } = package;
        match self {
            Self::Deb => format!("{name}_{version}_{architecture}.deb"),
            Self::Rpm => format!("{name}-{version}.{architecture}.rpm"),
        }
    }

    /// What is in a file.
    pub(super) async fn read(self, file: &Path) -> Result<Package> {
        let mut command;
        match self {
            Self::Deb => {
                command = Command::new("dpkg-deb");
                command.args(["--show", "--showformat=${Package} ${Version} ${Architecture}"]);
            }
            Self::Rpm => {
                command = Command::new("rpm");
                command.args(["-qp", "--nosignature", "--queryformat=%{NAME} %{VERSION}-%{RELEASE} %{ARCH}"]);
            }
        }
        command.arg(file);
        Package::parse(&owner::succeeds(command, ASK).await?)
    }

    /// What is in use.
    pub(super) async fn installed(self) -> Result<Package> {
        let mut command;
        match self {
            Self::Deb => {
                command = Command::new("dpkg-query");
                command.args(["--show", "--showformat=${Package} ${Version} ${Architecture}", NAME]);
            }
            Self::Rpm => {
                command = Command::new("rpm");
                command.args(["-q", "--queryformat=%{NAME} %{VERSION}-%{RELEASE} %{ARCH}", NAME]);
            }
        }
        let told = owner::succeeds(command, ASK).await;
        let kind = if self == Self::Deb { "a .deb" } else { "a .rpm" };
        told.and_then(|text| Package::parse(&text))
            .with_context(|| format!("{NAME} was not installed here from {kind}"))
    }

    /// Installs a file; with `back`, also in the place of a later version.
    pub(super) async fn install(self, file: &Path, back: bool) -> Result<()> {
        let mut command;
        match self {
            Self::Deb => {
                command = Command::new("apt-get");
                command.env("DEBIAN_FRONTEND", "noninteractive");
                // The folder is root's alone; what the owner has changed stays as it is; another apt is waited for.
                for option in ["APT::Sandbox::User=root", "Dpkg::Options::=--force-confold", "DPkg::Lock::Timeout=120"]
                {
                    command.args(["-o", option]);
                }
                command.args(["-qq", "-y", "install"]);
                if back {
                    command.arg("--allow-downgrades");
                }
            }
            Self::Rpm => {
                command = Command::new("rpm");
                command.args(["-U", "--nosignature"]);
                if back {
                    command.arg("--oldpackage");
                }
            }
        }
        // The maintainer script leaves the restart to us: it would wait as long as systemd tries.
        command.arg(file).env("CALLBOX_UPGRADE", "1");
        owner::succeeds(command, INSTALL).await.map(drop)
    }

    /// The package of what is in use, from where the package manager has it: its cache, or its signed repositories.
    pub(super) async fn fetch_installed(self, now: &Package, folder: &Path) -> Result<PathBuf> {
        let target = folder.join(self.file_name(now));
        let mut command;
        match self {
            Self::Deb => {
                let cached = Path::new("/var/cache/apt/archives").join(self.file_name(now));
                if cached.exists() {
                    std::fs::copy(&cached, &target).with_context(|| format!("{} cannot be kept", cached.display()))?;
                    return Ok(target);
                }
                let wanted = format!("cd \"$0\" && apt-get -qq -o APT::Sandbox::User=root download {NAME}=\"$1\"");
                command = Command::new("sh");
                command.arg("-c").arg(wanted).arg(folder).arg(&now.version);
            }
            Self::Rpm => {
                command = Command::new("dnf");
                command.args(["-q", "-y", "reinstall", "--downloadonly", "--downloaddir"]).arg(folder).arg(NAME);
            }
        }
        owner::succeeds(command, INSTALL).await?;
        ensure!(target.exists(), "the package manager did not bring {}", target.display());
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_package_calls_itself_is_safe_to_use_as_a_file_name() {
        let package = Package::parse("callbox 0.1.0-1 amd64").expect("a package");
        assert_eq!(Format::Deb.file_name(&package), "callbox_0.1.0-1_amd64.deb");
        assert_eq!(Format::Rpm.file_name(&package), "callbox-0.1.0-1.amd64.rpm");
        for text in ["callbox 1", "callbox ../1 amd64", "callbox -1 amd64", "callbox 1 a/b", ""] {
            assert!(Package::parse(text).is_err(), "{text}");
        }
    }
}
