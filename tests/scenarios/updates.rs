//! Model packs as signed archives: what `callbox models` does with a good one, and with one that does not work.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{Daemon, Engine, Setup, executable};
use tempfile::TempDir;
use tokio::process::Command;

/// Two engines are loaded and talk to themselves, on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// Runs a program; what it said, and how it ended.
async fn run(command: &mut Command) -> anyhow::Result<Output> {
    let ran = tokio::time::timeout(LIMIT, command.kill_on_drop(true).output()).await;
    ran.with_context(|| format!("{command:?} did not end"))?.with_context(|| format!("{command:?}: run `make setup`"))
}

/// Signs a file with a key of this test.
async fn sign(dir: &Path, file: &Path) -> anyhow::Result<()> {
    let (secret, public) = (dir.join("test.key"), dir.join("test.pub"));
    if !secret.exists() {
        let made = run(Command::new("minisign").args(["-G", "-W", "-s"]).arg(&secret).arg("-p").arg(&public)).await?;
        ensure!(made.status.success(), "{made:?}");
    }
    let signed = run(Command::new("minisign").args(["-S", "-s"]).arg(&secret).arg("-m").arg(file)).await?;
    ensure!(signed.status.success(), "{signed:?}");
    Ok(())
}

/// The archive once more, with one text of its manifest replaced by another.
fn remade(archive: &Path, to: &Path, changes: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut old = tar::Archive::new(zstd::Decoder::new(fs::File::open(archive)?)?);
    let mut new = tar::Builder::new(zstd::Encoder::new(fs::File::create(to)?, 1)?);
    for entry in old.entries()? {
        let mut entry = entry?;
        let mut header = entry.header().clone();
        let name = entry.path()?.into_owned();
        if name == Path::new("pack.toml") {
            let mut text = std::io::read_to_string(&mut entry)?;
            for (from, to) in changes {
                ensure!(text.contains(from), "{from:?} is not in {text}");
                text = text.replace(from, to);
            }
            header.set_size(text.len() as u64);
            new.append_data(&mut header, name, text.as_bytes())?;
        } else {
            new.append_data(&mut header, name, entry)?;
        }
    }
    new.into_inner()?.finish()?;
    Ok(())
}

#[tokio::test]
async fn a_pack_counts_once_it_has_answered_and_one_that_does_not_answer_changes_nothing() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let dir = dir.path();
    let (config, ..) = Daemon::configure(&Setup::new(Engine::Pack("tiny")), dir)?;
    let installed = dir.join("models");
    let models = |arguments: &[&str]| {
        let mut command = Command::new(executable("callbox")?);
        command.arg("models").args(arguments).current_dir(dir).env("CALLBOX_CONFIG", &config);
        anyhow::Ok(command)
    };
    let install = |archive: &str| {
        let mut command = models(&["install", archive, "--key", "test.pub", "--dir"])?;
        command.arg(&installed);
        anyhow::Ok(command)
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let last = |output: &Output| said(output).lines().last().unwrap_or_default().to_owned();

    let pulled = fs::read_to_string(&config)?.parse::<toml::Table>()?["models"]["dir"].to_string();
    let mut pack = models(&["pack", "tiny", "1.0.0", "--dir", pulled.trim_matches('"')])?;
    let packed = run(&mut pack).await?;
    ensure!(packed.status.success(), "{}", said(&packed));
    let good = dir.join("callbox-tiny-1.0.0.tar.zst");
    sign(dir, &good).await?;
    // Another language model than it says: it answers, and not what it should.
    let wrong = dir.join("callbox-tiny-1.1.0.tar.zst");
    remade(&good, &wrong, &[("version = \"1.0.0\"", "version = \"1.1.0\""), ("\"Paris\"", "\"Berlin\"")])?;
    sign(dir, &wrong).await?;

    let unsigned = dir.join("unsigned.tar.zst");
    fs::copy(&good, &unsigned)?;
    let refused = run(&mut install("unsigned.tar.zst")?).await?;
    ensure!(
        last(&refused).ends_with("unsigned.tar.zst.minisig is missing: copy it to where the file is"),
        "{refused:?}"
    );
    ensure!(!installed.exists(), "something was unpacked before the signature was looked at");

    let done = run(&mut install("callbox-tiny-1.0.0.tar.zst")?).await?;
    ensure!(done.status.success(), "{}", said(&done));
    let refused = run(&mut install("callbox-tiny-1.1.0.tar.zst")?).await?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    let reason = last(&refused);
    ensure!(reason.contains("did not pass its self-test, and what was in use still is: to \"What is"), "{reason}");
    ensure!(reason.ends_with("Berlin should be in it"), "{reason}");
    let names = |folder: &Path| -> anyhow::Result<Vec<_>> {
        let mut names: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        Ok(names)
    };
    ensure!(names(&installed.join("packs/tiny"))? == ["1.0.0", "current"], "something of it is left");

    let mut verify = models(&["verify", "tiny", "--dir"])?;
    let verified = run(verify.arg(&installed)).await?;
    ensure!(verified.status.success(), "{verified:?}");
    let mut back = models(&["rollback", "tiny", "--dir"])?;
    let none = run(back.arg(&installed)).await?;
    ensure!(last(&none) == "callbox: there is no earlier version of pack tiny here", "{none:?}");
    Ok(())
}
