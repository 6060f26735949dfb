//! Which packages go together. Daemon and engine speak one version of a protocol: what is installed of both is replaced at
//! once, and comes back at once. Enters: what is installed, what was given; leaves: what to install, or one sentence.

use anyhow::{Result, bail, ensure};

use super::NAME;
use super::package::Package;

/// Of the packages that were given, those to install, in the order of what is installed. The others are left out: a package
/// that is not installed yet is not brought in by an upgrade.
pub(super) fn fit(installed: &[Package], given: &[Package]) -> Result<Vec<usize>> {
    let [first, ..] = given else { bail!("no package was given") };
    for (at, package) in given.iter().enumerate() {
        let again = given[..at].iter().any(|other| other.name == package.name);
        ensure!(!again, "{} was given more than once: give one of them", package.name);
    }
    if let Some(other) = given.iter().find(|other| other.version != first.version) {
        bail!(
            "{} {} and {} {} are not of one version, and must be: they speak one protocol",
            first.name,
            first.version,
            other.name,
            other.version
        );
    }
    let find = |package: &Package| match given.iter().position(|given| given.name == package.name) {
        Some(at) => Ok(at),
        None if package.name == NAME => {
            bail!("{} goes with {NAME}: give the package {NAME} {}, too", first.name, first.version)
        }
        None => bail!(
            "{} {} is installed here, and must be of {NAME}'s version: give its package {}, too",
            package.name,
            package.version,
            first.version
        ),
    };
    installed.iter().map(find).collect()
}

/// As people are told of them.
pub(super) fn shown(packages: &[Package]) -> String {
    let [first, others @ ..] = packages else { return NAME.to_owned() };
    let of = |package: &Package| {
        let version = Some(format!(" {}", package.version)).filter(|_| package.version != first.version);
        format!(" with {}{}", package.name, version.unwrap_or_default())
    };
    format!("{} {}{}", first.name, first.version, others.iter().map(of).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUDA: &str = "callbox-engine-cuda";

    fn of(packages: &[(&str, &str)]) -> Vec<Package> {
        packages
            .iter()
            .map(|(name, version)| Package::parse(&format!("{name} {version} amd64")).expect("one"))
            .collect()
    }

    #[test]
    fn daemon_and_engine_go_together_or_not_at_all() {
        let (one, both) = (of(&[(NAME, "1-1")]), of(&[(NAME, "1-1"), (CUDA, "1-1")]));
        let fits =
            |installed: &[Package], given: &[(&str, &str)]| fit(installed, &of(given)).map_err(|e| e.to_string());
        assert_eq!(fits(&one, &[(NAME, "2-1")]), Ok(vec![0]));
        assert_eq!(fits(&both, &[(CUDA, "2-1"), (NAME, "2-1")]), Ok(vec![1, 0]));
        assert_eq!(fits(&one, &[(CUDA, "2-1"), (NAME, "2-1")]), Ok(vec![1]), "not brought in");
        for (installed, given, why) in [
            (
                &both,
                &[(NAME, "2-1")][..],
                "callbox-engine-cuda 1-1 is installed here, and must be of callbox's version",
            ),
            (&both, &[(CUDA, "2-1")], "callbox-engine-cuda goes with callbox: give the package callbox 2-1, too"),
            (&both, &[(NAME, "2-1"), (CUDA, "3-1")], "callbox 2-1 and callbox-engine-cuda 3-1 are not of one version"),
            (&one, &[(NAME, "2-1"), (NAME, "3-1")], "callbox was given more than once"),
            (&one, &[], "no package"),
        ] {
            let refused = fits(installed, given).expect_err(why);
            assert!(refused.contains(why), "{refused}");
        }
        assert_eq!(shown(&both), "callbox 1-1 with callbox-engine-cuda");
        assert_eq!(shown(&of(&[(NAME, "1-1"), (CUDA, "0-1")])), "callbox 1-1 with callbox-engine-cuda 0-1");
    }
}
