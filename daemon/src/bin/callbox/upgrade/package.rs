//! The package managers. Enters: package files; leaves: what they hold, what is installed, and those installed in the place of
//! these. They are started as programs and asked no question.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::Command;

use super::{NAME, NAMES};
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
    pub(super) fn parse(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let &[name, version, architecture] = words.as_slice() else { bail!("it has no name and version") };
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-+~_".contains(c);
        let is_plain = |word: &&str| word.chars().all(plain) && word.starts_with(|c: char| c.is_ascii_alphanumeric());
        ensure!(words.iter().all(is_plain), "it has a strange name or version: {text:?}");
        Ok(Self { name: name.to_owned(), version: version.to_owned(), architecture: architecture.to_owned() })
    }

    /// The same of another version.
    pub(super) fn of_version(&self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self.clone() }
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

    /// That of the machine.
    pub(super) async fn of_this_machine() -> Self {
        if Self::Deb.installed().await.is_ok() { Self::Deb } else { Self::Rpm }
    }

    /// The packages of ours in a folder, as far as their names say.
    pub(super) fn found_in(self, folder: &Path) -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
        let own = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Self::of(path).is_ok_and(|format| format == self) && name.starts_with(NAME)
        };
        let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(own).collect();
        found.sort_unstable();
        ensure!(!found.is_empty(), "there is no package of {NAME} for this machine in {}", folder.display());
        Ok(found)
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

    /// What is in use, the daemon's package first.
    pub(super) async fn installed(self) -> Result<Vec<Package>> {
        let mut command;
        match self {
            Self::Deb => {
                command = Command::new("dpkg-query");
                let format = "--showformat=${db:Status-Status} ${Package} ${Version} ${Architecture}\n";
                command.args(["--show", format, "callbox*"]);
            }
            Self::Rpm => {
                command = Command::new("rpm");
                let format = "--queryformat=installed %{NAME} %{VERSION}-%{RELEASE} %{ARCH}\n";
                command.args(["-qa", format, "callbox*"]);
            }
        }
        let told = owner::succeeds(command, ASK).await.unwrap_or_default();
        // What was removed and has left its settings is not in use.
        let told: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
        let own = |name: &&str| told.iter().find(|line| line.split_whitespace().next() == Some(name));
        let found: Vec<Package> =
            NAMES.iter().filter_map(own).map(|line| Package::parse(line)).collect::<Result<_>>()?;
        let kind = if self == Self::Deb { "a .deb" } else { "a .rpm" };
        ensure!(found.first().is_some_and(|package| package.name == NAME), "{NAME} was not installed here from {kind}");
        Ok(found)
    }

    /// Installs files, all of them at once; with `back`, also in the place of a later version.
    pub(super) async fn install(self, files: &[PathBuf], back: bool) -> Result<()> {
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
        command.args(files).env("CALLBOX_UPGRADE", "1");
        owner::succeeds(command, INSTALL).await.map(drop)
    }

    /// The package of something in use, from where the package manager has it: its cache, or its signed repositories.
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
                let wanted = "cd \"$0\" && apt-get -qq -o APT::Sandbox::User=root download \"$1\"";
                command = Command::new("sh");
                command.arg("-c").arg(wanted).arg(folder).arg(format!("{}={}", now.name, now.version));
            }
            Self::Rpm => {
                command = Command::new("dnf");
                command.args(["-q", "-y", "reinstall", "--downloadonly", "--downloaddir"]).arg(folder).arg(&now.name);
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
